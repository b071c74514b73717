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
_SIGN, _MORE, _LARGEST = 1, 2, 12  # kinds: zero or not, the sign, larger than 1, 2, ... 12; what is larger is in Exp-Golomb code
_PER_BYTE = 1 << 15  # decisions that a byte can hold at most: none is likelier than 1 - 22 / 2**16
_BEGINNING = '{"network":"zoo:lenet300","tensors":[["fc1.weight",[300,784],"float32","grid",[8,-52,9,5,0]],["fc1.bias",[300],"float32",'
_BEGINNING += (
    '"grid",[0,-70,0,0,0]],["conv1.weight",[20,1,5,5],"float16","table",[4]],["layer1.0.bn1.running_mean",[16],"float32","bytes",[]]'
)
TRELLISES = {
    4: (5, 2),
    8: (11, 4),
    16: (19, 4),
    32: (37, 8),
    64: (67, 20),
    128: (157, 86),
    256: (333, 242),
}  # feedback and input, by states
_TYPES = {"float64": 8, "float32": 4, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2, "bool": 1}


class CorruptArtifact(ValueError):  # noqa: N818 - named in the specification
    """The file is truncated, changed, or no `.lac` file of a known version."""


def read(source, limit=LIMIT):
    """Return the arrays of a `.lac` file, by name, from its path or its bytes; `limit` is the most memory in bytes that they may take.

    Raises:
        CorruptArtifact: whatever is wrong with the file; nothing larger than `limit` is allocated before.
    """
    return contents(source, limit)[1]


def contents(source, limit=LIMIT, loops=None):
    """Return the header and the arrays of a `.lac` file; see `read`. `loops` are compiled versions of `walk` and `spell`, if there are."""
    data = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else np.fromfile(source, np.uint8)
    header, body = _opened(data, limit, loops)
    try:
        entries = _checked(header, limit, len(data))
        return header, _arrays(entries, body)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise CorruptArtifact(f"the file's header makes no sense: {error}") from None


def checksum(data):
    """Return the CRC-32 (polynomial 0xEDB88320) of bytes."""
    table, rest = np.arange(256), 0xFFFFFFFF
    for _ in range(8):
        table = (table >> 1) ^ (table & 1) * 0xEDB88320
    remainders = table.tolist()
    for byte in data.tolist():
        rest = remainders[(rest ^ byte) & 255] ^ (rest >> 8)
    return rest ^ 0xFFFFFFFF


def _opened(data, limit, loops):
    """Return the header and what is left of the file: a reader of its coded part."""
    if len(data) < 9 or data[:3].tobytes() != MAGIC:
        raise CorruptArtifact("this is no .lac file, or it is cut off")
    if data[3] != VERSION:
        raise CorruptArtifact(f"the file has version {data[3]}, this reader knows version {VERSION}; take a newer laconic")
    if int.from_bytes(data[4:8].tobytes(), "little") != checksum(data[8:]):
        raise CorruptArtifact("the file is damaged: its checksum differs from the one it was written with")
    body = Stream(data[8:], loops)
    length = body.number()
    if length > min(limit, _PER_BYTE // 8 * len(data)):
        raise CorruptArtifact(f"the file says that its header has {length} bytes, more than it can hold")
    return parsed(body.text(length)), body


def _checked(header, limit, size):
    """Return the tensors that a header describes, if they can be in so many bytes and fit the limit."""
    if not isinstance(header, dict) or not isinstance(header.get("tensors"), list):
        raise CorruptArtifact("the file's header describes no tensors")
    left, decisions, names = limit, _PER_BYTE * size, set()
    for name, shape, kind, form, settings in header["tensors"]:
        if not isinstance(name, str) or name in names or kind not in _TYPES or form not in _FORMS or not isinstance(settings, list):
            raise CorruptArtifact(f"the file's header describes a tensor that cannot be: {name!r}")
        if len(shape) > 16 or not all(type(each) is int and 0 <= each < 1 << 40 for each in shape):
            raise CorruptArtifact(f"the tensor {name!r} cannot have the shape {shape}")
        entries = int(np.prod(shape, dtype=object))
        left -= (_TYPES[kind] if form == "same" else 32) * entries + 64
        decisions -= 0 if form == "same" else entries
        if left < 0 or decisions < 0:
            raise CorruptArtifact(f"the tensor {name!r} of shape {shape} is beyond the limit of {limit} bytes, or what the file can hold")
        names.add(name)
    return header["tensors"]


def _arrays(entries, body):
    arrays = {}
    for name, shape, kind, form, settings in entries:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = _FORMS[form](body, shape, count, kind, *settings).reshape(shape)
    return arrays


def _same(body, shape, count, kind):
    """All entries are alike."""
    return np.full(count, body.bytes(_TYPES[kind], _TYPES[kind]).view(kind)[0])


def _bytes(body, shape, count, kind, stored=None):
    """The numbers as they are stored, maybe as ones of another kind."""
    stored = stored or kind
    return body.bytes(_TYPES[stored] * count, _TYPES[stored]).view(stored).astype(kind)


def _sparse(body, shape, count, kind):
    """Which entries are zero, then the others as they are stored."""
    kept = body.codes(shape, count, 0) != 0
    array = np.zeros(count, kind)
    array[kept] = body.bytes(_TYPES[kind] * int(kept.sum()), _TYPES[kind]).view(kind)
    return array


def _table(body, shape, count, kind, below, size):
    """Codes of a table: the lowest code is -below."""
    if not 0 <= below < size <= 1 << 16:
        raise CorruptArtifact("a table is too large")
    codes = body.codes(shape, count, 0) + below
    table = body.bytes(_TYPES[kind] * size, _TYPES[kind]).view(kind)
    if count and (codes.min() < 0 or codes.max() >= size):
        raise CorruptArtifact("a code is beyond its table")
    return table[codes]


def _grid(body, shape, count, kind, states, step, *nearer):
    """Multiples of a step, 2**(step / 16); those of size 1, 2 and more are nearer to zero by so many 64ths of it."""
    if abs(step) > 16000 or any(abs(each) > 63 for each in nearer):
        raise CorruptArtifact("a step is no number, or values are shifted by more than it")
    codes = body.codes(shape, count, states)
    levels = 64 * multiples(codes, states)
    for size, shift in enumerate(nearer, 1):
        chosen = np.abs(levels) == 64 * size if size < len(nearer) else np.abs(levels) >= 64 * size
        levels = np.where(chosen, levels - np.sign(levels) * shift, levels)
    return (levels * (step_size(step) / 64)).astype(kind)


_FORMS = {"same": _same, "bytes": _bytes, "sparse": _sparse, "table": _table, "grid": _grid}


def multiples(codes, states):
    """Return the multiples of the step that codes stand for; the trellis says which are of the second quantizer, of odd ones and zero."""
    if states <= 1:
        return codes
    feedback, forward = TRELLISES[states]
    state, second = 0, np.zeros(len(codes), np.int64)
    for at, odd in enumerate((codes & 1).tolist()):
        second[at] = state & 1
        state = next_state(state, odd, feedback, forward)
    return 2 * codes - np.sign(codes) * second


def step_size(step):
    """Return 2**(step / 16), by operations that are exactly rounded everywhere."""
    root, size = np.sqrt(np.sqrt(np.sqrt(np.sqrt(2.0)))), 1.0
    for _ in range(step % 16):
        size = size * root
    return np.ldexp(size, step // 16)


def next_state(state, odd, feedback, forward):
    """Return the state after a code that is odd or even; its lowest bit says which quantizer is next."""
    return (state >> 1) ^ ((feedback >> 1) * (state & 1)) ^ ((forward >> 1) * odd)


class Stream:
    """The coded part of a file: numbers and text one after the other, all read with one model that learns from them."""

    def __init__(self, data, loops=None):
        """Begin to read."""
        self.loops = loops
        self._data = data.copy() if self.loops else data.tolist()
        start = [*data[:4].tolist(), 0, 0, 0, 0][:4]
        self._coder = self._kind([0, 0xFFFFFFFF, int.from_bytes(bytes(start), "big"), 4])
        self._tables, self._numbers, self._letters = self._kinds(tables()), self._kinds(new_model()), self._kinds(new_model())
        self._room, self._places = self._kinds([[0] * _SLOTS] * 2)
        self.spelled([ord(letter) for letter in _BEGINNING], 1, learning=True)

    def _kind(self, values):
        """Lists are faster in plain Python; compiled code needs arrays."""
        return np.array(values, np.int64) if self.loops else list(values)

    def _kinds(self, arrays):
        return tuple(self._kind(each) for each in arrays)

    def number(self):
        """Return a whole number: 7 bits of it a byte, the lowest first; the last is below 128."""
        value, shift, byte = 0, 0, 128
        while byte > 127 and shift < 63:
            byte = int(self.bytes(1, 1)[0])
            value, shift = value | (byte & 127) << shift, shift + 7
        return value

    def text(self, length):
        """Return so many letters."""
        return self.bytes(length, 1).tobytes().decode("ascii", "replace")

    def bytes(self, count, stride):
        """Return so many bytes; those `stride` apart are of the same place in a number."""
        return np.array(self.spelled([-1] * count, stride), np.uint8)

    def spelled(self, letters, stride, learning=False):
        """Read letters (each -1) or write them, or only learn from them."""
        letters, coder = self._kind(letters), self._kind([0, 0xFFFFFFFF, 0, 0]) if learning else self._coder
        data = np.zeros(2 * len(letters) + 8, np.uint8) if learning else self._data
        (self.loops.spell if self.loops else spell)(letters, stride, (*self._letters, self._room), coder, data, self._tables, self._places)
        return letters

    def codes(self, shape, count, states, values=None):
        """Return the whole numbers of a tensor, read or written."""
        rows = shape[0] if len(shape) > 1 and shape[0] else 1
        columns = count // rows if count else 0
        kernel = max(1, count // (rows * shape[1])) if len(shape) > 2 and count else 1
        room = (*self._kinds([[0] * columns, [0] * (columns // kernel + 1)]), self._places, self._kind([0] * 6))
        codes = self._kind([0] * count if values is None else values)
        size = (rows, columns, kernel)
        model, trellis = (*self._numbers, self._room), (states, *TRELLISES.get(states, (0, 0)))
        run = self.loops.walk if self.loops else walk
        run(codes, values is not None, size, trellis, model, self._coder, self._data, self._tables, room)
        return np.array(codes, np.int64)


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
    stretch, at = [], 0
    for bucket in range(4096):
        while at < 2 * _EDGE and squash[at] < bucket * 16 + 8:
            at += 1
        stretch.append(at - _EDGE)
    rates = [2 * _ONE // (2 * n + 3) for n in range(_PATIENCE + 1)]
    logs = [0, 1] + [min(23, 2 * n.bit_length() - 2 + (n >> (n.bit_length() - 2) & 1)) for n in range(2, 4096)]
    return squash, stretch, rates, logs


def new_model():
    """Return counters, how often each was used, and mixing weights, as every stream begins."""
    counters = _SLOTS * _KINDS * _WIDTH
    return [_ONE // 2] * counters, [0] * counters, [10000] * (2 * _KINDS * _SETS * _SLOTS)


def code(bit, probability, coder, data):
    """Read (bit -1) or write a decision that is 1 with a probability in 2**-16; returns it.

    `coder` is the low and the high end of an interval of 32 bits, the value that is read in it, and the place in `data`, which are bytes.
    """
    low, span = coder[0], coder[1] - coder[0]
    middle = low + (span >> 16) * probability + (((span & 65535) * probability) >> 16)
    reading = bit < 0
    if reading:
        bit = 1 if coder[2] <= middle else 0
    if bit:
        coder[1] = middle
    else:
        coder[0] = middle + 1
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
    squash, stretch, rates, _ = tables
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

    `size` is rows (outputs), columns (weights of an output), and how many consecutive ones are of the same input; `trellis` its states,
    feedback and input, fewer than two states for a single quantizer; `room` zeros for columns, inputs, slots, neighbours.
    """
    rows, columns, kernel = size
    states, feedback, forward = trellis
    logs, rates = tables[3], tables[2]
    of_column, of_input, places, around = room
    state, of_all = 0, 0
    for row in range(rows):
        of_row = of_all
        for column in range(columns):
            at, second, spot, channel = row * columns + column, state & 1, min(column % kernel, 15), column // kernel
            look(codes, at, row, column, columns, kernel, around)
            by_row, by_column = logs[min(of_row >> 4, 4095)], logs[min(of_column[column] >> 4, 4095)]
            contexts(around, second, spot, by_row, by_column, logs[min(of_input[channel] >> 4, 4095)], places)
            sets = 2 * by_row + second, 2 * by_column + second
            value = entry(codes[at], writing, sets, second, spot, around, places, model, coder, data, tables)
            codes[at] = value
            if states > 1:
                state = (state >> 1) ^ ((feedback >> 1) * second) ^ ((forward >> 1) * (value & 1))
            seen = min(abs(value), 15) << 12
            of_row += (seen - of_row) >> 6
            of_column[column] += ((seen - of_column[column]) * rates[min(row, 30)]) >> 16
            of_input[channel] += (seen - of_input[channel]) >> 4
        of_all += (of_row - of_all) >> 2


def look(codes, at, row, column, columns, kernel, around):
    """Fill `around` with the two numbers to the left, of the same place in the inputs before, and in the rows above."""
    around[0] = codes[at - 1] if column > 0 else 0
    around[1] = codes[at - 2] if column > 1 else 0
    around[2] = codes[at - kernel] if column >= kernel else 0
    around[3] = codes[at - 2 * kernel] if column >= 2 * kernel else 0
    around[4] = codes[at - columns] if row > 0 else 0
    around[5] = codes[at - 2 * columns] if row > 1 else 0


def contexts(around, second, spot, by_row, by_column, by_input, places):
    """Fill `places` with the contexts of a number's size: its neighbours' sizes and how large numbers have been in its row and column."""
    beside = min(2 * abs(around[0]) + abs(around[1]), 15)
    before = min(2 * abs(around[2]) + abs(around[3]), 15)
    above = min(2 * abs(around[4]) + abs(around[5]), 15)
    places[0] = second
    places[1] = 2 * (beside * 16 + before) + second
    places[2] = 2 * (before * 16 + above) + second
    places[3] = 2 * (above * 24 + by_column) + second
    places[4] = 2 * (by_row * 16 + beside) + second
    places[5] = 2 * (by_column * 16 + before) + second
    places[6] = 2 * ((by_row >> 1) * 24 + by_column) + second
    places[7] = 2 * (spot * 24 + by_input) + second


def entry(value, writing, sets, second, spot, around, places, model, coder, data, tables):
    """Read or write one number in its contexts: whether it is 0, its size in unary, its sign; returns it."""
    first, too = sets
    if not decide((1 if value != 0 else 0) if writing else -1, 0, first, too, places, model, coder, data, tables):
        return 0
    size = 1
    while size <= _LARGEST:
        bit = (1 if abs(value) > size else 0) if writing else -1
        if not decide(bit, _MORE + size - 1, first, too, places, model, coder, data, tables):
            break
        size += 1
    if size > _LARGEST:
        size += large(abs(value) - size if writing else -1, coder, data)
    places[0] = 0
    for slot in range(3):
        places[slot + 1] = 9 + pair(around[2 * slot], around[2 * slot + 1])
        places[slot + 4] = 9 + pair(around[2 * slot], around[(2 * slot + 2) % 6])
    places[7] = 18 * spot + places[4]
    bit = (1 if value < 0 else 0) if writing else -1
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
        last = letters[at - 1] if at > 0 else 0
        last2 = letters[at - 2] if at > 1 else 0
        last3 = letters[at - 3] if at > 2 else 0
        last4 = letters[at - 4] if at > 3 else 0
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
    value, end = _value(text, 0, 0)
    if text[end:].strip():
        raise CorruptArtifact("the file's header is no JSON")
    return value


def _value(text, at, depth):
    """Return the value that begins at a place of the text, and the place behind it."""
    first = text[at : at + 1]
    if depth > 64 or not first:
        raise CorruptArtifact("the file's header is no JSON")
    if first in "[{":
        return _items(text, at + 1, depth, "]" if first == "[" else "}")
    if first == '"':
        return _letters(text, at + 1)
    for word, value in (("true", True), ("false", False), ("null", None)):
        if text.startswith(word, at):
            return value, at + len(word)
    end = at + 1
    while text[end : end + 1].isdigit():
        end += 1
    return int(text[at:end]), end


def _items(text, at, depth, close):
    items = []
    while text[at : at + 1] != close:
        item, at = _value(text, at, depth + 1)
        items.append(item)
        if text[at : at + 1] not in (",", ":", close):
            raise CorruptArtifact("the file's header is no JSON")
        at += text[at : at + 1] != close
    return (items if close == "]" else dict(zip(items[::2], items[1::2], strict=True))), at + 1


def _letters(text, at):
    letters = []
    while text[at : at + 1] != '"':
        at += text[at : at + 1] == "\\"
        if at >= len(text):
            raise CorruptArtifact("the file's header is no JSON")
        letters.append(text[at])
        at += 1
    return "".join(letters), at + 1
