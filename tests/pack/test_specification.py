"""Another reader, written from docs/lac.md alone, without speed or care for hostile files: page and reader must say the same."""

import json
import re
import zlib
from math import prod, sqrt
from pathlib import Path

import numpy as np

from laconic.pack import reader
from laconic.pack.lossless import exactly
from laconic.pack.writer import Coded, file_of

PAGE = Path(__file__).parents[2] / "docs" / "lac.md"
BEGINNING, GRAPH = re.findall(r"^```\n(\{.*?)\n```$", PAGE.read_text(), re.MULTILINE)
TRELLIS = {4: (5, 2), 8: (11, 4), 16: (19, 4), 32: (37, 8), 64: (67, 20), 128: (157, 86), 256: (333, 242)}


def squash_table():
    term, base = 1 << 40, 0
    for n in range(1, 30):
        base, term = base + term, term // (256 * n)
    power, table = 1 << 40, {}
    for x in range(2048):
        table[x] = (1 << 16) * power // (power + (1 << 40))
        power = (power * base) >> 40
    return table | {-x: 65536 - table[x] for x in range(1, 2048)}


SQUASH = squash_table()
STRETCH = [next((x for x in range(-2047, 2048) if SQUASH[x] >= 16 * b + 8), 2047) for b in range(4096)]


def log(n):
    n = min(n, 4095)
    return n if n < 2 else min(23, 2 * n.bit_length() - 2 + int(bin(n)[3]))


def rate(n):
    return 131072 // (2 * n + 3)


def sign(x):
    return (x > 0) - (x < 0)


class Model:
    def __init__(self):
        self.chance, self.count, self.weight = {}, {}, {}

    def decide(self, kind, contexts, f, g, outcome):
        """Make a decision: `outcome` takes its chance and returns it."""
        keys = [(24 * i + kind) * 1024 + c for i, c in enumerate(contexts)]
        odds = [STRETCH[self.chance.get(key, 32768) >> 4] for key in keys]
        one, two = [(0, kind, f, i) for i in range(8)], [(1, kind, g, i) for i in range(8)]
        a, b = (
            max(-2047, min(2047, sum(self.weight.get(w, 10000) * o for w, o in zip(each, odds, strict=True)) >> 16)) for each in (one, two)
        )
        bit = outcome(SQUASH[(a + b) >> 1])
        t = 65536 * bit
        for names, mixed in ((one, a), (two, b)):
            for w, o in zip(names, odds, strict=True):
                self.weight[w] = self.weight.get(w, 10000) + ((o * (t - SQUASH[mixed]) + 65536) >> 17)
        for key in keys:
            chance, count = self.chance.get(key, 32768), self.count.get(key, 0)
            self.chance[key], self.count[key] = chance + (((t - chance) * rate(count)) >> 16), min(count + 1, 1020)
        return bit


class Other:
    def __init__(self, data):
        assert data[:4] == b"LAC\x01"
        assert int.from_bytes(data[4:8], "little") == zlib.crc32(data[8:])
        self.body = iter(data[8:])
        self.low, self.high, self.value = 0, 2**32 - 1, 0
        for _ in range(4):
            self.value = self.value << 8 | next(self.body, 0)
        self.numbers, self.letters = Model(), Model()
        self.run(len(BEGINNING), 1, BEGINNING)
        self.words, self.states, self.tables = iter(()), [], {}

    def open_lanes(self, data, lanes, count):
        words = [int.from_bytes(data[at : at + 2], "little") for at in range(len(data) - 2 * count, len(data), 2)]
        self.states = [65536 * words[j] + words[lanes + j] for j in range(lanes)]
        self.words = iter(words[2 * lanes :])

    def bit(self, p):
        span = self.high - self.low
        middle = self.low + (span >> 16) * p + (((span & 65535) * p) >> 16)
        bit = int(self.value <= middle)
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while self.low >> 24 == self.high >> 24:
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, self.high << 8 & 0xFFFFFFFF | 255
            self.value = self.value << 8 & 0xFFFFFFFF | next(self.body, 0)
        return bit

    def run(self, count, stride, learnt=None):
        out = []
        for at in range(count):
            l1, l2, l3, l4, m = (out[at - back] if at >= back else 0 for back in (1, 2, 3, 4, stride))
            node, r = 1, at % stride
            for place in range(7, -1, -1):
                sums = (
                    256 * (l1 + 1),
                    256 * l1 + 92821 * (l2 + 1),
                    256 * l1 + 92821 * l2 + 689287 * (l3 + 1),
                    256 * l1 + 92821 * l2 + 689287 * l3 + 7654321 * (l4 + 1),
                    256 * m + 70001 * (r + 1),
                    256 * m + 92821 * l1 + 70001 * (r + 1),
                    256 * l2 + 92821 * (l4 + 1),
                )
                contexts = [node + 256 * min(r, 7), *((node + each) % 24571 for each in sums)]
                outcome = self.bit if learnt is None else (lambda _, at=at, place=place: ord(learnt[at]) >> place & 1)
                node = 2 * node + self.letters.decide(0, contexts, min(r, 7), place, outcome)
            out.append(node & 255)
        return bytes(out)

    def codes(self, shape, states):
        n = prod(shape)
        rows = shape[0] if len(shape) > 1 and n else 1
        columns = n // rows
        kernel = n // (rows * shape[1]) if len(shape) > 2 and n else 1
        codes, state, whole, by_column, by_input, two = [], 0, 0, {}, {}, bool(states)
        for row in range(rows):
            average = whole
            for column in range(columns):
                q, spot, source = state & 1, min(column % kernel, 15), column // kernel
                within = [codes[-back] if column >= back else 0 for back in (1, 2, kernel, 2 * kernel)]
                near = within + [codes[-back * columns] if row >= back else 0 for back in (1, 2)]
                large = [log(each >> 4) for each in (average, by_column.get(column, 0), by_input.get(source, 0))]
                code = self.code(q, spot, near, *large, two, states < 0 and q)
                codes.append(code * 2**two - sign(code) * q)
                state = step_of(state, codes[-1], code, states)
                x = min(abs(codes[-1]), 31) * 2 ** (12 - two)
                average += (x - average) >> 6
                by_column[column] = by_column.get(column, 0) + (((x - by_column.get(column, 0)) * rate(min(row, 30))) >> 16)
                by_input[source] = by_input.get(source, 0) + ((x - by_input.get(source, 0)) >> 4)
            whole += (average - whole) >> 2
        return codes

    def in_lanes(self, shape, states):
        n, kind, q_count, t = prod(shape), sign(states), 2 if states else 1, 1 if states else 0
        rows = shape[0] if len(shape) > 1 else 1
        kernel = n // (rows * shape[1]) if len(shape) > 2 else 1
        columns = n // rows
        length = max(-(-n // len(self.states)), 512)
        length |= 65
        new, base = self.codes((2,), 0)
        if new:
            scales, tokens = self.codes((2,), 0)
            roots = self.codes((3 * q_count * scales, tokens), 0)
            self.tables[kind] = scales, [shares(roots[at : at + tokens]) for at in range(0, len(roots), tokens)]
        scales, tables = self.tables[kind]
        sides = [self.codes((size,), 0) if 64 * size <= n else [0] * size for size in (rows, columns // kernel, kernel)]
        above = min(max(shape[-1], 2), 16) if len(shape) > 2 else 2
        found, state = [0] * n, [0] * len(self.states)
        for step in range(length):
            for j in range(len(self.states)):
                at = j * length + step
                if at >= n:
                    break
                u = [found[at - back] if step >= back else 0 for back in (1, above)]
                near, q = 2 * u[0] + u[1], state[j] & 1
                side = sides[1][at % columns // kernel] + sides[2][at % columns % kernel]
                scale = min(max(limited(base + sides[0][at // columns]) + limited(side), 0), scales - 1)
                token = self.token(j, tables[(q_count * min(abs(near) >> t, 2) + q) * scales + scale])
                code = (token + 1) // 2 * (1 if (token % 2 == 1) == (near >= 0) else -1)
                found[at] = code * 2**t - sign(code) * q
                state[j] = step_of(state[j], found[at], code, states)
        large = [at for at, each in enumerate(found) if abs(each) + t >= 30 * 2**t]
        for at, more in zip(large, self.codes((len(large),), 0), strict=True):
            found[at] += sign(found[at]) * more * 2 ** (1 + t)
        return found

    def token(self, j, table):
        x = self.states[j] % 2048
        token = next(i for i in range(len(table)) if sum(table[: i + 1]) > x)
        self.states[j] = table[token] * (self.states[j] >> 11) + x - sum(table[:token])
        if self.states[j] < 65536:
            self.states[j] = 65536 * self.states[j] + next(self.words)
        return token

    def code(self, q, spot, near, r, c, i, two, never_zero):
        beside, before, above = (min((2 * abs(near[j]) + abs(near[j + 1])) >> two, 15) for j in (0, 2, 4))
        pairs = (beside, before), (before, above)
        contexts = [q, *(2 * (16 * x + y) + q for x, y in pairs), 2 * (24 * above + c) + q, 2 * (16 * r + beside) + q]
        contexts += [2 * (16 * c + before) + q, 2 * (24 * (r >> 1) + c) + q, 2 * (24 * spot + i) + q]
        if not never_zero and not self.numbers.decide(0, contexts, 2 * r + q, 2 * c + q, self.bit):
            return 0
        size = 1
        while size <= 12 and self.numbers.decide(size, contexts, 2 * r + q, 2 * c + q, self.bit):
            size += 1
        if size == 13:
            length = 0
            while length < 40 and self.bit(32768):
                length += 1
            size += 2**length + sum(self.bit(32768) << place for place in range(length - 1, -1, -1)) - 1
        same = [9 + 3 * sign(near[2 * j]) + sign(near[2 * j + 1]) for j in range(3)]
        cross = [9 + 3 * sign(near[2 * j]) + sign(near[(2 * j + 2) % 6]) for j in range(3)]
        return -size if self.numbers.decide(13, [0, *same, *cross, 18 * spot + cross[0]], q, spot, self.bit) else size

    def stored(self, kind, count):
        width = np.dtype(kind).itemsize
        return np.frombuffer(self.run(count * width, width), np.dtype(kind).newbyteorder("<"))

    def tensor(self, shape, kind, form, settings):
        n = prod(shape)
        if form == "same":
            return np.full(n, self.stored(kind, 1)[0])
        if form == "text":
            self.run(len(GRAPH), 1, GRAPH)
        if form in ("bytes", "text"):
            return self.stored(settings[0] if settings else kind, n).astype(kind)
        way = self.in_lanes if self.states and n >= 1024 else self.codes
        codes = np.array(way(shape, settings[0] if form == "grid" else 0), int)
        if form == "table":
            return self.stored(kind, settings[1])[codes + settings[0]]
        if form == "sparse":
            array = np.zeros(n, kind)
            array[codes != 0] = self.stored(kind, int((codes != 0).sum()))
            return array
        return np.array(values(codes.tolist(), *settings)).astype(kind)


def step_of(state, number, code, states):
    """The trellis' state after a number."""
    if not states:
        return 0
    feedback, forward = TRELLIS[abs(states)]
    d = abs(code) if states > 0 else number >> 1
    return (state >> 1) ^ (feedback >> 1) * (state & 1) ^ (forward >> 1) * (d & 1)


def shares(roots):
    above, total = sum(root > 0 for root in roots), max(sum(root**2 for root in roots), 1)
    found = [root**2 * (2048 - above) // total + (root > 0) for root in roots]
    found[found.index(max(found))] += 2048 - sum(found)
    return found


def limited(side):
    return min(max(side, -63), 63)


def values(multiples, states, step, *shifts):
    root, size, found = sqrt(sqrt(sqrt(sqrt(2.0)))), 1.0, []
    for _ in range(step % 16):
        size *= root
    size *= 2.0 ** (step // 16)
    for multiple in multiples:
        shift = shifts[min(abs(multiple), len(shifts)) - 1] if multiple and shifts else 0
        found.append((64 * multiple - sign(multiple) * shift) * (size / 64))
    return found


def other_read(data):
    other = Other(data)
    length, shift, byte = 0, 0, 128
    while byte > 127:
        [byte] = other.run(1, 1)
        length, shift = length | (byte & 127) << shift, shift + 7
    header = json.loads(other.run(length, 1))
    if "lanes" in header:
        other.open_lanes(data, *header["lanes"])
    found = {name: other.tensor(shape, *how).reshape(shape) for name, shape, *how in header["tensors"]}
    assert all(state == 65536 for state in other.states)
    assert not list(other.words)
    return header, found


def multiples_of(codes, states, length=1 << 40):
    """Multiples of the step that codes stand for, the trellis anew in each piece: where no code is zero, zeros become ones."""
    state, found = 0, []
    for at, each in enumerate(codes.ravel().tolist()):
        q = state & 1 if at % length else 0
        code = 1 if states < 0 and q and each == 0 else each
        found.append(2 * code - sign(code) * q)
        state = step_of(state if at % length else 0, found[-1], code, states)
    return np.array(found)


def test_a_reader_written_from_the_page_reads_every_form():
    draw = np.random.default_rng(0)
    codes = np.round(draw.laplace(size=600, scale=2)).astype(np.int64)
    letters = np.frombuffer(b'{"laconic":{"format":"2","program":{"inputs":[]}}}', np.uint8)
    tensors = {
        "same": Coded((3, 4), "float64", "same", stored=np.array([2.5])),
        "bytes": exactly(draw.normal(size=(6, 5))),
        "half": Coded((30,), "float32", "bytes", ("float16",), stored=draw.normal(size=30).astype(np.float16)),
        ".metadata": Coded((len(letters),), "uint8", "text", stored=letters),
        "sparse": exactly(np.where(draw.random((20, 15)) < 0.1, draw.normal(size=(20, 15)), 0)),
        "table": exactly(draw.choice(np.float32([-1, 0, 0.5]), (20, 15))),
        "scalar": Coded((20, 30), "float32", "grid", (0, -40), codes, 0),
        "odd and zero": Coded((10, 10, 3, 2), "float32", "grid", (64, -43, 7, 3, 0), multiples_of(codes, 64), 64),
        "odd": Coded((10, 10, 3, 2), "float32", "grid", (-8, -43, 7, 3, 0), multiples_of(codes, -8), -8),
        "large": Coded((5,), "float64", "grid", (4, 100, 5), multiples_of(np.array([1 << 38, -(1 << 20), 0, 12, 13]), 4), 4),
        "empty": Coded((0, 7), "float32", "grid", (8, -40), codes[:0], 8),
    }
    data = file_of(tensors, {"network": "zoo:lenet5"})
    header, found = other_read(data)
    wanted = reader.contents(data)
    assert header == wanted[0]
    assert {entry[3] for entry in header["tensors"]} == {"same", "bytes", "text", "sparse", "table", "grid"}
    assert all(found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes() for name, array in wanted[1].items())


def test_a_reader_written_from_the_page_reads_lanes():
    draw = np.random.default_rng(0)

    def grid(shape, states, scale):
        codes = np.round(draw.laplace(size=shape, scale=scale)).astype(np.int64)
        multiples = multiples_of(codes, states, 577) if states else codes.ravel()
        return Coded(shape, "float32", "grid", (states, -40, 7, 3, 0), multiples, states, lanes=3)

    small = Coded((20, 30), "float32", "grid", (0, -40), np.arange(600) % 5 - 2, 0)
    tensors = {
        "kernels": grid((8, 16, 3, 3), 8, 2.0),
        "small": small,
        "odd": grid((12, 100), -64, 1.0),
        "linear": grid((10, 150), 0, 0.5),
        "again": grid((10, 150), 0, 0.5),
        "outliers": grid((1100,), 8, 20.0),
        "sparse": exactly(np.where(draw.random((30, 50)) < 0.1, draw.normal(size=(30, 50)), 0)).in_lanes(3),
    }
    data = file_of(tensors, {})
    header, found = other_read(data)
    wanted = reader.contents(data)
    assert header == wanted[0]
    assert header["lanes"][0] == 3
    assert max(abs(tensors["outliers"].codes)) > 80
    assert all(found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes() for name, array in wanted[1].items())
