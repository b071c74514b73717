"""The commands `pack` and `unpack`: a network or bare tensors to one small `.lac` file, and back."""

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.job import Job
    from laconic.pack.file import Packed
    from laconic.pack.programs import Arrays

_Source = Annotated[Path, typer.Argument(help="A [bold].safetensors[/] file: a program that laconic saved, or bare tensors.")]
_Lac = Annotated[Path, typer.Argument(help="A [bold].lac[/] file.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, for machines.")]


def pack(
    source: _Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .lac file to write.")],
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Keep every bit; zeros and repeated values are found by themselves.")
    ] = False,
    bits_per_weight: Annotated[
        float | None,
        typer.Option(help="What the whole file may take for each weight, in bits; the error of the weights is the least for it."),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Accuracy that may be lost, in percentage points: the smallest file for it. Needs --data.")
    ] = None,
    states: Annotated[int, typer.Option(help="Of the trellis: 0 (none), 4, 8, 16, 32, 64, 128 or 256. More is slower and smaller.")] = 8,
    fast: Annotated[
        bool, typer.Option("--fast", help="Code large tensors for speed: read many times as fast, in about a hundredth more bytes.")
    ] = False,
    network: Annotated[
        str | None,
        typer.Option(
            help="Name an architecture, [bold]zoo:lenet5[/], in the file in place of the network's graph: some hundred bytes less."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="What bare tensors are the weights of, as --model elsewhere; needs --data.")] = None,
    data: Annotated[str | None, typer.Option(help="The data, as elsewhere; its validation part chooses, its test part is told.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data sets; else $LACONIC_DATA, else ./data.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the validation cut.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime while accuracy is measured.")] = 1,
    as_json: _Json = False,
) -> None:
    """Write a network, or bare tensors, as one small .lac file: to the bit, at a rate, or within a loss of accuracy.

    For bytes alone: nothing runs faster for it. Every tensor is told with its bits, its error and its distance from the bounds of theory.
    Without numba, which the extra [italic]coding[/] brings, it takes a hundred times as long.

    [bold]Example[/]: laconic pack runs/r20/program.safetensors -o r20.lac --max-drop 0.5 --data cifar10-jpeg
    """
    from laconic.files import write_bytes
    from laconic.job import Origin, prepare
    from laconic.pack.file import pack_at_rate, pack_exactly
    from laconic.pack.tensors import holds_program
    from laconic.store import writable

    _check(out, lossless, bits_per_weight, max_drop, states)
    if (max_drop is not None or model is not None) and data is None:
        raise LaconicError(f"{'--model' if max_drop is None else '--max-drop'} needs --data")
    if model is not None and holds_program(source):
        raise LaconicError(f"{source} is a program: it needs no --model")
    if max_drop is not None and model is None and not holds_program(source):
        raise LaconicError(f"{source} holds tensors alone: --max-drop needs the --model whose weights they are")
    writable(out.absolute().parent)
    job = None
    if max_drop is not None or model is not None:
        assert data is not None
        origin = Origin(model or str(source), data, source if model is not None else None, data_root, seed)
        job = prepare(origin, threads)
    arrays, about = _taken(source, network, job)
    told: dict[str, Any] = {}
    if lossless:
        packed = pack_exactly(arrays.arrays, about, arrays.weights, fast)
    elif bits_per_weight is not None:
        packed = pack_at_rate(arrays.arrays, about, bits_per_weight, states, arrays.weights, arrays.exact, fast)
    else:
        assert job is not None
        assert max_drop is not None
        packed, told = _within(arrays, about, max_drop, job, states, fast)
    write_bytes(out, packed.data)
    _tell(packed, out, source, told, as_json)


def _check(out: Path, lossless: bool, bits_per_weight: float | None, max_drop: float | None, states: int) -> None:
    """Find options that make no sense."""
    from laconic.pack.reader import TRELLISES

    if lossless + (bits_per_weight is not None) + (max_drop is not None) != 1:
        raise LaconicError("say how: --lossless, --bits-per-weight B, or --max-drop P")
    if bits_per_weight is not None and not 0 < bits_per_weight <= 32:
        raise LaconicError(f"--bits-per-weight must be above 0 and at most 32; got {bits_per_weight:g}")
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise LaconicError(f"--max-drop is in percentage points, from 0 to 100; got {max_drop:g}")
    if states not in (0, *TRELLISES):
        raise LaconicError(f"--states must be 0 or one of {', '.join(map(str, TRELLISES))}; got {states}")
    if out.suffix != ".lac":
        raise LaconicError(f"--out must be a .lac file; got {out}")


def _taken(source: Path, network: str | None, job: "Job | None") -> "tuple[Arrays, dict[str, Any]]":
    """Return the arrays of what is to be packed, and what the header says beside them."""
    from laconic.pack.file import is_weight
    from laconic.pack.network import NETWORK, named_arrays, of_zoo
    from laconic.pack.programs import Arrays, arrays_of
    from laconic.pack.tensors import holds_program, read_arrays
    from laconic.program import load

    if job is not None or holds_program(source):
        program = job.program if job is not None else load(source)
        return (named_arrays(program, network), {NETWORK: network}) if network else (arrays_of(program), {})
    if network:
        return named_arrays(of_zoo(network, source), network), {NETWORK: network}
    arrays, about = read_arrays(source)
    return Arrays(arrays, frozenset(name for name, array in arrays.items() if is_weight(array)), frozenset()), about


def _within(
    arrays: "Arrays", about: dict[str, Any], max_drop: float, job: "Job", states: int, fast: bool
) -> "tuple[Packed, dict[str, Any]]":
    """Return the smallest file for a loss of accuracy on the validation split, and what it loses there and on the test split."""
    from laconic.pack.file import pack_exactly
    from laconic.search.packing import accuracy, pack_within

    kept = pack_within(arrays, about, max_drop, job.splits.validation, job.threads, states, _say, fast)
    whole = pack_exactly(arrays.arrays, about, arrays.weights)
    before, after = (accuracy(packed, job.splits.test, job.threads) for packed in (whole, kept.packed))
    told = {"accuracy_before": before, "accuracy": after, "drop_points": 100 * (before - after)}
    return kept.packed, {**told, "validation_drop_points": 100 * (kept.before - kept.after), "max_drop": max_drop}


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _tell(packed: "Packed", out: Path, source: Path, told: dict[str, Any], as_json: bool) -> None:
    """Print what was written."""
    from laconic.pack.file import lines

    if as_json:
        rows = [{"name": row.name, "form": row.form, "entries": row.entries, "bytes": row.bytes, "bits": row.bits} for row in packed.rows]
        for row, each in zip(rows, packed.rows, strict=True):
            row |= vars(each.quality) if each.quality else {}
        result = {"file": str(out), "file_bytes": len(packed.data), "bits_per_weight": packed.bits_per_weight, **told, "tensors": rows}
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    for line in lines(packed):
        sys.stdout.write(f"{line}\n")
    share = f"{source.stat().st_size / len(packed.data):.2f} times smaller than {source.name}"
    sys.stdout.write(f"{out}: {len(packed.data):,} bytes, {packed.bits_per_weight:.3f} bits per weight, {share}\n")
    if told:
        lost = f"{told['drop_points']:+.2f} points lost ({told['validation_drop_points']:+.2f} on the validation split, which chose)"
        sys.stdout.write(f"accuracy on the test split: {told['accuracy_before']:.2%} before, {told['accuracy']:.2%} after, {lost}\n")


def unpack(
    packed: _Lac,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; its suffix goes with --to.")],
    to: Annotated[
        Literal["safetensors", "onnx", "pt2"] | None,
        typer.Option("--to", help="A program or bare tensors, or the network for ONNX Runtime or torch; default: as --out says."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most memory that its tensors may take, in bytes.")] = 1 << 31,
    as_json: _Json = False,
) -> None:
    """Write the network of a .lac file as a program, for ONNX Runtime or for torch; a file of bare tensors as .safetensors."""
    from laconic.pack.network import NETWORK, program_in
    from laconic.pack.programs import PROGRAM
    from laconic.pack.tensors import read_lac, write_arrays
    from laconic.program import save
    from laconic.store import writable

    to = to or {".onnx": "onnx", ".pt2": "pt2"}.get(out.suffix, "safetensors")  # type: ignore[assignment]
    if out.suffix != f".{to}":
        raise LaconicError(f"--out must be a .{to} file; got {out}")
    writable(out.absolute().parent)
    about, arrays = read_lac(packed, limit)
    if PROGRAM not in arrays and NETWORK not in about:
        if to != "safetensors":
            raise LaconicError(f"{packed} holds tensors but no network; only --to safetensors can write them")
        write_arrays(out, arrays, about)
    else:
        try:
            program = program_in(about, arrays)
        except LaconicError as error:
            raise LaconicError(f"{packed}: {error}") from None
        if to == "safetensors":
            save(program, out, pack=True)
        else:
            _export(program, out, to)
    result = {"file": str(out), "file_bytes": out.stat().st_size, "tensors": len(arrays)}
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if as_json else f"{out}: {len(arrays)} tensors, {out.stat().st_size:,} bytes\n")


def _export(program: Any, out: Path, to: str | None) -> None:
    """Write a program for ONNX Runtime, or as torch's own exported program with dense weights."""
    import torch

    from laconic.files import write_bytes
    from laconic.program import example_of
    from laconic.runtimes import runtime
    from laconic.runtimes.lac import Network

    example = example_of(program)
    if to == "onnx":
        runtime("onnxruntime").export(program, example, out)
        return
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in example)
    content = io.BytesIO()
    torch.export.save(torch.export.export(Network(program).program, example, dynamic_shapes=shapes), content)
    write_bytes(out, content.getvalue())
