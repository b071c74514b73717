"""Read `.lac` files with NumPy alone: this file needs nothing else of Laconic and may be copied anywhere.

    arrays = read("network.lac")     # {name: array}

The format is written down in docs/lac.md. Whole numbers are coded one binary decision at a time. The probability of each is mixed from
counters that live in contexts of what has been read before, so no tables are stored (M. Mahoney, "Adaptive Weighing of Context Models for
Lossless Data Compression", Florida Tech CS-2005-16). All of it is whole-number arithmetic, the same on every machine. `code`, `decide`,
`walk` and `spell` both read and write, so the two cannot disagree.
"""

import numpy as np

MAGIC, VERSION = b"LAC", 1
LIMIT = 1 << 31  # bytes of all arrays together that are decoded unless the caller allows more
_ONE = 1 << 16  # a probability of 1
_EDGE = 2047  # of log odds, in 256ths
_SLOTS, _KINDS, _WIDTH = 8, 24, 1024  # counters asked for each decision, kinds of decision, contexts of a kind in a slot
_SETS = 64  # of mixing weights for each kind
_PATIENCE = 1020  # observations after which a counter forgets
_SIGN, _LARGEST = 13, 12  # kinds: larger than 0, 1, ... 12, then the sign; what is larger is in Exp-Golomb code
_PER_BYTE = 1 << 14  # decisions that a byte can hold at most: none is likelier than 1 - 23 / 2**16
_BEHIND = 8  # zeros that are read behind the end at most
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
# Feedback and input of a trellis, by its states
TRELLISES = {4: (5, 2), 8: (11, 4), 16: (19, 4), 32: (37, 8), 64: (67, 20), 128: (157, 86), 256: (333, 242)}
_TYPES = {"float64": 8, "float32": 4, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2, "bool": 1}


class CorruptArtifact(ValueError):  # noqa: N818 - named in the specification
    """The file is truncated, changed, or no `.lac` file of a known version."""


def read(source, limit=LIMIT):
    """Return the arrays of a `.lac` file, by name, from its path or its bytes.

    `limit` is the most memory in bytes that they may take, with what the largest of them needs while it is read.

    Raises:
        CorruptArtifact: whatever is wrong with the file; nothing larger than `limit` is allocated before.
    """
    return contents(source, limit)[1]


def contents(source, limit=LIMIT, loops=None):
    """Return the header and the arrays of a `.lac` file; see `read`. `loops` are compiled versions of `walk` and `spell`, if there are."""
    data = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else np.fromfile(source, np.uint8)
    body, arrays = _opened(data, loops), {}
    try:
        header, taken = _header(body, limit, len(data))
        _check(header["tensors"], taken, limit, len(data))
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


def _opened(data, loops):
    """Return a reader of the coded part of a file that is whole."""
    if len(data) < 9 or data[:3].tobytes() != MAGIC:
        raise CorruptArtifact("this is no .lac file, or it is cut off")
    if data[3] != VERSION:
        raise CorruptArtifact(f"the file has version {data[3]}, this reader knows version {VERSION}; take a newer laconic")
    if int.from_bytes(data[4:8].tobytes(), "little") != (loops or globals())["checksum"](data[8:]):
        raise CorruptArtifact("the file is damaged: its checksum differs from the one it was written with")
    return Stream(data[8:], loops)


def _header(body, limit, size):
    """Return the header of a file of so many bytes, and how much of the limit it takes."""
    length, shift, byte = 0, 0, 128
    while byte > 127 and shift < 63:
        byte = int(body.bytes(1, 1)[0])
        length, shift = length | (byte & 127) << shift, shift + 7
    if 64 * length > limit or length > _PER_BYTE // 8 * size:
        raise CorruptArtifact(f"a header of {length} letters is beyond the limit of {limit} bytes, or what the file can hold")
    return parsed(body.bytes(length, 1).tobytes().decode("ascii", "replace")), 64 * length


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


def _same(body, shape, count, kind):
    """All entries are alike."""
    return np.full(count, body.stored(kind, 1)[0])


def _bytes(body, shape, count, kind, stored=None):
    """The numbers as they are stored, maybe as ones of a narrower kind."""
    return body.stored(stored or kind, count).astype(kind)


def _text(body, shape, count, kind):
    """Letters that describe a program."""
    body.learn(GRAPH)
    return body.stored(kind, count)


def _sparse(body, shape, count, kind):
    """Which entries are zero, then the others as they are stored."""
    kept = body.codes(shape, count, 0) != 0
    array = np.zeros(count, kind)
    array[kept] = body.stored(kind, int(kept.sum()))
    return array


def _table(body, shape, count, kind, below, size):
    """Codes of a table: the lowest code is -below."""
    codes = body.codes(shape, count, 0) + below
    table = body.stored(kind, size)
    if count and (codes.min() < 0 or codes.max() >= size):
        raise CorruptArtifact("a code is beyond its table")
    return table[codes]


def _grid(body, shape, count, kind, states, step, *nearer):
    """Multiples of a step, 2**(step / 16); those of size 1, 2 and more are nearer to zero by so many 64ths of it."""
    found = body.codes(shape, count, states)
    lowest, highest = (int(found.min()), int(found.max())) if count else (0, 0)
    if highest - lowest >= count:
        return levels(found, kind, step, nearer)
    return levels(np.arange(lowest, highest + 1), kind, step, nearer)[found - lowest]


_FORMS = {"same": _same, "bytes": _bytes, "text": _text, "sparse": _sparse, "table": _table, "grid": _grid}


def levels(multiples, kind, step, nearer):
    """Return the numbers that multiples of a step stand for; see `_grid`."""
    places = 64 * multiples
    for size, shift in enumerate(nearer, 1):
        chosen = np.abs(multiples) == size if size < len(nearer) else np.abs(multiples) >= size
        places = np.where(chosen, places - np.sign(multiples) * shift, places)
    largest = float(np.finfo(kind).max)
    return np.clip(places * (step_size(step) / 64), -largest, largest).astype(kind)


def step_size(step):
    """Return 2**(step / 16), by operations that are exactly rounded everywhere."""
    root, size = np.sqrt(np.sqrt(np.sqrt(np.sqrt(2.0)))), 1.0
    for _ in range(step % 16):
        size = size * root
    return np.ldexp(size, step // 16)


class Stream:
    """The coded part of a file: numbers and text one after the other, all read with one model that learns from them."""

    def __init__(self, data, loops=None):
        """Begin to read."""
        self.loops = loops
        self._data = data.copy() if loops else data.tolist()
        start = int.from_bytes(data[:4].tobytes().ljust(4, b"\0"), "big")
        self._coder = self._kind([0, 0xFFFFFFFF, start, 4])
        self._tables, self._numbers, self._letters = tuple(map(self._kind, _TABLES)), self._model(), self._model()
        self._room, self._places = self._filled(0, _SLOTS), self._filled(0, _SLOTS)
        self.learn(_BEGINNING)

    def _kind(self, values):
        """Lists are faster in plain Python; compiled code needs arrays."""
        return np.asarray(values, np.int64) if self.loops else values

    def _filled(self, value, count):
        return np.full(count, value, np.int64) if self.loops else [value] * count

    def _model(self):
        """Return counters, how often each was used, and mixing weights, as every stream begins."""
        counters, mixing = _SLOTS * _KINDS * _WIDTH, 2 * _KINDS * _SETS * _SLOTS
        return self._filled(_ONE // 2, counters), self._filled(0, counters), self._filled(10000, mixing)

    def ended(self):
        """Say whether nothing is left to read; raises when more was read than there is."""
        if self._coder[3] > len(self._data) + _BEHIND:
            raise CorruptArtifact("the file ends too early")
        return self._coder[3] >= len(self._data)

    def stored(self, kind, count):
        """Return so many numbers as they are stored, the lowest byte first."""
        found = self.bytes(_TYPES[kind] * count, _TYPES[kind])
        return found != 0 if kind == "bool" else found.view(np.dtype(kind).newbyteorder("<")).astype(kind, copy=False)

    def bytes(self, count, stride):
        """Return so many bytes; those `stride` apart are of the same place in a number."""
        return np.array(self.spelled(self._filled(-1, count), stride), np.uint8)

    def learn(self, text):
        """Let the model of letters learn from a text that is not in the file."""
        self.spelled([ord(letter) for letter in text], 1, [0, 0xFFFFFFFF, 0, 0], np.zeros(12 * len(text) + 8, np.uint8))

    def spelled(self, letters, stride, coder=None, data=None):
        """Return letters, read (where each is -1) or written; with another coder they are only learnt from."""
        run, room = (self.loops or globals())["spell"], (self._tables, self._places)
        coder, data = (self._coder, self._data) if data is None else (self._kind(coder), data)
        run(self._kind(letters), stride, (*self._letters, self._room), coder, data, *room)
        self.ended()
        return letters

    def codes(self, shape, count, states, values=None):
        """Return the whole numbers of a tensor, read or written."""
        rows = shape[0] if len(shape) > 1 and count else 1
        columns = count // rows
        kernel = max(1, count // (rows * shape[1])) if len(shape) > 2 and count else 1
        room = self._filled(0, columns), self._filled(0, columns // kernel + 1), self._places, self._filled(0, 6)
        codes = self._filled(0, count) if values is None else self._kind(values)
        run, trellis = (self.loops or globals())["walk"], (states, *TRELLISES.get(abs(states), (0, 0)))
        model, coder = (*self._numbers, self._room), (self._coder, self._data)
        run(codes, values is not None, (rows, columns, kernel), trellis, model, *coder, self._tables, room)
        self.ended()
        return np.asarray(codes, np.int64)


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

    `coder` is the low and the high end of an interval of 32 bits, the value that is read in it, and the place in `data`, which are bytes.
    """
    low, span = coder[0], coder[1] - coder[0]
    middle = low + (span >> 16) * probability + (((span & 65535) * probability) >> 16)
    reading = bit < 0
    if reading:
        bit = 1 if coder[2] <= middle else 0
    coder[bit] = middle + 1 - bit
    while ((coder[0] ^ coder[1]) & 0xFF000000) == 0:
        if reading:
            coder[2] = ((coder[2] << 8) & 0xFFFFFFFF) | (data[coder[3]] if coder[3] < len(data) else 0)
        else:
            data[coder[3]] = coder[1] >> 24
        coder[3] += 1
        coder[0] = (coder[0] << 8) & 0xFFFFFFFF
        coder[1] = ((coder[1] << 8) & 0xFFFFFFFF) | 255
    return bit


def decide(bit, kind, first, second, places, model, coder, data, tables):
    """Read (bit -1) or write a decision of a kind, and learn from it; returns it.

    The counters at `places`, one context in each slot, are mixed by two sets of weights, `first` and `second` (below 64); the answer is the
    mean of both. `model` is chances, how often each was seen, mixing weights, and room for log odds.
    """
    chances, counts, mixing, inputs = model
    squash, stretch, _, rates = tables
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

    `size` is rows (outputs), columns (weights of an output), and how many consecutive ones are of the same input; `trellis` its states
    (0: none, below 0: its second quantizer has no zero), feedback and input; `room` zeros for columns, inputs, slots, neighbours.
    """
    rows, columns, kernel = size
    logs, rates = tables[2:]
    of_column, of_input, places, around = room
    state, of_all, half = 0, 0, 0 if trellis[0] == 0 else 1
    for row in range(rows):
        of_row = of_all
        for column in range(columns):
            if coder[3] > len(data) + _BEHIND:
                return
            at, second = row * columns + column, state & 1
            value, least = (abs(codes[at]) + second) >> half, 1 if trellis[0] < 0 and second else 0
            spot, channel = min(column % kernel, 15), column // kernel
            look(codes, at, row, column, columns, kernel, around)
            by_row, by_column = logs[min(of_row >> 4, 4095)], logs[min(of_column[column] >> 4, 4095)]
            contexts(around, half, second, spot, by_row, by_column, logs[min(of_input[channel] >> 4, 4095)], places)
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
    states, feedback, forward = trellis
    second = state & 1
    odd = (value >> 1) & 1 if states < 0 else ((abs(value) + second) >> 1) & 1
    return (state >> 1) ^ ((feedback >> 1) * second) ^ ((forward >> 1) * odd)


def look(codes, at, row, column, columns, kernel, around):
    """Fill `around` with the two numbers to the left, of the same place in the inputs before, and in the rows above."""
    around[0], around[1] = codes[at - 1] if column > 0 else 0, codes[at - 2] if column > 1 else 0
    around[2], around[3] = codes[at - kernel] if column >= kernel else 0, codes[at - 2 * kernel] if column >= 2 * kernel else 0
    around[4], around[5] = codes[at - columns] if row > 0 else 0, codes[at - 2 * columns] if row > 1 else 0


def contexts(around, half, second, spot, by_row, by_column, by_input, places):
    """Fill `places` with the contexts of a number's size: its neighbours' sizes and how large numbers have been in its row and column."""
    beside = min((2 * abs(around[0]) + abs(around[1])) >> half, 15)
    before = min((2 * abs(around[2]) + abs(around[3])) >> half, 15)
    above = min((2 * abs(around[4]) + abs(around[5])) >> half, 15)
    places[0] = second
    places[1] = 2 * (beside * 16 + before) + second
    places[2] = 2 * (before * 16 + above) + second
    places[3] = 2 * (above * 24 + by_column) + second
    places[4] = 2 * (by_row * 16 + beside) + second
    places[5] = 2 * (by_column * 16 + before) + second
    places[6] = 2 * ((by_row >> 1) * 24 + by_column) + second
    places[7] = 2 * (spot * 24 + by_input) + second


def entry(value, writing, least, sets, second, spot, around, places, model, coder, data, tables):
    """Read or write one number of at least some size in its contexts: its size in unary, then its sign; returns it."""
    size, bit = least, 1
    while size <= _LARGEST and bit:
        bit = (1 if abs(value) > size else 0) if writing else -1
        bit = decide(bit, size, sets[0], sets[1], places, model, coder, data, tables)
        size += bit
    if size > _LARGEST:
        size += large(abs(value) - size if writing else -1, coder, data)
    if size == 0:
        return 0
    bit = (1 if value < 0 else 0) if writing else -1
    places[0] = 0
    for slot in range(3):
        places[slot + 1] = 9 + pair(around[2 * slot], around[2 * slot + 1])
        places[slot + 4] = 9 + pair(around[2 * slot], around[(2 * slot + 2) % 6])
    places[7] = 18 * spot + places[4]
    return -size if decide(bit, _SIGN, second, spot, places, model, coder, data, tables) else size


def pair(one, two):
    """Return the signs of two numbers as one, from -4 to 4."""
    return 3 * ((one > 0) - (one < 0)) + (two > 0) - (two < 0)


def large(value, coder, data):
    """Read (value -1) or write a number from 0 in Exp-Golomb code, all decisions even; returns it."""
    length, bit, found = 0, -1, 1
    while length < 40:
        if value >= 0:
            bit = 1 if (value + 1) >> (length + 1) else 0
        if not code(bit, _ONE // 2, coder, data):
            break
        length += 1
    for digit in range(length - 1, -1, -1):
        if value >= 0:
            bit = ((value + 1) >> digit) & 1
        found = 2 * found + code(bit, _ONE // 2, coder, data)
    return found - 1


def spell(letters, stride, model, coder, data, tables, places):
    """Read bytes (each -1) or write them, by those before them; those `stride` apart are of the same place in a number."""
    for at in range(len(letters)):
        if coder[3] > len(data) + _BEHIND:
            return
        last, last2 = letters[at - 1] if at > 0 else 0, letters[at - 2] if at > 1 else 0
        last3, last4 = letters[at - 3] if at > 2 else 0, letters[at - 4] if at > 3 else 0
        same = letters[at - stride] if at >= stride else 0
        node, letter, place = 1, letters[at], at % stride
        for digit in range(7, -1, -1):
            bit = -1 if letter < 0 else (letter >> digit) & 1
            places[0] = node + 256 * min(place, 7)
            places[1] = (node + 256 * (last + 1)) % 24571
            places[2] = (node + 256 * last + 92821 * (last2 + 1)) % 24571
            places[3] = (node + 256 * last + 92821 * last2 + 689287 * (last3 + 1)) % 24571
            places[4] = (node + 256 * last + 92821 * last2 + 689287 * last3 + 7654321 * (last4 + 1)) % 24571
            places[5] = (node + 256 * same + 70001 * (place + 1)) % 24571
            places[6] = (node + 256 * same + 92821 * last + 70001 * (place + 1)) % 24571
            places[7] = (node + 256 * last2 + 92821 * (last4 + 1)) % 24571
            bit = decide(bit, 0, min(place, 7), digit, places, model, coder, data, tables)
            node = 2 * node + bit
        letters[at] = node & 255


def parsed(text):
    """Return what JSON text says: objects, lists, whole numbers, true, false, null, and strings that escape only quotes and backslashes."""
    value, end = _value(text, 0)
    if text[end:]:
        raise CorruptArtifact("its header is no JSON")
    return value


def _value(text, at):
    """Return the value that begins at a place of the text, and the place behind it."""
    begin, at, items = text[at], at + 1, []
    if begin in "[{":
        while text[at] not in "]}":
            item, at = _value(text, at)
            items.append(item)
            if text[at] not in ",:]}":
                raise CorruptArtifact("its header is no JSON")
            at += text[at] in ",:"
        if text[at] != {"[": "]", "{": "}"}[begin]:
            raise CorruptArtifact("its header is no JSON")
        return (items if begin == "[" else dict(zip(items[::2], items[1::2], strict=True))), at + 1
    if begin == '"':
        while text[at] != '"':
            at += text[at] == "\\"
            items.append(text[at])
            at += 1
        return "".join(items), at + 1
    for word, value in (("true", True), ("false", False), ("null", None)):
        if text.startswith(word, at - 1):
            return value, at - 1 + len(word)
    end = at
    while text[end : end + 1].isdigit():
        end += 1
    return int(text[at - 1 : end]), end
