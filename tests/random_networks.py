"""Random networks, made from a table of operations: what nobody would write, so that no rule is right by luck.

`descriptions()` draws a plain description; `RandomNetwork(description)` is the module that it describes. A description prints as Python
that makes it again, so that a failing example can be pasted and replayed.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from itertools import islice, product
from math import gcd, prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Shape = tuple[int, ...]  # of a value, without the batch


class Step(NamedTuple):
    """One operation: its name in the table, the values that it reads, by number, and what was chosen for it."""

    operation: str
    reads: tuple[int, ...]
    options: dict[str, Any]


class Description(NamedTuple):
    """A network as plain data. Value 0 is the input (embedded, where there is a vocabulary); every step appends its results."""

    shape: Shape
    vocabulary: int
    steps: tuple[Step, ...]
    head: str  # how what nobody read becomes an output: "flatten" or "mean"
    seed: int = 0


class Operation(NamedTuple):
    """An entry of the table."""

    fits: Callable[..., bool]  # of the shapes that it would read
    build: Callable[..., Any]  # of the choice of its options and these shapes: a module or a function of the tensors
    weight: int  # how often it is drawn, compared with the others


class Choice(NamedTuple):
    """What an operation is built with: its options, drawn or replayed, and the layers before it, with the shapes that they read."""

    choose: Callable[[str, Sequence[Any]], Any]
    layers: list[tuple[nn.Module, tuple[Shape, ...]]]

    def __call__(self, name: str, *choices: Any) -> Any:
        """Return the option of that name, one of the choices."""
        return self.choose(name, choices)


OPERATIONS: dict[str, Operation] = {}
WIDTHS = 6, 4, 8, 12, 5, 2, 1
MOST_ENTRIES, MOST_CHANNELS, MOST_PARAMETERS = 600, 48, 3000
INPUTS: tuple[tuple[Shape, int], ...] = (
    *(((4, 6, 6), 0), ((3, 4, 8), 0), ((6, 8), 0), ((5, 12), 0), ((8, 4), 0), ((12,), 0)),
    *(((5, 6), 11), ((4, 8), 7)),  # indices into a vocabulary
)


class RandomNetwork(nn.Module):
    """The network of a description; every value that nobody reads ends in a linear layer, whose results are the outputs."""

    def __init__(self, description: Description) -> None:
        super().__init__()
        self.description = description._replace(steps=())
        if description.vocabulary:
            self.embedding = nn.Embedding(description.vocabulary, description.shape[-1])
        self.layers, self.shapes = nn.ModuleList(), [description.shape]
        for step in description.steps:
            self.extend(step, lambda name, _, options=step.options: options[name])

    def extend(self, step: Step, choose: Callable[[str, Sequence[Any]], Any]) -> bool:
        """Append a step; returns False, and does nothing, where that made the network too large."""
        reads = tuple(self.shapes[i] for i in step.reads)
        earlier = [tuple(self.shapes[i] for i in before.reads) for before in self.description.steps]
        built = OPERATIONS[step.operation].build(Choice(choose, list(zip(self.layers, earlier, strict=True))), *reads)
        layer = built if isinstance(built, nn.Module) else Apply(built)
        with torch.no_grad():
            shapes = [tuple(value.shape[1:]) for value in _several(layer(*(torch.zeros(2, *shape) for shape in reads)))]
        if any(prod(shape) > MOST_ENTRIES or max(shape) > MOST_CHANNELS for shape in shapes) or _parameters(layer) > MOST_PARAMETERS:
            return False
        self.layers.append(layer)
        self.shapes += shapes
        self.description = self.description._replace(steps=(*self.description.steps, step))
        return True

    def finish(self) -> "RandomNetwork":
        """Append the output layers, and make weights and statistics random, in double precision."""
        read = {value for step in self.description.steps for value in step.reads}
        self.loose = [value for value in range(len(self.shapes)) if value not in read]
        sizes = [prod(self.shapes[i]) if self.description.head == "flatten" else self.shapes[i][0] for i in self.loose]
        self.heads = nn.ModuleList(nn.Linear(size, 3) for size in sizes)
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3 if parameter.ndim == 1 else 0.05)
            for name, buffer in self.named_buffers():
                buffer.uniform_(0.5, 2) if name.endswith("running_var") else buffer.normal_() if name.endswith("running_mean") else None
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [self.embedding(x) if self.description.vocabulary else x]
        for layer, step in zip(self.layers, self.description.steps, strict=True):
            values += _several(layer(*(values[i] for i in step.reads)))
        ends = [values[i] for i in self.loose]
        if self.description.head == "mean":
            ends = [end.flatten(2).mean(2) if end.ndim > 2 else end for end in ends]
        return tuple(head(end.flatten(1)) for head, end in zip(self.heads, ends, strict=True))


def build(description: Description) -> RandomNetwork:
    """Return the network of a description, with random weights and statistics, in double precision and train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(description.seed)
        return RandomNetwork(description).finish()


def example(description: Description, batch: int = 2) -> tuple[Tensor]:
    """Return a random input of a described network."""
    generator = torch.Generator().manual_seed(description.seed)
    if description.vocabulary:
        return (torch.randint(description.vocabulary, (batch, *description.shape[:-1]), generator=generator),)
    return (torch.randn(batch, *description.shape, generator=generator, dtype=torch.double),)


@st.composite
def descriptions(draw: st.DrawFn, most: int = 14) -> Description:
    """Draw a network of up to so many operations, of which the first has weights."""
    (shape, vocabulary), head = draw(st.sampled_from(INPUTS)), draw(st.sampled_from(("mean", "flatten")))
    with torch.device("meta"):  # only shapes matter here
        network = RandomNetwork(Description(shape, vocabulary, (), head))
        for number in range(draw(st.integers(1, most))):
            options: dict[str, Any] = {}

            def choose(name: str, choices: Sequence[Any], options: dict[str, Any] = options) -> Any:
                return options.setdefault(name, draw(st.sampled_from(choices)))

            fitting = {name: reads for name in OPERATIONS if (reads := _readable(OPERATIONS[name], network.shapes))}
            names = [name for name in fitting for _ in range(OPERATIONS[name].weight) if number or name in ("linear", "convolution")]
            name = draw(st.sampled_from(names))
            network.extend(Step(name, draw(st.sampled_from(fitting[name])), options), choose)
    return network.description._replace(seed=draw(st.integers(0, 9)))


def _readable(operation: Operation, shapes: list[Shape]) -> list[tuple[int, ...]]:
    """Return what an operation could read of the values so far, the latest first."""
    latest = range(len(shapes) - 1, -1, -1)
    found = product(latest, repeat=len(signature(operation.fits).parameters))
    return list(islice((reads for reads in found if operation.fits(*(shapes[i] for i in reads))), 10))


def _several(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- the table ------------------------------------------------------------------------------------------------------------------------


def operation(fits: Callable[..., bool], weight: int = 1) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a builder in the table under its name."""

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        OPERATIONS[build.__name__] = Operation(fits, build, weight)
        return build

    return register


def anything(_: Shape) -> bool:
    return True


def tokens(shape: Shape) -> bool:
    return len(shape) == 2


def picture(shape: Shape) -> bool:
    return len(shape) == 3


def spatial(shape: Shape) -> bool:
    return tokens(shape) or picture(shape)


def alike(first: Shape, second: Shape) -> bool:
    return first == second


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def axes(shape: Shape) -> range:
    """The axes of a value that are not its batch."""
    return range(1, len(shape) + 1)


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: Tensor) -> Any:
        return self.function(*values)


# layers


@operation(anything, weight=6)
def linear(choice, shape):
    return nn.Linear(shape[-1], choice("out", *WIDTHS), bias=choice("bias", True, False))


@operation(spatial, weight=8)
def convolution(choice, shape):
    groups = choice("groups", *divisors(shape[0]))
    kernel = choice("kernel", 1, 3)
    kind = nn.Conv1d if len(shape) == 2 else nn.Conv2d
    out = groups * choice("multiple", *(WIDTHS if groups == 1 else (1, 2, 3)))
    padding = choice("padding", 1, "same") if kernel == 3 else 0
    stride = 1 if padding == "same" else choice("stride", 1, 2)
    return kind(shape[0], out, kernel, stride, padding, groups=groups, bias=choice("bias", True, False))


@operation(spatial)
def transposed_convolution(choice, shape):
    groups = choice("groups", *divisors(shape[0]))
    kind = nn.ConvTranspose1d if len(shape) == 2 else nn.ConvTranspose2d
    return kind(shape[0], groups * choice("multiple", 1, 2, 3), 2, choice("stride", 1, 2), groups=groups, bias=choice("bias", True, False))


@operation(tokens)
def recurrent(choice, shape):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            kind = getattr(nn, choice("kind", "LSTM", "GRU", "RNN"))
            layers, both = choice("layers", 1, 2), choice("bidirectional", False, True)
            self.cells = kind(
                shape[-1], choice("hidden", 4, 3), layers, batch_first=True, bidirectional=both, bias=choice("bias", True, False)
            )

        def forward(self, x):
            return self.cells(x)[0]

    return Recurrent()


@operation(anything, weight=2)
def again(choice, *shapes):
    """An earlier layer once more: its weights are tied."""
    numbers = [i for i, (layer, read) in enumerate(choice.layers) if read == shapes and _parameters(layer)]
    number = choice("layer", *numbers, None)
    return nn.Identity() if number is None else choice.layers[number][0]


@operation(anything)
def transposed_again(choice, shape):
    """The weight of an earlier linear layer the other way round, as in tied autoencoders and language models."""
    fitting = [i for i, (layer, _) in enumerate(choice.layers) if isinstance(layer, nn.Linear) and layer.out_features == shape[-1]]
    number = choice("layer", *fitting, None)

    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.tied = choice.layers[number][0]

        def forward(self, x):
            return F.linear(x, self.tied.weight.t())

    return nn.Identity() if number is None else Transposed()


# normalization


@operation(anything, weight=3)
def batch_norm(choice, shape):
    kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    return kind(shape[0], affine=choice("affine", True, False), track_running_stats=choice("track", True, False))


@operation(anything)
def layer_norm(choice, shape):
    return nn.LayerNorm(shape[-choice("axes", *axes(shape)) :], bias=choice("bias", True, False))


@operation(anything)
def rms_norm(choice, shape):
    return nn.RMSNorm(shape[-1])


@operation(anything)
def group_norm(choice, shape):
    return nn.GroupNorm(choice("groups", *divisors(shape[0])), shape[0], affine=choice("affine", True, False))


@operation(lambda shape: spatial(shape) and prod(shape[1:]) > 1)
def instance_norm(choice, shape):
    kind = nn.InstanceNorm1d if len(shape) == 2 else nn.InstanceNorm2d
    return kind(shape[0], affine=choice("affine", True, False), track_running_stats=choice("track", True, False))


@operation(anything)
def normalize(choice, shape):
    dim = choice("dim", *axes(shape))
    return lambda x: F.normalize(x, dim=dim)


# entry by entry


@operation(anything, weight=4)
def activation(choice, shape):
    names = "ReLU", "GELU", "Sigmoid", "Tanh", "SiLU", "Hardswish", "Hardsigmoid", "Softplus", "ELU", "ReLU6", "LeakyReLU", "Mish"
    return getattr(nn, choice("kind", *names))()


@operation(anything)
def prelu(choice, shape):
    return nn.PReLU(choice("slopes", shape[0], 1))


@operation(anything)
def dropout(choice, shape):
    return nn.Dropout(0.3)


@operation(anything)
def softmax(choice, shape):
    return nn.Softmax(dim=choice("dim", *axes(shape)))


@operation(anything)
def arithmetic(choice, shape):
    functions = {
        "x + 1": lambda x: x + 1,
        "1 - x": lambda x: 1 - x,
        "clamp": lambda x: x.clamp(-1, 0.5),
        "abs": lambda x: x.abs(),
        "cos": lambda x: x.cos(),
        "masked": lambda x: x.masked_fill(x > 0.3, 0.2),
        "where": lambda x: torch.where(x > 0, x, 0.1 * torch.ones_like(x)),
        "in place": lambda x: x.clone().mul_(2).add_(1),
        "cast": lambda x: x.float().double(),
    }
    return functions[choice("function", *functions)]


@operation(alike, weight=4)
def add(choice, first, second):
    return torch.add


@operation(alike)
def multiply(choice, first, second):
    return torch.mul


@operation(alike)
def gate(choice, first, second):
    return lambda x, y: x * torch.sigmoid(y)


@operation(alike)
def ratio(choice, first, second):
    return lambda x, y: x / (1 + y.abs())


@operation(anything)
def learned(choice, shape):
    """A parameter that is added or multiplied: positions, layer scale."""

    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.randn([size if choice(f"axis {i}", True, False) else 1 for i, size in enumerate(shape)]))
            self.function = {"add": torch.add, "multiply": torch.mul}[choice("function", "add", "multiply")]

        def forward(self, x):
            return self.function(x, self.value)

    return Learned()


@operation(lambda shape: any(size % 2 == 0 for size in shape))
def glu(choice, shape):
    return nn.GLU(choice("dim", *(axis for axis in axes(shape) if shape[axis - 1] % 2 == 0)))


# pictures


@operation(lambda shape: spatial(shape) and min(shape[1:]) > 1)
def pool(choice, shape):
    kind = choice("kind", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
    return getattr(nn, f"{kind}{len(shape) - 1}d")(2)


@operation(anything)
def pad(choice, shape):
    axis, before, after, value = choice("axis", *axes(shape)), choice("before", 1, 0, 2), choice("after", 0, 1, 3), choice("value", 0, 0.5)
    amounts = [0, 0] * (len(shape) - axis) + [before, after]
    return lambda x: F.pad(x, amounts, value=value)


@operation(spatial)
def upsample(choice, shape):
    smooth = "bilinear" if len(shape) == 3 else "linear"
    return nn.Upsample(scale_factor=2, mode=choice("mode", "nearest", smooth))


@operation(lambda shape: picture(shape) and shape[0] % 4 == 0)
def pixel_shuffle(choice, shape):
    return nn.PixelShuffle(2)


@operation(lambda shape: picture(shape) and shape[1] % 2 == shape[2] % 2 == 0)
def pixel_unshuffle(choice, shape):
    return nn.PixelUnshuffle(2)


@operation(picture, weight=2)
def squeeze_excite(choice, shape):
    width = choice("width", 2, 4)

    class SqueezeExcite(nn.Module):
        def __init__(self):
            super().__init__()
            self.squeeze, self.excite = nn.Conv2d(shape[0], width, 1), nn.Conv2d(width, shape[0], 1)

        def forward(self, x):
            return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))

    return SqueezeExcite()


@operation(lambda shape: picture(shape) and shape[0] % 2 == shape[1] % 2 == 0, weight=2)
def windows(choice, shape):
    """Windows of 2 x 2 positions of a picture (height, width, channels), in the batch; within each a layer, or attention."""
    height, width, channels = shape
    inner = attention(choice, (4, channels), (4, channels)) if choice("attention", True, False) else linear(choice, shape)

    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            x = x.view(-1, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
            x = self.inner(x, x) if isinstance(self.inner, Attention) else self.inner(x)
            return x.view(-1, height // 2, width // 2, 2, 2, x.shape[-1]).transpose(2, 3).reshape(-1, height, width, x.shape[-1])

    return Windows()


# joining and taking apart


def joinable(first: Shape, second: Shape) -> bool:
    return len(first) == len(second) and sum(a != b for a, b in zip(first, second, strict=True)) <= 1


@operation(joinable, weight=3)
def concatenate(choice, first, second):
    different = [axis for axis in axes(first) if first[axis - 1] != second[axis - 1]]
    dim = choice("dim", *(different or axes(first)))
    return lambda x, y: torch.cat([x, y], dim)


@operation(lambda first, second: first == second and len(first) < 3)
def stack(choice, first, second):
    dim = choice("dim", *axes(first), len(first) + 1)
    return lambda x, y: torch.stack([x, y], dim)


@operation(lambda shape: max(shape) > 1, weight=3)
def split(choice, shape):
    dim = choice("dim", *(axis for axis in axes(shape) if shape[axis - 1] > 1))
    size, way = shape[dim - 1], choice("way", "sizes", "chunk", "every")
    if way == "sizes":
        first = choice("first", *range(1, size))
        return lambda x: torch.split(x, [first, size - first], dim)
    if way == "chunk":
        return lambda x: torch.chunk(x, 2, dim)
    each = choice("each", *range(max(1, size // 3), size))
    return lambda x: torch.split(x, each, dim)


@operation(lambda shape: max(shape) > 1, weight=2)
def cut_out(choice, shape):
    """A slice, with negative and open ends, or every second entry."""
    dim = choice("dim", *(axis for axis in axes(shape) if shape[axis - 1] > 1))
    size = shape[dim - 1]
    start = choice("start", *range(size))
    end = choice("end", None, *range(start + 1, size + 1))
    start = start - size if choice("negative", False, True) else start
    index = (slice(None),) * dim + (slice(start, end, choice("step", 1, 1, 2)),)
    return lambda x: x[index]


@operation(lambda shape: len(shape) > 1)
def select(choice, shape):
    dim = choice("dim", *axes(shape))
    index = choice("index", 0, -1)
    return lambda x: x.select(dim, index)


@operation(anything)
def moved(choice, shape):
    """Positions that are rolled, reversed, permuted by index or repeated."""
    dim, way = choice("dim", *axes(shape)), choice("way", "roll", "flip", "index", "repeat", "interleave")
    order = torch.arange(shape[dim - 1], device="cpu").flip(0).tolist()
    times = [2 if axis == dim else 1 for axis in range(len(shape) + 1)]
    return {
        "roll": lambda x: torch.roll(x, 1, dim),
        "flip": lambda x: torch.flip(x, [dim]),
        "index": lambda x: x.index_select(dim, torch.tensor(order, device=x.device)),
        "repeat": lambda x: x.repeat(times),
        "interleave": lambda x: x.repeat_interleave(2, dim),
    }[way]


@operation(spatial)
def class_token(choice, shape):
    """A learned entry before all others, the same for every example."""
    dim = choice("dim", *axes(shape))
    sizes = [1 if axis == dim else size for axis, size in zip(axes(shape), shape, strict=True)]

    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, *sizes))

        def forward(self, x):
            return torch.cat([self.token.expand(x.shape[0], *sizes), x], dim)

    return Token()


# shape


@operation(lambda shape: any(len(divisors(size)) > 2 for size in shape), weight=2)
def shuffle(choice, shape):
    """Channel shuffle, by reshape, transpose, reshape."""
    dim = choice("dim", *(axis for axis in axes(shape) if len(divisors(shape[axis - 1])) > 2))
    groups = choice("groups", *divisors(shape[dim - 1])[1:-1])
    return lambda x: x.unflatten(dim, (groups, -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)


@operation(lambda shape: len(shape) < 3 and any(len(divisors(size)) > 2 for size in shape), weight=2)
def unflatten(choice, shape):
    dim = choice("dim", *(axis for axis in axes(shape) if len(divisors(shape[axis - 1])) > 2))
    outer = choice("outer", *divisors(shape[dim - 1])[1:-1])
    return lambda x: x.unflatten(dim, (outer, shape[dim - 1] // outer))


@operation(lambda shape: len(shape) > 1, weight=2)
def flatten(choice, shape):
    start = choice("start", *axes(shape)[:-1])
    return nn.Flatten(start, choice("end", *range(start + 1, len(shape) + 1)))


@operation(lambda shape: len(shape) > 1)
def reshape(choice, shape):
    """Anything that divides the number of entries, across all boundaries."""
    outer = choice("outer", *divisors(prod(shape)))
    return lambda x: x.reshape(x.shape[0], outer, prod(shape) // outer)


@operation(lambda shape: len(shape) > 1, weight=3)
def transpose(choice, shape):
    first = choice("first", *axes(shape)[:-1])
    second = choice("second", *range(first + 1, len(shape) + 1))
    return lambda x: x.transpose(first, second)


@operation(lambda shape: len(shape) < 3)
def unsqueeze(choice, shape):
    dim = choice("dim", *axes(shape), len(shape) + 1)
    return lambda x: x.unsqueeze(dim)


# reductions and products


@operation(lambda shape: len(shape) > 1, weight=2)
def reduce(choice, shape):
    dim = choice("dim", *axes(shape))
    functions = {
        "mean": lambda x: x.mean(dim),
        "sum": lambda x: x.sum(dim),
        "amax": lambda x: x.amax(dim),
        "var": lambda x: x.var(dim, correction=0),
        "norm": lambda x: torch.linalg.vector_norm(x, dim=dim),
        "max": lambda x: x.max(dim)[0],
        "logsumexp": lambda x: torch.logsumexp(x, dim),
    }
    return functions[choice("function", *functions)]


@operation(anything)
def broadcast(choice, shape):
    """A statistic of an axis, expanded, next to the value or multiplied with it."""
    dim = choice("dim", *axes(shape))
    ways = {
        "expand and concatenate": lambda x: torch.cat([x, x.mean(dim, keepdim=True).expand_as(x)], 1),
        "expand": lambda x: x.mean(dim, keepdim=True).expand(-1, *shape),
        "subtract": lambda x: x - x.amax(dim, keepdim=True),
        "gate": lambda x: x * torch.sigmoid(x.sum(dim, keepdim=True)),
    }
    return ways[choice("way", *ways)]


@operation(lambda a, b: len(a) == len(b) == 2 and a[1] == b[0], weight=2)
def product_of(choice, first, second):
    return torch.matmul


@operation(lambda a, b: len(a) == len(b) == 2 and a[1] == b[1])
def scores(choice, first, second):
    ways = {
        "transpose": lambda x, y: x @ y.transpose(1, 2),
        "einsum": lambda x, y: torch.einsum("bic,bjc->bij", x, y),
        "bmm": lambda x, y: torch.bmm(x, y.permute(0, 2, 1)),
    }
    return ways[choice("way", *ways)]


class Attention(nn.Module):
    """Multi-head attention of queries to keys and values, spelled out or fused; keys and values may have fewer heads."""

    def __init__(self, query: int, key: int, heads: int, shared: int, dim: int, way: str) -> None:
        super().__init__()
        self.heads, self.dim, self.shared, self.way = heads, dim, shared, way
        self.query, self.keys = nn.Linear(query, heads * dim), nn.Linear(key, heads // shared * dim * 2)
        self.out = nn.Linear(heads * dim, query)

    def forward(self, x, y):
        batch, length, _ = x.shape
        q = self.query(x).view(batch, length, self.heads, self.dim).transpose(1, 2)
        k, v = self.keys(y).view(batch, y.shape[1], 2, self.heads // self.shared, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.way == "fused":
            attended = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.shared > 1)
        else:
            k, v = (self._repeated(tensor) for tensor in (k, v))
            attended = ((q * self.dim**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(attended.transpose(1, 2).reshape(batch, length, -1))

    def _repeated(self, tensor):
        if self.shared == 1:
            return tensor
        if self.way == "interleave":
            return tensor.repeat_interleave(self.shared, 1)
        batch, heads, length, dim = tensor.shape
        return tensor[:, :, None].expand(batch, heads, self.shared, length, dim).reshape(batch, heads * self.shared, length, dim)


@operation(lambda a, b: len(a) == len(b) == 2, weight=3)
def attention(choice, queries, keys):
    heads = choice("heads", 2, 4, 1, 3)
    shared = choice("shared", *divisors(gcd(heads, 4)))
    dim = choice("dim", 2, 4, 3)
    return Attention(queries[-1], keys[-1], heads, shared, dim, choice("way", "spelled", "fused", "interleave"))


@operation(lambda shape: tokens(shape) and shape[-1] % 2 == 0)
def torch_attention(choice, shape):
    """The attention of torch itself, with queries, keys and values of one matrix."""

    class SelfAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(shape[-1], 2, batch_first=True)
            self.weights = choice("weights", False, True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=self.weights)[0]

    return SelfAttention()
