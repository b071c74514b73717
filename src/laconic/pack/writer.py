"""Write `.lac` files: the header and the tensors, each in the form that is chosen for it, with the reader's own coder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from laconic.pack import reader
from laconic.pack.lanes import laned
from laconic.pack.loops import loops

Array: TypeAlias = NDArray[Any]

_UNWRITTEN = 4  # zeros at the end that the reader supplies


class Writer(reader.Stream):
    """The coded part of a file while it is written."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__(np.zeros(64, np.uint8), loops())
        self._coder[2] = self._coder[3] = 0

    def write_number(self, value: int) -> None:
        """Write a whole number from 0."""
        while value > 127:
            self.write_bytes(np.array([value & 127 | 128], np.uint8), 1)
            value >>= 7
        self.write_bytes(np.array([value], np.uint8), 1)

    def write_bytes(self, values: Array, stride: int) -> None:
        """Write bytes; those `stride` apart are of the same place in a number."""
        self._make_room(12 * values.size)  # a decision takes 12 bits at most
        self.spelled(values.tolist(), stride)

    def write_codes(self, shape: tuple[int, ...], codes: Array, states: int) -> None:
        """Write the whole numbers of a tensor."""
        sizes = np.abs(codes)
        if sizes.size and sizes.max() >= 1 << 40:
            raise ValueError(f"a .lac file holds codes below 2**40; got {sizes.max()}")
        self._make_room(3 * (2 * sizes.size + int(np.minimum(sizes, 12).sum())) // 2 + 16 * int((sizes >= 12).sum()))
        if (self.codes(shape, codes.size, states, codes.ravel().tolist()) != codes.ravel()).any():
            raise ValueError(f"some of these numbers are not of the quantizer that a trellis of {states} states has for them")

    @property
    def position(self) -> int:
        """How many bytes are out."""
        return int(self._coder[3])

    def finish(self, words: bytes = b"") -> bytes:
        """Return what was written, and the lanes' words: the fewest bytes that are read as it, for behind the end stand zeros."""
        low, high, _, end = (int(value) for value in self._coder)
        value, kept = high, 4
        for kept in range(5):
            mask = (1 << (32 - 8 * kept)) - 1
            value = (low + mask) & ~mask
            if value <= high:
                break
        if words:
            return bytes(self._data[:end]) + high.to_bytes(4, "big") + words
        written = bytes(self._data[:end]) + value.to_bytes(5, "big")[1 : 1 + kept]
        return written[: max(len(written) - _UNWRITTEN, len(written.rstrip(b"\0")))]

    def _make_room(self, more: int) -> None:
        lacking = int(self._coder[3]) + more + 64 - len(self._data)
        if lacking > 0:
            self._data = (
                np.concatenate([self._data, np.zeros(lacking + len(self._data), np.uint8)]) if self.loops else self._data + [0] * lacking
            )


@dataclass(frozen=True)
class Coded:
    """A tensor in the form that it is written in; see docs/lac.md.

    `codes` are whole numbers in the order of the tensor's entries, `stored` are numbers as they are; with `lanes`, the same in all tensors
    of a file, the codes are in that many lanes, and the trellis begins anew in each.
    """

    shape: tuple[int, ...]
    dtype: str
    form: str
    settings: tuple[int | str, ...] = ()
    codes: Array | None = None
    states: int = 0
    stored: Array = field(default_factory=lambda: np.zeros(0, np.uint8))
    lanes: int = 0

    @property
    def is_large(self) -> bool:
        """Say whether its codes are enough for lanes."""
        return self.codes is not None and self.codes.size >= reader.LEAST

    def in_lanes(self, lanes: int) -> "Coded":
        """Return the same with its codes, which are of no trellis, in lanes if they are enough."""
        return replace(self, lanes=lanes) if self.is_large and not self.states else self

    def write(self, writer: Writer, asides: Sequence[Array] = ()) -> None:
        """Write all but the header's entry; `asides` are written in place of codes that are in lanes."""
        for each in asides:
            writer.write_codes(each.shape, each, 0)
        if self.codes is not None and not self.lanes:
            writer.write_codes(self.shape, self.codes, self.states)
        if self.stored.size:
            if self.form == "text":
                writer.learn(reader.GRAPH)
            stored = self.stored.astype(self.stored.dtype.newbyteorder("<"))
            writer.write_bytes(np.frombuffer(stored.tobytes(), np.uint8), stored.dtype.itemsize)


@dataclass(frozen=True)
class Written:
    """A whole file, and how many of its bytes each tensor took, without its entry in the header."""

    data: bytes
    bytes: dict[str, int]


def file_of(tensors: Mapping[str, Coded], about: Mapping[str, Any]) -> bytes:
    """Return a whole file; see `write_file`."""
    return write_file(tensors, about).data


def write_file(tensors: Mapping[str, Coded], about: Mapping[str, Any]) -> Written:
    """Write a whole file.

    Args:
        tensors: by name, in the order in which they are written.
        about: what else the header says.
    """
    asides, words = in_lanes(tensors)
    body, sizes = written_tensors(header_of(tensors, about, words), tensors, asides, words)
    check: int = reader.checksum(np.frombuffer(body, np.uint8))
    magic: bytes = reader.MAGIC
    return Written(magic + bytes([reader.VERSION]) + check.to_bytes(4, "little") + body, sizes)


def header_of(tensors: Mapping[str, Coded], about: Mapping[str, Any], words: Mapping[str, Array]) -> str:
    """Return the header's text; `words` as `in_lanes` returns them."""
    lanes = {"lanes": [max(each.lanes for each in tensors.values()), sum(map(len, words.values()))]} if words else {}
    entries = [[name, list(each.shape), each.dtype, each.form, list(each.settings)] for name, each in tensors.items()]
    return json.dumps({**about, **lanes, "tensors": entries}, separators=(",", ":"))


def written_tensors(
    text: str, tensors: Mapping[str, Coded], asides: Mapping[str, Sequence[Array]], words: Mapping[str, Array]
) -> tuple[bytes, dict[str, int]]:
    """Return what stands behind the checksum, for a header's text and what `in_lanes` returns, and the bytes of each tensor."""
    writer, sizes = Writer(), dict[str, int]()
    writer.write_number(len(text))
    writer.write_bytes(np.frombuffer(text.encode("latin-1"), np.uint8), 1)
    for name, each in tensors.items():
        before = writer.position
        each.write(writer, asides.get(name, ()))
        sizes[name] = writer.position - before + (words[name].nbytes if name in words else 0)
    return writer.finish(b"".join(each.tobytes() for each in words.values())), sizes


def in_lanes(tensors: Mapping[str, Coded]) -> tuple[dict[str, list[Array]], dict[str, Array]]:
    """Return what is written in place of the codes of tensors in lanes, and their words: none, if no tensor is in lanes.

    Raises:
        ValueError: some large tensors are in lanes and others are not, or in another number.
    """
    chosen = {name: (each.shape, each.codes, each.states) for name, each in tensors.items() if each.codes is not None and each.is_large}
    numbers = {tensors[name].lanes for name in chosen}
    if len(numbers) > 1:
        raise ValueError(f"all large tensors of a file are in as many lanes; got {sorted(numbers)}")
    if not any(numbers):
        return {}, {}
    asides, words = laned(list(chosen.values()), *numbers)
    return dict(zip(chosen, asides, strict=True)), dict(zip(chosen, words, strict=True))
