"""Numbers of large tensors, coded for speed: range coders side by side, each of a piece of every tensor.

Source: J. Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate of arithmetic
coding", arXiv:1311.2540, 2013; many coders that take turns at one stream: F. Giesen, "Interleaved entropy coders", arXiv:1402.3392, 2014.

A number is coded with one of some tables, by the numbers beside and above it in its kernel and by a scale that is sent for its row, its
input and its place in the kernel. Tensors that are alike share the tables. What they are, and the scales, is written by the mixing coder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np
from numpy.typing import NDArray

from laconic.pack import reader
from laconic.pack.trellis import quantizers

Whole = NDArray[np.int64]

_NUMBERS_OF_A_LANE = 1 << 13  # at least; each lane costs two bytes
_FEWEST, _MOST = 4, 10  # lanes, as powers of 2
_TOKENS = 2 * reader.LARGE + 3
_ROOT = 48  # square root of a token's share, at most
_TOKEN_BITS = 6.0  # what a token of a table costs, about
_MEAN = 0.05  # size of numbers at scale 0
_ALL = (-12, 64)  # scales that are told apart where it is found out what shares tables: the least, and how many
_EVEN = 4  # numbers of the mean size that a row, an input or a place is taken to have besides its own


@dataclass(frozen=True)
class Part:
    """One tensor's numbers as tokens; arrays are (numbers of a lane, lanes)."""

    count: int
    states: int
    base: int  # half octaves of the tensor's scale
    sides: tuple[Whole, ...]  # of rows, inputs, places in the kernel, beside it
    near: Whole  # what is beside and above each
    second: Whole  # which quantizer each is of
    tokens: Whole
    rest: Whole  # half of what large sizes are above the least, in the order of the tensor's entries

    @property
    def half(self) -> int:
        """1 where there are two quantizers."""
        return int(self.states != 0)


def lanes_for(entries: int) -> int:
    """Return how many lanes a file of so many weights has."""
    return 1 << min(max(int(log2(max(entries, 1) / _NUMBERS_OF_A_LANE)), _FEWEST), _MOST)


def laned(tensors: Sequence[tuple[tuple[int, ...], Whole, int]], lanes: int) -> tuple[list[list[Whole]], list[NDArray[np.uint16]]]:
    """Return what the mixing coder writes for each tensor of a shape, numbers and trellis, and each one's words in the lanes.

    Raises:
        ValueError: a number is not of the quantizer that the trellis has for it.
    """
    parts = [_part(*each, lanes) for each in tensors]
    asides, coded = dict[int, list[Whole]](), dict[int, tuple[Whole, Whole]]()
    for group in _groups(parts):
        least, scales = _range([parts[at] for at in group])
        places = {at: _places(parts[at], least, scales) for at in group}
        tables = 3 * (1 + parts[group[0]].half) * scales
        roots = _roots(np.sum([_counts(parts[at], places[at], tables) for at in group], axis=0))
        shares = reader.shares_of(roots)
        first = shares.cumsum(1) - shares
        for at in group:
            asides[at] = _aside(parts[at], least, [np.array([scales, roots.shape[1]]), roots] if at == group[0] else [])
            coded[at] = shares[places[at], parts[at].tokens], first[places[at], parts[at].tokens]
    return [asides[at] for at in range(len(parts))], _words(parts, [coded[at] for at in range(len(parts))], lanes)


def _aside(part: Part, least: int, tables: list[Whole]) -> list[Whole]:
    """Return what the mixing coder writes for a tensor, with tables or with none if those before hold."""
    sides = [side for side in part.sides if 64 * len(side) <= part.count]
    return [np.array([int(bool(tables)), part.base - least]), *tables, *sides, part.rest]


def _part(shape: tuple[int, ...], codes: Whole, states: int, lanes: int) -> Part:
    """Return the tokens of a tensor."""
    numbers, length, half = codes.ravel(), reader.piece(codes.size, lanes), int(states != 0)
    lanes = -(-codes.size // length)
    second = quantizers(numbers, states, length)
    sizes = (np.abs(numbers) + second) >> half
    rest = np.maximum(sizes - reader.LARGE, 0) >> 1
    placed = _in_lanes(numbers - np.sign(numbers) * (rest << 1 + half), lanes, length)
    above = reader.layout(shape, codes.size)[-1]
    before = np.concatenate([np.zeros((above, lanes), np.int64), placed])
    near, second = 2 * before[above - 1 : -1] + before[:length], _in_lanes(second, lanes, length)
    tokens = 2 * _in_lanes(sizes - 2 * rest, lanes, length)
    tokens -= (tokens > 0) & ((placed < 0) == (near < 0))
    if (reader.number(tokens, near, second, half) != placed).any():
        raise ValueError(f"some of these numbers are not of the quantizer that a trellis of {states} states has for them")
    base, sides = _sides(shape, np.abs(numbers))
    return Part(codes.size, states, base, sides, near, second, tokens, rest[sizes >= reader.LARGE])


def _in_lanes(values: Whole, lanes: int, length: int) -> Whole:
    """Return a tensor's entries with a column for each lane, filled up with zeros."""
    return np.ascontiguousarray(np.concatenate([values, np.zeros(lanes * length - len(values), np.int64)]).reshape(lanes, length).T)


def _used(part: Part, values: Whole) -> Whole:
    """Return values in lanes in the order of the tensor's entries."""
    return values.T.ravel()[: part.count]


def _sides(shape: tuple[int, ...], sizes: Whole) -> tuple[int, tuple[Whole, ...]]:
    """Return how large numbers are in a tensor, and in each row, input and place in the kernel beside that, in half octaves."""
    rows, columns, kernel, _ = reader.layout(shape, sizes.size)
    table = sizes.reshape(rows, columns // kernel, kernel)
    mean = max(float(table.mean()), 1e-3)
    found = []
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        each = sizes.size // table.shape[axis]
        share = (table.sum(others) + _EVEN * mean) / ((each + _EVEN) * mean)
        chance = float(table.var()) / (each * mean**2)  # variance of shares where all are alike
        real = max(0.0, 1 - chance / max(float(share.var()), 1e-30)) if each >= 64 else 0.0
        found.append(np.round(2 * real * np.log2(share)).astype(np.int64))
    return round(2 * log2(mean / _MEAN)), tuple(found)


def _range(parts: Sequence[Part]) -> tuple[int, int]:
    """Return the least scale that has tables of its own, and how many have."""
    scales = [np.add.outer(part.base + part.sides[0], np.add.outer(*part.sides[1:])) for part in parts]
    highest = max(int(each.max()) for each in scales)
    least = max(min(int(each.min()) for each in scales), highest - reader.SCALES + 1)
    return least, highest - least + 1


def _places(part: Part, least: int, scales: int) -> Whole:
    """Return the table of every number, in lanes."""
    rows, inputs, places = part.sides
    found = reader.scales_of(part.base - least, rows, inputs, places, scales).astype(np.int64)
    place: Whole = reader.place(part.near, part.half, part.second, _in_lanes(found, *part.near.shape[::-1]), scales)
    return place


def _counts(part: Part, places: Whole, tables: int) -> Whole:
    """Return how often each token comes with each table."""
    return np.bincount(_used(part, places * _TOKENS + part.tokens), minlength=tables * _TOKENS).reshape(tables, _TOKENS)


def _groups(parts: Sequence[Part]) -> Iterator[list[int]]:
    """Yield which tensors share tables: of one kind of trellis, one after the other, as long as it saves more than it costs."""
    for kind in (-1, 0, 1):
        group, counts = list[int](), np.zeros((0, 0), np.int64)
        for at, part in enumerate(parts):
            if np.sign(part.states) != kind:
                continue
            own = _counts(part, _places(part, *_ALL), 3 * (1 + part.half) * _ALL[1])
            if group and _bits(counts + own) > _bits(counts) + _bits(own):
                yield group
                group = []
            counts = counts + own if group else own
            group.append(at)
        if group:
            yield group


def _bits(counts: Whole) -> float:
    """Return about how many bits tokens and their tables take."""
    kept = counts[counts > 0].astype(np.float64)
    totals = counts.sum(1)[counts.sum(1) > 0].astype(np.float64)
    return float((totals * np.log2(totals)).sum() - (kept * np.log2(kept)).sum() + _TOKEN_BITS * len(kept))


def _roots(counts: Whole) -> Whole:
    """Return square roots of shares: rounding them loses as much whatever the share, about as much as is known from so many."""
    counts = counts[:, : max(2, int(np.flatnonzero(counts.any(0))[-1]) + 1)]
    alone = np.flatnonzero((counts > 0).sum(1) == 1)
    counts[alone, np.where(counts[alone, 0], 1, 0)] = 1  # no token may cost nothing: see the limits of the format
    roots = np.sqrt(counts)
    roots *= np.minimum(1, _ROOT / np.maximum(roots.max(1, keepdims=True), 1))
    return np.where(counts > 0, np.maximum(1, np.round(roots)), 0).astype(np.int64)


def _words(parts: Sequence[Part], coded: Sequence[tuple[Whole, ...]], lanes: int) -> list[NDArray[np.uint16]]:
    """Return the words of each tensor: written from the last number to the first, as they are read from the first to the last."""
    states, found = np.full(lanes, 1 << 16), list[NDArray[np.uint16]]()
    for part, each in zip(reversed(parts), reversed(coded), strict=True):
        words = list[Whole]()
        for step in range(len(part.tokens) - 1, -1, -1):
            some = slice(-(-(part.count - step) // len(part.tokens)))
            words.append(_push(states[some], *(values[step, some] for values in each)))
        found.append(np.concatenate([np.zeros(0, np.int64), *reversed(words)]).astype("<u2"))
    begin = np.concatenate([states >> 16, states & 65535]).astype("<u2")
    return [np.concatenate([begin, found.pop()]), *reversed(found)]


def _push(states: Whole, shares: Whole, first: Whole) -> Whole:
    """Put a token into each state, and return the words that states spill which would grow too large."""
    full = states >= shares << 21
    words: Whole = states[full] & 65535
    states[full] >>= 16
    states[:] = (states // shares << 11) + states % shares + first
    return words
