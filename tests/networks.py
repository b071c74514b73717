"""Tiny networks of every kind: `NETWORKS[name]` is a factory and example inputs with a batch of 2."""

from collections.abc import Callable, Collection
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.program import Program, Uniform, capture, clone, fold_batch_norm, represent, represent_edge, tidy, weights
from laconic.program.observe import observe


def convolution(inputs: int, outputs: int, size: int = 3, **more) -> nn.Sequential:
    """Convolution, batch norm, ReLU in place."""
    more = {"padding": size // 2, "bias": False} | more
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, **more), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(convolution(3, 6), nn.MaxPool2d(2), convolution(6, 8, stride=2))
        self.classifier = nn.Linear(8, 5)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = convolution(3, 8)
        self.body = nn.Sequential(convolution(8, 8), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.shortcut = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(self.body(x) + self.shortcut(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = convolution(3, 4), convolution(3, 6, size=1)
        self.join = convolution(10, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.join(torch.cat([self.left(x), self.right(x)], 1)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        attended, _ = self.attention(x, x, x, need_weights=False)
        return self.fc(self.norm(x + attended).mean(1))


class Transformer(nn.Module):
    """Attention's own dropout is off: it is one of the things that a module does in Python while training."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.layer.self_attn.dropout = 0.0
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.layer(x)[:, 0])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 8)
        self.decoder = nn.Linear(8, 11, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens):
        return self.decoder(torch.tanh(self.hidden(self.embedding(tokens))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]):
        super().__init__()
        self.recurrent = kind(6, 7, batch_first=True)
        self.fc = nn.Linear(7, 5)

    def forward(self, x):
        return self.fc(self.recurrent(x)[0][:, -1])


class OneDimensional(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(4, 6, 5, stride=2), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 8, 3, padding="same"), nn.GELU()
        )
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.features(x).amax(-1))


class Norms(nn.Module):
    """Instance norm with and without running statistics, group norm, layer norm, batch norm of the batch only."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.Sequential(
            nn.InstanceNorm2d(8),
            nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
            nn.GroupNorm(2, 8),
            nn.BatchNorm2d(8, affine=False, track_running_stats=False),
        )
        self.layer = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.layer(torch.relu(self.norms(self.first(x))).amax((2, 3))))


class Frozen(nn.Module):
    """What runs under no_grad gives its weights no gradient."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(6, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        with torch.no_grad():
            x = torch.relu(self.frozen(x))
        return self.fc(x)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(3, 6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x, y):
        return self.fc(torch.relu(self.left(x) * torch.sigmoid(self.right(y))))


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.classes, self.box = nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.body(x))
        return self.classes(x), self.box(x)


class RootParameters(nn.Module):
    """A vision transformer's class token and positions."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], 1) + self.positions
        return self.fc(tokens.softmax(-1)[:, 0])


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]))
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("window", torch.linspace(0, 1, 3), persistent=False)
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(((x - self.mean) * self.window)[:, self.order])


def classifier(body: nn.Module, width: int) -> nn.Sequential:
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def mobile() -> nn.Module:
    return nn.Sequential(convolution(8, 8, groups=8), convolution(8, 12, size=1))


def dropouts() -> nn.Module:
    drops = nn.Dropout(0.4), nn.AlphaDropout(0.2)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), drops[0], nn.Linear(16, 8), drops[1], nn.Linear(8, 5))


PICTURE, SEQUENCE = (2, 3, 8, 8), (2, 5, 8)
_GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    """Return normal numbers, the same in every run."""
    return torch.randn(shape, generator=_GENERATOR)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "convolution": (Plain, (random(*PICTURE),)),
    "residual": (Residual, (random(*PICTURE),)),
    "concat": (Concat, (random(*PICTURE),)),
    "grouped": (lambda: classifier(nn.Sequential(convolution(3, 8), convolution(8, 8, groups=2)), 8), (random(*PICTURE),)),
    "depthwise": (lambda: classifier(nn.Sequential(convolution(3, 8), mobile()), 12), (random(*PICTURE),)),
    "attention": (Attention, (random(*SEQUENCE),)),
    "transformer": (Transformer, (random(*SEQUENCE),)),
    "tied": (Tied, (torch.tensor([[1, 2, 3, 4], [10, 0, 2, 2]]),)),
    "lstm": (lambda: Recurrent(nn.LSTM), (random(2, 5, 6),)),
    "gru": (lambda: Recurrent(nn.GRU), (random(2, 5, 6),)),
    "one-dimensional": (OneDimensional, (random(2, 4, 16),)),
    "norms": (Norms, (random(*PICTURE),)),
    "dropout": (dropouts, (random(2, 6),)),
    "no-grad": (Frozen, (random(2, 6),)),
    "two-inputs": (TwoInputs, (random(2, 4), random(2, 3))),
    "two-outputs": (TwoOutputs, (random(2, 6),)),
    "root-parameters": (RootParameters, (random(*PICTURE),)),
    "buffers": (Buffers, (random(2, 3),)),
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a fresh network of that name in train mode, and its example; its norms hold statistics that are not the initial ones."""
    factory, example = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = factory()
        for buffer_name, buffer in module.named_buffers():
            if buffer_name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            if buffer_name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm) and norm.weight is not None:
                nn.init.normal_(norm.weight, 1, 0.3)
                nn.init.normal_(norm.bias, 0, 0.3)
    return module, example


def captured(name: str) -> tuple[Program, tuple[Tensor, ...]]:
    """Return the program of the network of that name, a fresh copy each time, and its example."""
    return clone(_capture(name)), NETWORKS[name][1]


@cache
def _capture(name: str) -> Program:
    return capture(*build(name))


class Call(nn.Module):
    """Layers by name, joined by a function of (layers, x)."""

    def __init__(self, function: Callable[[nn.ModuleDict, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleDict(layers), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layers, x)


def linear(values: Tensor | None = None) -> Program:
    """Return the program of a linear layer of 6 inputs and 5 outputs between two activations; its weight, `1.weight`, is `values`."""
    program = clone(_linear())
    if values is not None:
        program.get_parameter("1.weight").data = values
    return program


@cache
def _linear() -> Program:
    return capture(nn.Sequential(nn.Tanh(), nn.Linear(6, 5, bias=False), nn.ReLU()), (torch.zeros(2, 6),))


def quantize(
    program: Program, example: tuple[Tensor, ...], kinds: Collection[str] = ("conv1d", "conv2d", "linear"), bits: tuple[int, int] = (8, 8)
) -> Program:
    """Put quantizers on every weight (per channel), on what kernels and sums read and on what ReLUs write; ranges from `example`.

    `bits` are of weights and of activations.
    """
    fold_batch_norm(program)
    kernels = set()
    for weight in weights(program, kinds=kinds):
        kernels.update(weight.readers)
        scale = weight.value.abs().flatten(1).amax(1) / (2 ** (bits[0] - 1) - 1)
        represent(program, weight.name, Uniform(scale, torch.zeros_like(scale), bits[0], axis=0))
    sums = [node for node in program.graph.nodes if node.target is torch.ops.aten.add.Tensor]
    nodes = {node.args[0] for node in kernels} | {value for node in sums for value in node.all_input_nodes if value.op == "call_function"}
    nodes |= {node for node in program.graph.nodes if node.target is torch.ops.aten.relu.default}
    seen: dict[str, Tensor] = {}
    observe(program, [example], nodes, lambda node, value: seen.update({node.name: value.clone()}))
    outputs = {value for node in program.graph.nodes if node.op == "output" for value in node.all_input_nodes}
    for node in [node for node in program.graph.nodes if node in nodes - outputs]:
        low, high = seen[node.name].min().clamp(max=0), seen[node.name].max().clamp(min=0)
        scale = (high - low) / (2 ** bits[1] - 1)
        represent_edge(program, node, Uniform(scale, torch.round(-low / scale), bits[1], signed=False))
    tidy(program)
    return program
