"""The commands `pack` and `unpack`: tensors to one small `.lac` file and back."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from laconic.errors import LaconicError

_Source = Annotated[Path, typer.Argument(help="A [bold].safetensors[/] file: tensors, or a program that laconic saved.")]
_Packed = Annotated[Path, typer.Argument(help="A [bold].lac[/] file.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, for machines.")]


def pack(
    model: _Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .lac file to write.")],
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Keep every bit; zeros and repeated values are found by themselves.")
    ] = False,
    bits_per_weight: Annotated[
        float | None,
        typer.Option(help="What the whole file may take for each weight, in bits; the error of the weights is the least for it."),
    ] = None,
    states: Annotated[int, typer.Option(help="Of the trellis: 0 (none), 4, 8, 16, 32, 64, 128 or 256. More is slower and smaller.")] = 8,
    as_json: _Json = False,
) -> None:
    """Write tensors as one small .lac file, to the bit or at a rate.

    For bytes alone: nothing runs faster for it. Every tensor is told with its bits, its error and its distance from the bounds of theory.
    Without numba, which the extra [italic]coding[/] brings, it takes a hundred times as long.

    [bold]Example[/]: laconic pack network.safetensors -o network.lac --bits-per-weight 2
    """
    from laconic.files import write_bytes
    from laconic.pack.file import lines, pack_at_rate, pack_exactly
    from laconic.pack.reader import TRELLISES
    from laconic.pack.tensors import read_arrays
    from laconic.store import writable

    if lossless == (bits_per_weight is not None):
        raise LaconicError("say how: --lossless, or --bits-per-weight B")
    if bits_per_weight is not None and not 0 < bits_per_weight <= 32:
        raise LaconicError(f"--bits-per-weight must be above 0 and at most 32; got {bits_per_weight:g}")
    if states not in (0, *TRELLISES):
        raise LaconicError(f"--states must be 0 or one of {', '.join(map(str, TRELLISES))}; got {states}")
    if out.suffix != ".lac":
        raise LaconicError(f"--out must be a .lac file; got {out}")
    writable(out.absolute().parent)
    arrays, about = read_arrays(model)
    packed = pack_exactly(arrays, about) if bits_per_weight is None else pack_at_rate(arrays, about, bits_per_weight, states)
    write_bytes(out, packed.data)
    before = model.stat().st_size
    if as_json:
        rows = [{"name": row.name, "form": row.form, "entries": row.entries, "bytes": row.bytes, "bits": row.bits} for row in packed.rows]
        for row, each in zip(rows, packed.rows, strict=True):
            row |= vars(each.quality) if each.quality else {}
        result = {"file": str(out), "file_bytes": len(packed.data), "bits_per_weight": packed.bits_per_weight, "tensors": rows}
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    for line in lines(packed):
        sys.stdout.write(f"{line}\n")
    share = f"{before / len(packed.data):.2f} times smaller than {model.name}"
    sys.stdout.write(f"{out}: {len(packed.data):,} bytes, {packed.bits_per_weight:.3f} bits per weight, {share}\n")


def unpack(
    packed: _Packed,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    to: Annotated[Literal["safetensors"], typer.Option("--to", help="What to write.")] = "safetensors",
    limit: Annotated[int, typer.Option(min=1, help="The most memory that its tensors may take, in bytes.")] = 1 << 31,
    as_json: _Json = False,
) -> None:
    """Write the tensors of a .lac file as .safetensors; what was packed from a saved program is one again."""
    from laconic.pack.tensors import read_lac, write_arrays
    from laconic.store import writable

    if out.suffix != f".{to}":
        raise LaconicError(f"--out must be a .{to} file; got {out}")
    writable(out.absolute().parent)
    about, arrays = read_lac(packed, limit)
    write_arrays(out, arrays, about)
    result = {"file": str(out), "file_bytes": out.stat().st_size, "tensors": len(arrays)}
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if as_json else f"{out}: {len(arrays)} tensors, {out.stat().st_size:,} bytes\n")
