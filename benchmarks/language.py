"""Weight-only quantization of language models: perplexity on held-out text, bytes with scales, seconds.

    python benchmarks/language.py [stories260k] [char_transformer] [--bits 4 3 2]

Run it from the repository's root; it needs LACONIC_DATA. The embedding, which is the output layer too, keeps 8 bits; every other weight
takes the bits named, asymmetric, per channel; in char_transformer also in groups of 32. Perplexity is that of the packed file, read back.

stories260k is calibrated on the first half of its sample (7 windows of 128 tokens) or on 128 windows that it writes itself (Z. Liu et
al., "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models", Findings of ACL 2024, section 3.1), and scored on the
other half.
char_transformer is calibrated on 128 windows of 256 characters of its training text and scored on the last 10 % of the text. Its
weights are those that this command makes, in about 20 minutes on a core of its own:

    laconic train --model "zoo:char_transformer?dropout=0" --data "tinyshakespeare?stride=80" --epochs 2 --batch 6 --optimizer adamw
        --learning-rate 0.0015 --schedule cosine --warmup 0.05 --weight-decay 0.1 --clip 1 --out char.safetensors
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
MODELS = {
    "stories260k": (DATA / "stories260k/stories260K.bin", "stories260k", "tokens"),
    "char_transformer": (Path("records/tinyshakespeare-char/char_transformer.safetensors"), "tinyshakespeare", "characters"),
}
START, WINDOWS = 1, 128
KINDS: dict[str, dict[str, Any]] = {"channel": {}, "groups of 32": {"granularity": "group", "group_size": 32}}


def written(model: Any, windows: int, length: int) -> Any:
    """Return windows of tokens that a network draws from its own predictions, each after the token that marks a start."""
    import torch

    from laconic.data import Split

    tokens, generator = torch.full((windows, 1), START), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(length):
            chances = model(tokens)[:, -1].softmax(-1)
            tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], 1)
    drawn = tokens.numpy()
    return Split(drawn[:, :-1], drawn[:, 1:])


def calibrations(name: str, model: Any, splits: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a network is calibrated on, in words and as splits."""
    yield "text", splits
    if name == "stories260k":
        yield "its own", replace(splits, calibration=written(model, WINDOWS, splits.test.inputs.shape[1]))


def perplexity(program: Any, split: Any) -> float:
    """Return the perplexity of the program's packed file on a split."""
    from laconic.program import load, save
    from laconic.train import log_likelihood

    with tempfile.TemporaryDirectory() as folder:
        save(program, Path(folder) / "program.safetensors", pack=True)
        return math.exp(-log_likelihood(load(Path(folder) / "program.safetensors"), split))


def rows(name: str, bits: list[int]) -> Iterator[tuple[Any, ...]]:
    """Yield bits, granularity, rounding and calibration, perplexity, its increase in percent, bytes and seconds."""
    from laconic import data, zoo
    from laconic.context import Context
    from laconic.program import capture, clone
    from laconic.program.pack import packed_bytes
    from laconic.quantize import WeightOnly

    weights, data_name, embedding = MODELS[name]
    model, splits = zoo.load(f"zoo:{name}", weights), data.split(data.load(data_name), calibration=WINDOWS)
    program = capture(model, Context(splits).example())
    float_perplexity = perplexity(program, splits.test)
    yield "float", "", "", float_perplexity, 0.0, packed_bytes(program), 0.0
    for words, calibrated in calibrations(name, model, splits):
        context = Context(calibrated)
        for width in bits:
            for kind, granularity in list(KINDS.items())[: 1 if name == "stories260k" else None]:  # whose 172 inputs have no such groups
                for rounding in ("nearest", "gptq") if words == "text" else ("gptq",):
                    start, found = time.perf_counter(), clone(program)
                    WeightOnly(format="int8", include=(embedding,))(found, context)
                    settings: dict[str, Any] = {"format": f"int{width}", "rounding": rounding, **granularity}
                    WeightOnly(exclude=(embedding,), symmetric=False, **settings)(found, context)
                    seconds, reached = time.perf_counter() - start, perplexity(found, splits.test)
                    how = rounding if rounding == "nearest" else f"{rounding}, {words}"
                    yield width, kind, how, reached, 100 * (reached / float_perplexity - 1), packed_bytes(found), seconds


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3, 2])
    arguments = parser.parse_args()
    for name in arguments.networks:
        print(f"\n{name}\n\n| bits | scales | rounding | perplexity | increase | bytes | seconds |\n|---|---|---|---|---|---|---|")
        for width, kind, how, reached, increase, size, seconds in rows(name, arguments.bits):
            print(f"| {width} | {kind} | {how} | {reached:.3f} | {increase:+.1f} % | {size:,} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
