"""Weight-only quantization of language models: perplexity on held-out text, bytes with scales, seconds.

    python benchmarks/language.py [stories260k] [char_transformer] [--bits 4 3 2] [--how gptq "gptq, tuned"]

Run it from the repository's root; it needs LACONIC_DATA. The embedding, which is the output layer too, keeps 8 bits; every other weight
takes the bits named, asymmetric, per channel; in char_transformer also in groups of 32. Perplexity is that of the packed file, read back.

stories260k is calibrated on the first half of its sample (7 windows of 128 tokens) or on windows that it writes itself (Z. Liu et al.,
"LLM-QAT: Data-Free Quantization Aware Training for Large Language Models", Findings of ACL 2024, section 3.1), and scored on the other
half. It writes 1024, of which rounding looks at 128 where nothing is tuned, and at all of them where something is. Seconds are those of
the processor, one thread, the writing included.
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
from itertools import product
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
MODELS = {
    "stories260k": (DATA / "stories260k/stories260K.bin", "stories260k", "tokens"),
    "char_transformer": (Path("records/tinyshakespeare-char/char_transformer.safetensors"), "tinyshakespeare", "characters"),
}
START, WINDOWS, WRITTEN = 1, 128, 1024
KINDS: dict[str, dict[str, Any]] = {"channel": {}, "groups of 32": {"granularity": "group", "group_size": 32}}
HOW: dict[str, dict[str, Any]] = {
    "nearest": {},
    "activation-aware": {"activation_aware": True},
    "gptq": {"rounding": "gptq"},
    "activation-aware, gptq": {"activation_aware": True, "rounding": "gptq"},
    "gptq, tuned": {"rounding": "gptq", "tuning_epochs": 4},
    "activation-aware, gptq, tuned": {"activation_aware": True, "rounding": "gptq", "tuning_epochs": 4},
}


def written(model: Any, windows: int, length: int) -> Any:
    """Return windows of tokens that a Llama draws from its own predictions, each after the token that marks a start.

    What its attention has read stays, so that each token is computed once.
    """
    import torch
    from torch.nn.functional import linear, scaled_dot_product_attention, silu

    from laconic.data import Split
    from laconic.zoo.llama import angles, rotated

    tokens, generator = torch.full((windows, 1), START), torch.Generator().manual_seed(0)
    seen: list[list[Any]] = [[] for _ in model.blocks]
    with torch.no_grad():
        for position in range(length):
            hidden = model.tokens(tokens[:, -1:])
            for block, before in zip(model.blocks, seen, strict=True):
                attention, normed = block.attention, block.norm1(hidden)
                turn = [each[position:] for each in angles(position + 1, attention.size)]
                parts = (attention.query, attention.key, attention.value)
                query, key, value = (each(normed).unflatten(-1, (-1, attention.size)).transpose(1, 2) for each in parts)
                fresh = rotated(key, *turn), value
                before[:] = [torch.cat(both, 2) for both in zip(before, fresh, strict=True)] if before else fresh
                mixed = scaled_dot_product_attention(rotated(query, *turn), *before, enable_gqa=True)
                hidden = hidden + attention.out(mixed.transpose(1, 2).flatten(2))
                normed = block.norm2(hidden)
                hidden = hidden + block.down(silu(block.gate(normed)) * block.up(normed))
            chances = linear(model.norm(hidden), model.tokens.weight)[:, -1].softmax(-1)
            tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], 1)
    drawn = tokens.numpy()
    return Split(drawn[:, :-1], drawn[:, 1:])


def calibrations(name: str, model: Any, splits: Any) -> Iterator[tuple[str, Any, float]]:
    """Yield what a network is calibrated on, in words and as splits, and the seconds that it took to write."""
    yield "text", splits, 0.0
    if name == "stories260k":
        start = time.process_time()
        drawn = written(model, WRITTEN, splits.test.inputs.shape[1])
        yield "its own", replace(splits, calibration=drawn), time.process_time() - start


def quantize(program: Any, splits: Any, width: int, embedding: str, settings: dict[str, Any]) -> Any:
    """Return the program with the embedding in 8 bits and every other weight in `width`."""
    from laconic.context import Context
    from laconic.program import clone
    from laconic.quantize import WeightOnly

    found, context = clone(program), Context(splits)
    WeightOnly(format="int8", include=(embedding,))(found, context)
    return WeightOnly(format=f"int{width}", exclude=(embedding,), symmetric=False, **settings)(found, context)


def perplexity(program: Any, split: Any) -> float:
    """Return the perplexity of the program's packed file on a split."""
    from laconic.program import load, save
    from laconic.train import log_likelihood

    with tempfile.TemporaryDirectory() as folder:
        save(program, Path(folder) / "program.safetensors", pack=True)
        return math.exp(-log_likelihood(load(Path(folder) / "program.safetensors"), split))


def rows(name: str, bits: list[int], how: list[str]) -> Iterator[tuple[Any, ...]]:
    """Yield bits, granularity, rounding and calibration, perplexity, its increase in percent, bytes and seconds."""
    from laconic import data, zoo
    from laconic.context import Context
    from laconic.program import capture
    from laconic.program.pack import packed_bytes

    weights, data_name, embedding = MODELS[name]
    model, splits = zoo.load(f"zoo:{name}", weights), data.split(data.load(data_name), calibration=WINDOWS)
    program = capture(model, Context(splits).example())
    float_perplexity = perplexity(program, splits.test)
    yield "float", "", "", float_perplexity, 0.0, packed_bytes(program), 0.0
    for words, calibrated, writing in calibrations(name, model, splits):
        for width, kind, way in product(bits, KINDS, how):
            unlike = kind != "channel" and name == "stories260k"  # its 172 inputs have no such groups
            if unlike or (way == "nearest" and words != "text"):
                continue
            start = time.process_time()
            few = replace(calibrated, calibration=calibrated.calibration.take(slice(0, WINDOWS)))
            chosen = calibrated if "tuning_epochs" in HOW[way] else few
            found = quantize(program, chosen, width, embedding, HOW[way] | KINDS[kind])
            seconds, reached = time.process_time() - start + writing * (way != "nearest"), perplexity(found, splits.test)
            told = way if way == "nearest" else f"{way}, {words}"
            yield width, kind, told, reached, 100 * (reached / float_perplexity - 1), packed_bytes(found), seconds


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3, 2])
    parser.add_argument("--how", nargs="+", choices=list(HOW), default=list(HOW))
    arguments = parser.parse_args()
    for name in arguments.networks:
        print(f"\n{name}\n\n| bits | scales | rounding | perplexity | increase | bytes | seconds |\n|---|---|---|---|---|---|---|")
        for width, kind, how, reached, increase, size, seconds in rows(name, arguments.bits, arguments.how):
            print(f"| {width} | {kind} | {how} | {reached:.3f} | {increase:+.1f} % | {size:,} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
