"""Read `.lac` files with NumPy alone: this file needs nothing else of Laconic and may be copied anywhere.

    arrays = read("network.lac")     # {name: array}

The format is written down in docs/lac.md. Whole numbers are coded one binary decision at a time, its probability mixed from counters that
live in contexts of what has been read before (M. Mahoney, "Adaptive Weighing of Context Models for Lossless Data Compression", Florida Tech
CS-2005-16); `code`, `decide`, `walk` and `spell` both read and write, so the two cannot disagree. Where a file was written for speed those
of large tensors are in lanes: range coders side by side (J. Duda, "Asymmetric numeral systems", arXiv:1311.2540). All of it is whole-number
arithmetic, the same on every machine.
"""

import numpy as np

MAGIC, VERSION, LIMIT = b"LAC", 1, 1 << 31  # the limit: bytes of memory that reading may take unless the caller says another
_ONE, _EDGE = 1 << 16, 2047  # a probability of 1; the largest log odds, in 256ths
_SLOTS, _KINDS, _WIDTH = 8, 24, 1024  # counters asked for each decision, kinds of decision, contexts of a kind in a slot
_SETS, _PATIENCE = 64, 1020  # mixing weights for each kind; observations after which a counter forgets
_SIGN, _LARGEST = 13, 12  # kinds: larger than 0, 1, ... 12, then the sign; what is larger is in Exp-Golomb code
_PER_BYTE, _BEHIND = 1 << 14, 8  # decisions that a byte can hold at most: none is likelier than 1 - 23 / 2**16; zeros behind the end
LEAST, SHORTEST = 1024, 512  # entries of a tensor that is coded in lanes, and of a lane in it
SCALES, LARGE = 16, 30  # in lanes: scales that have tables; the size from which on part of it stands elsewhere
# What the model of text learns from before the first header, and before the first graph of a program
_BEGINNING = (
    '{"network":"zoo:lenet300","tensors":[["fc1.weight",[300,784],"float32","grid",[8,-52,9,5,0]],["fc1.bias",[300],"float32","grid",[0,-70'
    ',0,0,0]],["conv1.weight",[20,1,5,5],"float16","table",[4]],["tensor.0",[20],"float32","sparse",[]],["layer1.0.bn1.running_mean",[16],"'
    'float32","bytes",["float16"]],[".metadata",[5549],"uint8","text",[]]]}'
)
GRAPH = (
    '{"laconic":{"format":"2","program":{"inputs":[{"name":"input","shape":[3,32,32],"dtype":"torch.float32"}],"aliases":{},"tensors":[{"na'
    'me":"conv1.weight","parameter":true,"trainable":true,"persistent":true,"key":"tensor.0"}],"representations":[],"edges":[],"graph":[{"o'
    'p":"get_attr","name":"fc1_weight","target":"fc1.weight","args":[],"kwargs":{"dict":{}}},{"op":"placeholder","name":"input","target":"i'
    'nput","args":[],"kwargs":{"dict":{}}},{"op":"call_function","name":"max_pool2d","target":"aten::max_pool2d.default","args":[{"node":"c'
    'onv2d"},[2,2]],"kwargs":{"dict":{}},"module":""},{"op":"call_function","name":"linear","target":"aten::linear.default","args":[{"node"'
    ':"relu"},{"node":"fc1_weight"},{"node":"fc1_bias"}],"kwargs":{"dict":{}},"source":"/model.py:42, in forward","module":"fc1"},{"op":"ou'
    'tput","name":"output"'
)
TRELLISES = {4: (5, 2), 8: (11, 4), 16: (19, 4), 32: (37, 8), 64: (67, 20), 128: (157, 86), 256: (333, 242)}  # feedback, input
_TYPES = {"float64": 8, "float32": 4, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2, "bool": 1}


class CorruptArtifact(ValueError):  # noqa: N818 - named in the specification
    """The file is truncated, changed, or no `.lac` file of a known version."""


def read(source, limit=LIMIT):
    """Return the arrays of a `.lac` file by name, from its path or its bytes; they and reading may take `limit` bytes of memory.

    Raises `CorruptArtifact` whatever is wrong with the file; nothing larger is allocated before.
    """
    return contents(source, limit)[1]


def contents(source, limit=LIMIT, loops=None):
    """Return the header and the arrays of a `.lac` file; see `read`. `loops` are compiled versions of functions here, if there are."""
    data = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else np.fromfile(source, np.uint8)
    if len(data) < 9 or data[:3].tobytes() != MAGIC:
        raise CorruptArtifact("this is no .lac file, or it is cut off")
    if data[3] != VERSION:
        raise CorruptArtifact(f"the file has version {data[3]}, this reader knows version {VERSION}; take a newer laconic")
    if int.from_bytes(data[4:8].tobytes(), "little") != (loops or globals())["checksum"](data[8:]):
        raise CorruptArtifact("the file is damaged: its checksum differs from the one it was written with")
    body, arrays = Stream(data[8:], loops), {}
    try:
        header, taken = _header(body, limit, len(data))
        _check(header["tensors"], taken, limit, len(data))
        body.split(*header.get("lanes", (0, 0)))
        for name, shape, kind, form, settings in header["tensors"]:
            arrays[name] = _FORMS[form](body, shape, int(np.prod(shape, dtype=np.int64)), kind, *settings).reshape(shape)
        if not body.ended():
            raise CorruptArtifact("it goes on behind its last tensor")
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CorruptArtifact(f"the file cannot be read: {error}") from None
    return header, arrays


def checksum(data):
    """Return the CRC-32 (polynomial 0xEDB88320) of bytes."""
    table, rest = np.arange(256), 0xFFFFFFFF
    for _ in range(8):
        table = (table >> 1) ^ (table & 1) * 0xEDB88320
    remainders = table.tolist()
    for byte in data.tolist():
        rest = remainders[(rest ^ byte) & 255] ^ (rest >> 8)
    return rest ^ 0xFFFFFFFF


def _header(body, limit, size):
    """Return the header of a file of so many bytes, and how much of the limit it takes."""
    length, shift, byte = 0, 0, 128
    while byte > 127 and shift < 63:
        byte = int(body.stored("uint8", 1)[0])
        length, shift = length | (byte & 127) << shift, shift + 7
    if 64 * length > limit or length > _PER_BYTE // 8 * size:
        raise CorruptArtifact(f"a header of {length} letters is beyond the limit of {limit} bytes, or what the file can hold")
    return parsed(body.stored("uint8", length).tobytes().decode("ascii", "replace")), 64 * length


def _check(tensors, taken, limit, size):
    """Find out whether the tensors that a header describes can be in so many bytes and fit the limit."""
    kept, working, decisions, names = taken, 0, 0, set()
    for name, shape, kind, form, settings in tensors:
        possible = isinstance(name, str) and name not in names and kind in _TYPES and form in _FORMS and _sensible(kind, form, settings)
        if not possible or len(shape) > 16 or not all(type(each) is int and 0 <= each < 1 << 40 for each in shape):
            raise CorruptArtifact(f"its header describes a tensor that cannot be: {name!r}, of shape {shape}")
        entries = int(np.prod(shape, dtype=object))
        kept += _TYPES[kind] * entries + 64
        coded = 0 if form == "same" else entries + (settings[1] if form == "table" else 0)
        working, decisions = max(working, (16 * _TYPES[kind] + 128) * coded), decisions + coded
        if kept + working > limit or decisions > _PER_BYTE * size:
            raise CorruptArtifact(f"the tensor {name!r} of shape {shape} is beyond the limit of {limit} bytes, or what the file can hold")
        names.add(name)


def _sensible(kind, form, settings):
    """Say whether a form has such settings."""
    if not isinstance(settings, list) or form == "bytes":
        return settings == [] or (len(settings) == 1 and settings[0] in _TYPES and np.can_cast(settings[0], kind))
    if len(settings) > 16 or not all(type(each) is int for each in settings):
        return False
    if form == "table":
        return len(settings) == 2 and 0 <= settings[0] < settings[1] <= 1 << 16
    if form == "grid":
        states, step, *nearer = settings
        return kind[0] == "f" and abs(states) in (0, *TRELLISES) and abs(step) <= 8192 and all(abs(each) <= 63 for each in nearer)
    return not settings and (kind == "uint8" or form != "text")


def _sparse(body, shape, count, kind):
    """Which entries are zero, then the others as they are stored."""
    kept = body.numbers(shape, count, 0) != 0
    array = np.zeros(count, kind)
    array[kept] = body.stored(kind, int(kept.sum()))
    return array


def _table(body, shape, count, kind, below, size):
    """Codes of a table: the lowest code is -below."""
    codes = body.numbers(shape, count, 0) + below
    table = body.stored(kind, size)
    if count and (codes.min() < 0 or codes.max() >= size):
        raise CorruptArtifact("a code is beyond its table")
    return table[codes]


def _grid(body, shape, count, kind, states, step, *nearer):
    """Multiples of a step, 2**(step / 16); those of size 1, 2 and more are nearer to zero by so many 64ths of it."""
    found = body.numbers(shape, count, states)
    most = int(max(found.max(), -found.min())) if count else 0
    return levels(np.r_[: most + 1, -most:0], kind, step, nearer)[found] if 2 * most < count else levels(found, kind, step, nearer)


_FORMS = {
    "same": lambda body, shape, count, kind: np.full(count, body.stored(kind, 1)[0]),
    "bytes": lambda body, shape, count, kind, stored=None: body.stored(stored or kind, count).astype(kind),
    "text": lambda body, shape, count, kind: body.learn(GRAPH) or body.stored(kind, count),
    "sparse": _sparse,
    "table": _table,
    "grid": _grid,
}


def levels(multiples, kind, step, nearer):
    """Return the numbers that multiples of a step stand for; see `_grid`."""
    shifts, largest = np.array([0, *nearer])[np.minimum(abs(multiples), len(nearer))], float(np.finfo(kind).max)
    return np.clip((64 * multiples - np.sign(multiples) * shifts) * (step_size(step) / 64), -largest, largest).astype(kind)


def step_size(step):
    """Return 2**(step / 16), by operations that are exactly rounded everywhere."""
    return np.ldexp(np.cumprod([1.0] + [np.sqrt(np.sqrt(np.sqrt(np.sqrt(2.0))))] * (step % 16))[-1], step // 16)


class Stream:
    """The coded part of a file: numbers and text one after the other, all read with one model that learns from them."""

    def __init__(self, data, loops=None):
        """Begin to read."""
        self.loops, self._entries = loops, {}
        self._data = data.copy() if loops else data.tolist()
        start = int.from_bytes(data[:4].tobytes().ljust(4, b"\0"), "big")
        self._coder = self._kind([0, 0xFFFFFFFF, start, 4])
        self._tables, self._numbers, self._letters = tuple(map(self._kind, _TABLES)), self._model(), self._model()
        self.split(0, 0)
        self.learn(_BEGINNING)

    def split(self, lanes, words):
        """Begin to read so many lanes, whose words are the last ones of the file; none, if 0."""
        end = len(self._data) - 2 * words
        if not (type(lanes) is type(words) is int and 0 <= 2 * lanes <= words and end >= 0 and lanes <= 1 << 12):
            raise CorruptArtifact(f"{lanes} lanes of {words} words cannot be")
        found = np.array(self._data[end:], np.uint8).view("<u2").astype(np.int64)
        self._data, self._words, self._word = self._data[:end], np.append(found, np.zeros(lanes, np.int64)), 2 * lanes
        self._lanes = found[:lanes] << 16 | found[lanes : 2 * lanes]

    def _kind(self, values):
        """Lists are faster in plain Python; compiled code needs arrays."""
        return np.asarray(values, np.int64) if self.loops else values

    def _filled(self, value, count):
        return np.full(count, value, np.int64) if self.loops else [value] * count

    def _model(self):
        """Return counters, how often each was used, mixing weights, as every stream begins, and room for log odds."""
        counters, mixing = _SLOTS * _KINDS * _WIDTH, 2 * _KINDS * _SETS * _SLOTS
        return self._filled(_ONE // 2, counters), self._filled(0, counters), self._filled(10000, mixing), self._filled(0, _SLOTS)

    def ended(self):
        """Say whether nothing is left to read, and every lane is back where it began; raises when more was read than there is."""
        if self._coder[3] > len(self._data) + _BEHIND:
            raise CorruptArtifact("the file ends too early")
        return self._coder[3] >= len(self._data) and self._word + len(self._lanes) == len(self._words) and all(self._lanes == 1 << 16)

    def stored(self, kind, count):
        """Return so many numbers as they are stored, the lowest byte first."""
        found = np.array(self.spelled(self._filled(-1, _TYPES[kind] * count), _TYPES[kind]), np.uint8)
        return found != 0 if kind == "bool" else found.view(np.dtype(kind).newbyteorder("<")).astype(kind, copy=False)

    def learn(self, text):
        """Let the model of letters learn from a text that is not in the file."""
        self.spelled([ord(letter) for letter in text], 1, [0, 0xFFFFFFFF, 0, 0], np.zeros(12 * len(text) + 8, np.uint8))

    def spelled(self, letters, stride, coder=None, data=None):
        """Return letters, read (where each is -1) or written; with another coder they are only learnt from."""
        run, places = (self.loops or globals())["spell"], self._filled(0, _SLOTS)
        coder, data = (self._coder, self._data) if data is None else (self._kind(coder), data)
        run(self._kind(letters), stride, self._letters, coder, data, self._tables, places)
        self.ended()
        return letters

    def numbers(self, shape, count, states):
        """Return the whole numbers of a tensor, from the lanes if there are any and it is large."""
        lanes, kind, half = len(self._lanes), np.sign(states), min(abs(states), 1)
        if not lanes or count < LEAST:
            return self.codes(shape, count, states)
        new, base = self.codes((2,), 2, 0)
        if new:  # of each of the 2048 states of every table: its token, the token's share, and which of the share it is
            top, tokens = np.clip(self.codes((2,), 2, 0), 1, (SCALES, 2 * LARGE + 3)).tolist()
            roots = self.codes((3 * (1 + half) * top, tokens), 3 * (1 + half) * top * tokens, 0).reshape(-1, tokens)
            shares = shares_of(np.clip(roots, 0, 255)).ravel()
            first = (np.arange(len(shares)) % tokens << 25 | shares << 12) - (shares.cumsum() - shares)
            self._entries[kind] = top, np.repeat(first.astype(np.int32), shares) + np.arange(len(roots) << 11, dtype=np.int32)
        top, entries = self._entries[kind]
        (rows, columns, kernel, above), length = layout(shape, count), piece(count, lanes)
        sides = (self.codes((n,), n, 0) if 64 * n <= count else np.zeros(n, np.int64) for n in (rows, columns // kernel, kernel))
        lanes, scales = -(-count // length), scales_of(base, *sides, top)
        scales = np.ascontiguousarray(np.append(scales, np.zeros(lanes * length - count, np.int8)).reshape(lanes, length).T)
        found, trellis = np.zeros((above + length, lanes), np.int32), (states, *TRELLISES.get(abs(states), (0, 0)))
        run, given = (self.loops or globals())["lockstep"], (found, scales, count, (top, entries), trellis)
        self._word = run(*given, self._lanes[:lanes], self._words, self._word)
        numbers, least = np.ascontiguousarray(found[above:].T).ravel()[:count], (LARGE << half) - half
        if max(found.max(), -found.min()) >= least:
            large, numbers = np.flatnonzero(abs(numbers) >= least), numbers.astype(np.int64)
            numbers[large] += np.sign(numbers[large]) * (self.codes(large.shape, len(large), 0) << 1 + half)
        return numbers

    def codes(self, shape, count, states, values=None):
        """Return the whole numbers of a tensor, read or written."""
        _, columns, kernel, _ = size = layout(shape, count)
        room = self._filled(0, columns), self._filled(0, columns // kernel + 1), self._filled(0, _SLOTS), self._filled(0, 6)
        codes = self._filled(0, count) if values is None else self._kind(values)
        run, trellis = (self.loops or globals())["walk"], (states, *TRELLISES.get(abs(states), (0, 0)))
        run(codes, values is not None, size, trellis, self._numbers, self._coder, self._data, self._tables, room)
        self.ended()
        return np.asarray(codes, np.int64)


def layout(shape, count):
    """Return rows (outputs), columns (weights of an output), columns of one input, and how far back what is above in a kernel is."""
    rows, above = shape[0] if len(shape) > 1 and count else 1, min(max(2, shape[-1]), 16) if len(shape) > 2 else 2
    return rows, count // rows, max(1, count // (rows * shape[1])) if len(shape) > 2 and count else 1, above


def piece(count, lanes):
    """Return how many numbers of a tensor are in a lane; no near multiple of 128, where lanes would share the same few lines of a cache."""
    return max(-(-count // lanes), SHORTEST) | 65


def scales_of(base, rows, inputs, spots, scales):
    """Return the scale of every entry, by half octaves of its row, its input and its place in the kernel."""
    rows, columns = (np.clip(each, -63, 63).astype(np.int8) for each in (base + rows, np.add.outer(inputs, spots).ravel()))
    return np.clip(np.add.outer(rows, columns).ravel(), 0, scales - 1)


def shares_of(roots):
    """Return how many of 2048 each token has in each table, from square roots: one at least of what occurs, the largest has the rest."""
    weights, occurs = np.square(roots), roots > 0
    shares = occurs + weights * (2048 - occurs.sum(1, keepdims=True)) // np.maximum(weights.sum(1, keepdims=True), 1)
    shares[np.arange(len(shares)), shares.argmax(1)] += 2048 - shares.sum(1)
    return shares


def place(near, half, second, scale, scales):
    """Return the table of a number, by what is near it, its quantizer and its scale."""
    return (np.minimum(abs(near) >> half, 2) * (1 + half) + second) * scales + scale


def number(token, near, second, half):
    """Return the number of a token: odd ones are positive, or negative where what is near is."""
    return (((token + 1) >> 1 << half) - second * (token > 0)) * (1 - 2 * ((token + 1 + (near < 0)) & 1))


def lockstep(found, scales, count, tables, trellis, states, words, at):
    """Read the numbers of a tensor, one of every lane in each step; returns the place in the words."""
    length, half, memory = len(scales), 0 if trellis[0] == 0 else 1, np.zeros(len(states), np.int64)
    above, beside, now = found[:length], found[-length - 1 : -1], found[-length:]
    for step in range(length):
        if at > len(words) - len(states):
            break
        some = slice(-(-(count - step) // length))  # the last lanes may be shorter
        near, state, memory_now = 2 * beside[step, some] + above[step, some], states[some], memory[some]
        entry = tables[1][place(near, half, memory_now & 1, scales[step, some], tables[0]) << 11 | state & 2047]
        state[:] = (entry >> 12 & 8191) * (state >> 11) + (entry & 4095)
        low = np.flatnonzero(state < 1 << 16)
        state[low] = state[low] << 16 | words[at : at + len(low)]
        at, now[step, some] = at + len(low), number(entry >> 25, near, memory_now & 1, half)
        memory_now[:] = after(memory_now, now[step, some], trellis)
    return at


def tables():
    """Return probabilities by log odds, log odds by probability, rates by count and logarithms: all made of whole numbers."""
    power, term, base = 1 << 40, 1 << 40, 0  # in 2**-40; base becomes exp(1/256), by its series
    for n in range(1, 30):
        base, term = base + term, term // (256 * n)
    upper = []  # P at log odds 0, 1/256, ...
    for _ in range(_EDGE + 1):
        upper.append(_ONE * power // (power + (1 << 40)))
        power = (power * base) >> 40
    squash = [_ONE - each for each in upper[:0:-1]] + upper
    stretch = (np.minimum(np.searchsorted(squash, np.arange(8, _ONE, 16)), 2 * _EDGE) - _EDGE).tolist()
    rates = [2 * _ONE // (2 * n + 3) for n in range(_PATIENCE + 1)]
    logs = [0, 1] + [min(23, 2 * n.bit_length() - 2 + (n >> (n.bit_length() - 2) & 1)) for n in range(2, 4096)]
    return squash, stretch, logs, rates


_TABLES = tables()


def code(bit, probability, coder, data):
    """Read (bit -1) or write a decision that is 1 with a probability in 2**-16; returns it.

    `coder` is the low and the high end of an interval of 32 bits, the value that is read in it, and the place in `data`.
    """
    low, span = coder[0], coder[1] - coder[0]
    middle = low + (span >> 16) * probability + (((span & 65535) * probability) >> 16)
    reading, bit = bit < 0, bit if bit >= 0 else int(coder[2] <= middle)
    coder[bit] = middle + 1 - bit
    while ((coder[0] ^ coder[1]) & 0xFF000000) == 0:
        if reading:
            coder[2] = ((coder[2] << 8) & 0xFFFFFFFF) | (data[coder[3]] if coder[3] < len(data) else 0)
        else:
            data[coder[3]] = coder[1] >> 24
        coder[3], coder[0] = coder[3] + 1, (coder[0] << 8) & 0xFFFFFFFF
        coder[1] = ((coder[1] << 8) & 0xFFFFFFFF) | 255
    return bit


def decide(bit, kind, first, second, places, model, coder, data, tables):
    """Read (bit -1) or write a decision of a kind, and learn from it; returns it.

    The counters at `places`, one context in each slot, are mixed by two sets of weights, `first` and `second`: the answer is the mean.
    """
    (chances, counts, mixing, inputs), (squash, stretch, _, rates) = model, tables
    here, there = (kind * _SETS + first) * _SLOTS, ((_KINDS + kind) * _SETS + second) * _SLOTS
    one, two = 0, 0
    for slot in range(_SLOTS):
        odds = stretch[chances[(slot * _KINDS + kind) * _WIDTH + places[slot]] >> 4]
        inputs[slot] = odds
        one += mixing[here + slot] * odds
        two += mixing[there + slot] * odds
    one, two = min(max(one >> 16, -_EDGE), _EDGE), min(max(two >> 16, -_EDGE), _EDGE)
    bit = code(bit, squash[((one + two) >> 1) + _EDGE], coder, data)
    wanted = _ONE if bit else 0
    missed, missed_too = wanted - squash[one + _EDGE], wanted - squash[two + _EDGE]
    for slot in range(_SLOTS):
        odds, place = inputs[slot], (slot * _KINDS + kind) * _WIDTH + places[slot]
        mixing[here + slot] += (odds * missed + _ONE) >> 17
        mixing[there + slot] += (odds * missed_too + _ONE) >> 17
        seen = counts[place]
        chances[place] += ((wanted - chances[place]) * rates[seen]) >> 16
        if seen < _PATIENCE:
            counts[place] = seen + 1
    return bit


def walk(codes, writing, size, trellis, model, coder, data, tables, room):
    """Read or write the whole numbers of a tensor, row by row.

    `size` is as `layout` has it; `trellis` is states (0: none, below 0: the second quantizer has no zero), feedback and input.
    """
    (rows, columns, kernel, _), (logs, rates) = size, tables[2:]
    of_column, of_input, places, around = room  # zeros
    state, of_all, half = 0, 0, 0 if trellis[0] == 0 else 1
    for row in range(rows):
        of_row = of_all
        for column in range(columns):
            if coder[3] > len(data) + _BEHIND:
                return
            at, second = row * columns + column, state & 1
            value, least = (abs(codes[at]) + second) >> half, 1 if trellis[0] < 0 and second else 0
            spot, channel = min(column % kernel, 15), column // kernel
            by_row, by_column = logs[min(of_row >> 4, 4095)], logs[min(of_column[column] >> 4, 4095)]
            by_input = logs[min(of_input[channel] >> 4, 4095)]
            look(codes, at, row, column, columns, kernel, half, second, by_row, by_column, by_input, around, places)
            sets = 2 * by_row + second, 2 * by_column + second
            value = -value if codes[at] < 0 else value
            value = entry(value, writing, least, sets, second, spot, around, places, model, coder, data, tables)
            value = (value << half) - second * ((value > 0) - (value < 0))
            codes[at] = value
            state = after(state, value, trellis)
            seen = min(abs(value), 31) << (12 - half)
            of_row += (seen - of_row) >> 6
            of_column[column] += ((seen - of_column[column]) * rates[min(row, 30)]) >> 16
            of_input[channel] += (seen - of_input[channel]) >> 4
        of_all += (of_row - of_all) >> 2


def after(state, value, trellis):
    """Return the state of the trellis behind a multiple of the step."""
    (states, feedback, forward), second = trellis, state & 1
    odd = (value >> 1) & 1 if states < 0 else ((abs(value) + second) >> 1) & 1
    return (state >> 1) ^ ((feedback >> 1) * second) ^ ((forward >> 1) * odd)


def look(codes, at, row, column, columns, kernel, half, second, by_row, by_column, by_input, around, places):
    """Fill `around` with the numbers to the left, in the inputs before and in the rows above, `places` with the contexts of a size."""
    around[0], around[1] = codes[at - 1] if column > 0 else 0, codes[at - 2] if column > 1 else 0
    around[2], around[3] = codes[at - kernel] if column >= kernel else 0, codes[at - 2 * kernel] if column >= 2 * kernel else 0
    around[4], around[5] = codes[at - columns] if row > 0 else 0, codes[at - 2 * columns] if row > 1 else 0
    beside, before = min((2 * abs(around[0]) + abs(around[1])) >> half, 15), min((2 * abs(around[2]) + abs(around[3])) >> half, 15)
    above = min((2 * abs(around[4]) + abs(around[5])) >> half, 15)
    places[0], places[1] = second, 2 * (beside * 16 + before) + second
    places[2], places[3] = 2 * (before * 16 + above) + second, 2 * (above * 24 + by_column) + second
    places[4], places[5] = 2 * (by_row * 16 + beside) + second, 2 * (by_column * 16 + before) + second
    places[6], places[7] = 2 * ((by_row >> 1) * 24 + by_column) + second, 2 * (min(column % kernel, 15) * 24 + by_input) + second


def entry(value, writing, least, sets, second, spot, around, places, model, coder, data, tables):
    """Read or write one number of at least some size in its contexts: its size in unary, then its sign; returns it."""
    size, bit = least, 1
    while size <= _LARGEST and bit:
        bit = decide(int(abs(value) > size) if writing else -1, size, sets[0], sets[1], places, model, coder, data, tables)
        size += bit
    if size > _LARGEST:
        size += large(abs(value) - size if writing else -1, coder, data)
    if size == 0:
        return 0
    bit, places[0] = int(value < 0) if writing else -1, 0
    for slot in range(3):
        one, two, three = around[2 * slot], around[2 * slot + 1], around[(2 * slot + 2) % 6]
        places[slot + 1] = 9 + 3 * ((one > 0) - (one < 0)) + (two > 0) - (two < 0)
        places[slot + 4] = 9 + 3 * ((one > 0) - (one < 0)) + (three > 0) - (three < 0)
    places[7] = 18 * spot + places[4]
    return -size if decide(bit, _SIGN, second, spot, places, model, coder, data, tables) else size


def large(value, coder, data):
    """Read (value -1) or write a number from 0 in Exp-Golomb code, all decisions even; returns it."""
    length, found = 0, 1
    while length < 40 and code(-1 if value < 0 else 1 if (value + 1) >> (length + 1) else 0, _ONE // 2, coder, data):
        length += 1
    for digit in range(length - 1, -1, -1):
        found = 2 * found + code(-1 if value < 0 else ((value + 1) >> digit) & 1, _ONE // 2, coder, data)
    return found - 1


def spell(letters, stride, model, coder, data, tables, places):
    """Read bytes (each -1) or write them, by those before them; those `stride` apart are of the same place in a number."""
    for at in range(len(letters)):
        if coder[3] > len(data) + _BEHIND:
            return
        last, last2 = letters[at - 1] if at > 0 else 0, letters[at - 2] if at > 1 else 0
        last3, last4 = letters[at - 3] if at > 2 else 0, letters[at - 4] if at > 3 else 0
        same, node, letter, place = letters[at - stride] if at >= stride else 0, 1, letters[at], at % stride
        two, three = 256 * last + 92821 * (last2 + 1), 256 * last + 92821 * last2 + 689287 * (last3 + 1)
        four, numbers = three - 689287 + 7654321 * (last4 + 1), 256 * same + 92821 * last + 70001 * (place + 1)
        sums = 256 * (last + 1), two, three, four, numbers - 92821 * last, numbers, 256 * last2 + 92821 * (last4 + 1)
        for digit in range(7, -1, -1):
            bit = -1 if letter < 0 else (letter >> digit) & 1
            places[0] = node + 256 * min(place, 7)
            for slot in range(7):
                places[slot + 1] = (node + sums[slot]) % 24571
            node = 2 * node + decide(bit, 0, min(place, 7), digit, places, model, coder, data, tables)
        letters[at] = node & 255


def parsed(text):
    """Return what JSON text says: objects, lists, whole numbers, and strings without quotes or backslashes in them."""
    apart, stack = str.maketrans({"[": " [ ", "]": " ] ", "{": " { ", "}": " } ", ",": " ", ":": " "}), [[]]
    for place, part in enumerate(text.split('"')):
        for token in [part] if place % 2 else part.translate(apart).split():
            if place % 2 or token not in "[]{}":
                stack[-1].append(token if place % 2 else int(token))
            elif token in "[{":
                stack.append([])
            else:
                items = stack.pop()
                stack[-1].append(items if token == "]" else dict(zip(items[::2], items[1::2], strict=True)))
    [[value]] = stack
    return value
