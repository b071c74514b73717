"""Every operation between two layers: its channels are found, cutting them equals zeroing them, and what must stay whole says why."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from laconic.program import capture, clone
from laconic.program.cut import cut
from laconic.program.groups import find
from laconic.program.zero import zero

COSINE, SINE = torch.linspace(0, 1, 8), torch.linspace(1, 0, 8)
PICTURE, SERIES, VOLUME, TOKENS, VECTOR = (2, 3, 8, 8), (2, 3, 8), (2, 3, 4, 4, 4), (2, 5, 6), (2, 6)


class Between(nn.Module):
    """A layer, an operation, and another layer."""

    def __init__(self, first, operation, last):
        super().__init__()
        self.first, self.operation, self.last = first, operation, last

    def forward(self, x):
        return self.last(self.operation(self.first(x)))


class Own(nn.Module):
    """An operation with parameters of its own, given by name."""

    def __init__(self, function, **parameters):
        super().__init__()
        self.function = function
        for name, shape in parameters.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, x):
        return self.function(self, x)


def convolution(outputs=8, **more):
    return nn.Conv2d(3, outputs, 3, padding=1, **more)


def pooled(width, outputs=5):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs))


@dataclass
class Case:
    """An operation with what comes before and after it."""

    operation: Any
    shape: tuple[int, ...] = TOKENS
    width: int | None = 8  # channels in front of the operation
    after: int | None = None  # and behind it
    exact: bool = True
    first: Callable[[], nn.Module] | None = None
    last: Callable[[], nn.Module] | None = None

    def build(self):
        """Return the network and an example."""
        torch.manual_seed(0)
        after = self.after or self.width
        firsts = {2: lambda: nn.Linear(6, self.width), 3: lambda: nn.Linear(6, self.width), 4: lambda: convolution(self.width)}
        lasts = {2: lambda: nn.Linear(after, 5), 3: lambda: nn.Linear(after, 5), 4: lambda: pooled(after)}
        first, last = self.first or firsts[len(self.shape)], self.last or lasts[len(self.shape)]
        network = Between(first(), self.operation() if isinstance(self.operation, type) else self.operation, last())
        for buffer_name, buffer in network.named_buffers():
            if buffer_name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            if buffer_name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        return network, torch.randn(self.shape)


def picture(operation, **more):
    return Case(operation, PICTURE, **more)


def series(operation, after=8, **more):
    return Case(operation, SERIES, first=lambda: nn.Conv1d(3, 8, 3, padding=1), last=lambda: nn.Conv1d(after, 5, 1), **more)


def volume(operation, after=8, **more):
    return Case(operation, VOLUME, first=lambda: nn.Conv3d(3, 8, 3, padding=1), last=lambda: nn.Conv3d(after, 5, 1), **more)


def attention(q, k, v, **more):
    """Attention over pieces of 24 channels, two heads of 4."""
    heads = [piece.unflatten(-1, (-1, 4)).transpose(1, 2) for piece in (q, k, v)]
    return F.scaled_dot_product_attention(*heads, **more).transpose(1, 2).flatten(2)


def linear_attention(x):
    q, k, v = x.chunk(3, -1)
    return (F.elu(q) + 1) @ ((F.elu(k) + 1).transpose(1, 2) @ v)


def relu_attention(x):
    q, k, v = x.chunk(3, -1)
    return torch.einsum("bnd,bde->bne", q.relu(), torch.einsum("bnd,bne->bde", k.relu(), v))


def rotary(x):
    return x * COSINE + torch.cat([-x[..., 4:], x[..., :4]], -1) * SINE


def windows(x):
    b, c = x.shape[:2]
    x = x.view(b, c, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    x = x.softmax(1)
    return x.view(b, 2, 2, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, 8, 8)


def normalized_by_hand(x):
    return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt()


def written_by_parts(x):
    out = x.new_zeros(x.shape)
    out[:, :4] = x[:, :4] * 2
    out[:, 4:] = x[:, 4:]
    return out


def se(m, x):
    return x * torch.sigmoid(m.up @ torch.relu(m.down @ x.mean((2, 3)).t())).t()[:, :, None, None]


POINTWISE = {
    function.__name__: function
    for function in (
        *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh, F.softplus),
        *(F.softsign, F.tanhshrink, F.hardshrink, F.softshrink, F.logsigmoid, torch.sigmoid, torch.tanh, torch.exp, torch.cos, torch.abs),
    )
}
POSITIONS = torch.tensor([3, 1, 0, 2, 4, 7, 6, 5])

PASSING = {
    **{f"activation {name}": Case(function) for name, function in POINTWISE.items()},
    "in-place relu": Case(lambda x: F.relu_(x.mul_(2))),
    "prelu of one": picture(nn.PReLU(1)),
    "prelu of each": picture(nn.PReLU(8)),
    "glu": Case(F.glu, after=4),
    "gate by halves": Case(lambda x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1].sigmoid(), after=4),
    "dropout": picture(nn.Dropout2d(0.3)),
    "softmax over channels": Case(lambda x: x.softmax(-1), exact=False),
    "softmax over positions": Case(lambda x: x.softmax(1)),
    "cumsum over positions": Case(lambda x: x.cumsum(1)),
    "cumsum over channels": Case(lambda x: x.cumsum(-1), exact=False),
    "conv1d": series(nn.Conv1d(8, 8, 3, stride=2)),
    "conv1d with string padding": series(nn.Conv1d(8, 8, 3, padding="same", groups=2)),
    "conv3d": volume(nn.Conv3d(8, 8, 3, padding="valid")),
    "conv2d, dilated": picture(nn.Conv2d(8, 12, 3, dilation=2), after=12),
    "conv2d, grouped": picture(nn.Conv2d(8, 12, 3, groups=4), after=12),
    "conv2d, grouped, after cat": picture(nn.Sequential(Own(lambda m, x: torch.cat([x, x * 2], 1)), nn.Conv2d(16, 8, 3, groups=4))),
    "conv2d, grouped, after uneven cat": picture(
        Own(lambda m, x: F.conv2d(torch.cat([x[:, :2], x.relu()[:, :6]], 1), m.w, groups=2), w=(8, 4, 3, 3))
    ),
    "conv2d, depthwise": picture(nn.Conv2d(8, 8, 3, padding="same", groups=8)),
    "conv2d, depthwise with a multiplier": picture(nn.Conv2d(8, 16, 3, groups=8), after=16),
    "convtranspose1d": series(nn.ConvTranspose1d(8, 8, 3)),
    "convtranspose2d": picture(nn.ConvTranspose2d(8, 6, 3, stride=2), after=6),
    "convtranspose2d, grouped": picture(nn.ConvTranspose2d(8, 12, 3, groups=4, output_padding=1, stride=2), after=12),
    "convtranspose2d, depthwise": picture(nn.ConvTranspose2d(8, 8, 2, groups=8)),
    "convtranspose3d": volume(nn.ConvTranspose3d(8, 8, 2)),
    "conv2d with standardized weights": picture(
        Own(lambda m, x: F.conv2d(x, (m.w - m.w.mean((1, 2, 3), keepdim=True)) / (m.w.std((1, 2, 3), keepdim=True) + 1)), w=(8, 8, 3, 3)),
        exact=False,
    ),
    "linear without bias": Case(nn.Linear(8, 8, bias=False)),
    "linear on the middle axis": Case(Own(lambda m, x: (x.transpose(1, 2) @ m.w).transpose(1, 2), w=(5, 5))),
    "linear with weights transposed by hand": Case(Own(lambda m, x: x @ m.w.t(), w=(7, 8)), after=7),
    "one weight on both its axes": Case(Own(lambda m, x: F.linear(F.linear(x, m.w).relu(), m.w.t()), w=(8, 8))),
    "tied autoencoder": Case(Own(lambda m, x: F.linear(F.linear(x, m.w).relu(), m.w.t()), w=(6, 8))),
    "bilinear": Case(Own(lambda m, x: F.bilinear(x, x.relu(), m.w, m.b), w=(7, 8, 8), b=(7,)), after=7),
    "low-rank bilinear": Case(Own(lambda m, x: (x @ m.u) * (x @ m.v), u=(8, 7), v=(8, 7)), after=7),
    "batchnorm1d": series(nn.BatchNorm1d(8)),
    "batchnorm2d": picture(nn.BatchNorm2d(8)),
    "batchnorm2d without affine": picture(nn.BatchNorm2d(8, affine=False)),
    "batchnorm3d": volume(nn.BatchNorm3d(8)),
    "instancenorm2d": picture(nn.InstanceNorm2d(8, affine=True)),
    "groupnorm": picture(nn.GroupNorm(2, 8), exact=False),
    "groupnorm of one": picture(nn.GroupNorm(1, 8), exact=False),
    "groupnorm of each": picture(nn.GroupNorm(8, 8)),
    "layernorm": Case(nn.LayerNorm(8), exact=False),
    "layernorm without affine": Case(nn.LayerNorm(8, elementwise_affine=False), exact=False),
    "layernorm over channels first": picture(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2), exact=False),
    "rmsnorm": Case(nn.RMSNorm(8), exact=False),
    "normalization by hand": Case(lambda x: normalized_by_hand(x.transpose(1, 2)).transpose(1, 2), exact=False),
    "normalize": Case(lambda x: F.normalize(x, dim=-1)),
    "normalize what sigmoid made": Case(lambda x: F.normalize(x.sigmoid(), dim=-1), exact=False),
    "norm of order 1": Case(lambda x: x / x.norm(p=1, dim=-1, keepdim=True)),
    "grn": Case(lambda x: x * (x.norm(dim=1, keepdim=True) / x.norm(dim=1, keepdim=True).mean(-1, keepdim=True)), exact=False),
    "mean over channels": Case(lambda x: x - x.mean(-1, keepdim=True), exact=False),
    "mean over everything": Case(lambda x: x - x.mean(), exact=False),
    "sum over channels": Case(lambda x: x * x.sum(-1, keepdim=True)),
    "sum over channels that sigmoid made": Case(lambda x: x * x.sigmoid().sum(-1, keepdim=True), exact=False),
    "maximum over channels": Case(lambda x: x * x.amax(-1, keepdim=True), exact=False),
    "max over positions": Case(lambda x: x * x.max(1, keepdim=True)[0]),
    "variance": Case(lambda x: x * x.var((1, 2), keepdim=True), exact=False),
    "variance over everything": Case(lambda x: x * torch.var(x, unbiased=False), exact=False),
    "var_mean": Case(lambda x: x * torch.var_mean(x, -1, keepdim=True)[0] + torch.var_mean(x, -1, keepdim=True)[1], exact=False),
    "std_mean over positions": Case(lambda x: x * torch.std_mean(x, 1, keepdim=True)[0] + torch.std_mean(x, 1, keepdim=True)[1]),
    "logsumexp": Case(lambda x: x - x.logsumexp(-1, keepdim=True), exact=False),
    "maxpool1d": series(nn.MaxPool1d(2)),
    "maxpool2d": picture(nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "maxpool3d": volume(nn.MaxPool3d(2)),
    "maxpool2d with positions": picture(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "avgpool1d": series(nn.AvgPool1d(2)),
    "avgpool2d": picture(nn.AvgPool2d(3, count_include_pad=False, padding=1)),
    "avgpool3d": volume(nn.AvgPool3d(2)),
    "adaptiveavgpool1d": series(nn.AdaptiveAvgPool1d(3)),
    "adaptiveavgpool3d": volume(nn.AdaptiveAvgPool3d(1)),
    "adaptivemaxpool1d": series(nn.AdaptiveMaxPool1d(2)),
    "adaptivemaxpool2d": picture(nn.AdaptiveMaxPool2d(2)),
    "adaptivemaxpool3d": volume(nn.AdaptiveMaxPool3d(2)),
    "lppool1d": series(nn.LPPool1d(2, 2)),
    "lppool2d": picture(nn.LPPool2d(2, 2)),
    "pooling over tokens": Case(lambda x: F.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2)),
    **{f"pad {mode}": picture(lambda x, mode=mode: F.pad(x, (1, 2, 0, 1), mode=mode)) for mode in ("constant", "reflect", "replicate")},
    "pad circular": picture(lambda x: F.pad(x, (1, 1, 1, 1), mode="circular")),
    "padded channels": picture(lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)), after=12),
    "padded channels with ones": picture(lambda x: F.pad(x, (0, 0, 0, 0, 1, 3), value=1.0), after=12),
    "padded shortcut": picture(
        Own(lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 6)) + F.conv2d(x, m.w, stride=2), w=(16, 8, 1, 1)), after=16
    ),
    **{
        f"upsample {mode}": picture(lambda x, mode=mode: F.interpolate(x, scale_factor=2, mode=mode))
        for mode in ("nearest", "bilinear", "bicubic", "nearest-exact", "area")
    },
    "upsample linear": series(nn.Upsample(scale_factor=2, mode="linear")),
    "upsample trilinear": volume(nn.Upsample(size=(5, 5, 5), mode="trilinear")),
    "grid sample": picture(
        lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).tanh() * 0, align_corners=False), first=lambda: convolution(8)
    ),
    "pixel shuffle": picture(nn.PixelShuffle(2), after=2),
    "pixel unshuffle": picture(nn.PixelUnshuffle(2), after=32),
    "space to depth by hand": picture(lambda x: x.view(-1, 8, 4, 2, 4, 2).permute(0, 3, 5, 1, 2, 4).reshape(-1, 32, 4, 4), after=32),
    "unfold and fold": picture(lambda x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2)),
    "cat": Case(lambda x: torch.cat([x, x.relu()], -1), after=16),
    "cat of the same twice": Case(lambda x: torch.cat([x, x], -1), after=16),
    "cat of parts in another order": Case(lambda x: torch.cat([x[..., 3:], x[..., :3]], -1)),
    "cat on a negative axis": picture(lambda x: torch.cat([x, -x], -3), after=16),
    "stack and sum": Case(lambda x: torch.stack([x, x.relu()]).sum(0)),
    "stack and flatten": Case(lambda x: torch.stack([x, x.relu()], -1).flatten(-2), after=16),
    "hstack": Case(lambda x: torch.hstack([x, x])),
    "split": Case(lambda x: torch.cat(x.split(4, -1)[::-1], -1)),
    "split by sizes": Case(lambda x: torch.cat([part.relu() for part in x.split([2, 5, 1], -1)], -1)),
    "chunk into uneven parts": Case(lambda x: torch.cat([part.relu() for part in x.chunk(3, -1)], -1)),
    "tensor split": Case(lambda x: torch.cat([part.relu() for part in torch.tensor_split(x, 3, -1)], -1)),
    "narrow": Case(lambda x: x.narrow(-1, 2, 4), after=4),
    "slice": Case(lambda x: x[..., 2:6], after=4),
    "slice from the back": Case(lambda x: x[..., -5:-1], after=4),
    "slice beyond the ends": Case(lambda x: x[..., -100:4] + x[..., 4:100], after=4),
    "slice of every second position": picture(lambda x: x[:, :, ::2, 1::2]),
    "parts of parts": Case(lambda x: x[..., 1:][..., :4] * x[..., 2:6], after=4),
    "shifted by one": Case(lambda x: torch.cat([x[..., :1], x[..., 1:] + 1], -1)),
    "select a position": Case(lambda x: x[:, 0]),
    "unbind positions": Case(lambda x: sum(x.unbind(1))),
    "index positions": Case(lambda x: x[:, torch.tensor([2, 0, 1])]),
    "index_select positions": Case(lambda x: x.index_select(1, torch.tensor([2, 0, 1]))),
    "index two axes": picture(lambda x: x[:, :, torch.tensor([1, 2]), torch.tensor([3, 0])], last=lambda: nn.Conv1d(8, 5, 1)),
    "flatten before linear": picture(nn.Flatten(), last=lambda: nn.Linear(8 * 64, 5)),
    "flatten of pooled": picture(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), last=lambda: nn.Linear(32, 5)),
    "unflatten": Case(lambda x: x.unflatten(-1, (2, 4)).relu().flatten(2)),
    "view as heads": Case(
        lambda x: x.view(x.shape[0], 5, 2, 4).transpose(1, 2).reshape(x.shape[0], 2, 20).view(-1, 2, 5, 4).transpose(1, 2).flatten(2)
    ),
    "view of batch and positions": Case(lambda x: x.view(-1, 8).relu().view(-1, 5, 8)),
    "channels shuffled": picture(nn.ChannelShuffle(2)),
    "channels shuffled by hand": picture(lambda x: x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)),
    "shuffled concatenation": picture(
        lambda x: torch.cat([x, x.relu()], 1).view(-1, 2, 8, 8, 8).transpose(1, 2).reshape(-1, 16, 8, 8), after=16
    ),
    "windows": picture(windows),
    "permute": picture(lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2)),
    "movedim": picture(lambda x: x.movedim(1, -1).movedim(-1, 1)),
    "mT": Case(lambda x: x.mT.relu().mT),
    "squeeze": Case(lambda x: x.mean(1, keepdim=True).squeeze(1)),
    "squeeze of what is left": Case(lambda x: x.mean(1, keepdim=True).squeeze()[:, None], width=2, first=lambda: nn.Linear(6, 2)),
    "roll of positions": Case(lambda x: x.roll(1, 1)),
    "flip of positions": picture(lambda x: x.flip(2, 3)),
    "rot90": picture(lambda x: x.rot90(1, (2, 3))),
    "expand": Case(lambda x: x.mean(1, keepdim=True).expand(-1, 5, -1)),
    "expand_as": Case(lambda x: x.mean(1, keepdim=True).expand_as(x) + x),
    "repeat": Case(lambda x: x.repeat(1, 2, 1)),
    "repeat of channels": Case(lambda x: x.repeat(1, 1, 2), after=16),
    "tile": Case(lambda x: x.tile(2), after=16),
    "repeat interleave": Case(lambda x: x.repeat_interleave(2, -1), after=16),
    "layer scale": Case(Own(lambda m, x: x * m.scale, scale=(8,))),
    "positional table": Case(Own(lambda m, x: x + m.table, table=(1, 5, 8))),
    "constant scale": Case(lambda x: x / 8**0.5),
    "constant of each channel": Case(lambda x: x * COSINE),
    "broadcast of one channel": picture(lambda x: x * x.mean(1, keepdim=True), exact=False),
    "broadcast of one position": picture(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "squeeze and excitation": picture(Own(se, down=(4, 8), up=(8, 4))),
    "addcdiv": Case(lambda x: torch.addcdiv(x, x, x.abs() + 1)),
    "addcmul": Case(lambda x: torch.addcmul(x, x, x.sigmoid())),
    "lerp": Case(lambda x: torch.lerp(x, x.relu(), 0.3)),
    "where": Case(lambda x: torch.where(x > 0, x, 0.1 * x)),
    "masked fill": Case(lambda x: x.masked_fill(x < 0, 0.5)),
    "clamp": Case(lambda x: x.clamp(-0.5, 0.5)),
    "ones like": Case(lambda x: x + torch.ones_like(x)),
    "zeros that are joined": Case(lambda x: torch.cat([x, torch.zeros(x.shape[0], 5, 4)], -1), after=12),
    "written by parts": picture(written_by_parts),
    "in-place sum into a part": Case(lambda x: _added_in_place(x)),
    "tril of positions": Case(lambda x: (x @ x.transpose(1, 2)).tril() @ x),
    "outer": Case(Own(lambda m, x: x * torch.outer(m.a, m.b), a=(5,), b=(8,))),
    "mv": Case(Own(lambda m, x: x * torch.mv(m.a, m.b), a=(8, 4), b=(4,))),
    "dot": Case(Own(lambda m, x: x * torch.dot(m.a, m.b), a=(8,), b=(8,))),
    "vdot": Case(Own(lambda m, x: x * torch.vdot(m.a, m.b), a=(8,), b=(8,))),
    "matmul by a vector": Case(Own(lambda m, x: x * (x @ m.a)[..., None], a=(8,))),
    "addmm": Case(Own(lambda m, x: torch.addmm(m.b, x, m.w), w=(8, 7), b=(7,)), VECTOR, after=7),
    "baddbmm": Case(lambda x: torch.baddbmm(x, x @ x.transpose(1, 2), x)),
    "addbmm": Case(Own(lambda m, x: x @ torch.addbmm(m.a, m.b, m.c), a=(8, 7), b=(3, 8, 4), c=(3, 4, 7)), after=7),
    "bmm": Case(lambda x: torch.bmm(torch.bmm(x, x.transpose(1, 2)), x)),
    "gram matrix": Case(lambda x: x @ (x.transpose(1, 2) @ x)),
    "einsum": Case(Own(lambda m, x: torch.einsum("bnc,cd->bnd", x, m.w), w=(8, 7)), after=7),
    "einsum with dots": Case(Own(lambda m, x: torch.einsum("...c,dc->...d", x, m.w), w=(7, 8)), after=7),
    "einsum without result": Case(Own(lambda m, x: torch.einsum("anc,cz", x, m.w), w=(8, 7)), after=7),
    "einsum of dots without result": Case(Own(lambda m, x: torch.einsum("...c,cd", x, m.w), w=(8, 7)), after=7),
    "attention": Case(lambda x: attention(*x.chunk(3, -1)), width=24, after=8),
    "attention with a mask": Case(lambda x: attention(*x.chunk(3, -1), attn_mask=torch.zeros(5, 5)), width=24, after=8),
    "causal attention": Case(lambda x: attention(*x.chunk(3, -1), is_causal=True), width=24, after=8),
    "grouped-query attention": Case(lambda x: attention(*x.split([16, 8, 8], -1), enable_gqa=True), width=32, after=16),
    "attention by hand": Case(lambda x: (x[..., :8] @ x[..., 8:16].transpose(1, 2) * 8**-0.5).softmax(-1) @ x[..., 16:], width=24, after=8),
    "rotary positions": Case(rotary),
    "linear attention with elu": Case(linear_attention, width=24, after=8, exact=False),
    "linear attention with relu": Case(relu_attention, width=24, after=8),
    "cosine similarity": Case(lambda x: x * F.cosine_similarity(x, x.relu(), -1)[..., None]),
    "learned queries": Case(Own(lambda m, x: F.scaled_dot_product_attention(m.q.expand(x.shape[0], -1, -1), x, x), q=(1, 4, 8))),
    "channel attention": Case(lambda x: x @ (x.transpose(1, 2) @ x).softmax(-1), exact=False),
    "multihead attention": Case(Own(lambda m, x: m.inner(x, x, x, need_weights=False)[0]), exact=True),
    "lstm": Case(Own(lambda m, x: m.inner(x)[0]), after=6),
    "lstm both ways, two layers": Case(Own(lambda m, x: m.inner(x)[0]), after=12),
    "lstm along channels": Case(Own(lambda m, x: m.inner(x.transpose(1, 2))[0].transpose(1, 2)), exact=False),
    "gru along channels": Case(Own(lambda m, x: m.inner(x.permute(2, 0, 1))[0].permute(1, 2, 0)), exact=False),
    "gru": Case(Own(lambda m, x: m.inner(x)[0][:, -1]), after=6),
    "rnn": Case(Own(lambda m, x: m.inner(x)[0]), after=6),
    "sort over positions": Case(lambda x: x.sort(1)[0]),
    "topk over positions": Case(lambda x: x.topk(2, 1)[0]),
}
PASSING["multihead attention"].operation.inner = nn.MultiheadAttention(8, 2, batch_first=True)
PASSING["lstm"].operation.inner = nn.LSTM(8, 6, batch_first=True)
PASSING["lstm both ways, two layers"].operation.inner = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)
PASSING["lstm along channels"].operation.inner = nn.LSTM(5, 6, batch_first=True)
PASSING["gru along channels"].operation.inner = nn.GRU(5, 6)
PASSING["gru"].operation.inner = nn.GRU(8, 6, batch_first=True, bias=False)
PASSING["rnn"].operation.inner = nn.RNN(8, 6, batch_first=True)


def _added_in_place(x):
    x = x * 2
    x[..., :4] += 1
    return x


FREEZING = {
    "aten.flip": Case(lambda x: x.flip(-1)),
    "aten.roll": Case(lambda x: x.roll(2, -1)),
    "aten.sort": Case(lambda x: x.sort(-1)[0]),
    "aten.topk": Case(lambda x: x.topk(4, -1)[0], after=4),
    "aten.argmax": Case(lambda x: x * x.argmax(-1, keepdim=True)),
    "aten.max": Case(lambda x: x * x.max(-1, keepdim=True)[1]),
    "aten.select": Case(lambda x: x * x[..., 3:4].squeeze(-1)[..., None] * x[..., 2][..., None]),
    "aten.unbind": Case(lambda x: x * sum(x.unbind(-1))[..., None]),
    "aten.slice": Case(lambda x: x[..., ::2], after=4),
    "aten.index": Case(lambda x: x[..., POSITIONS]),
    "aten.index_select": Case(lambda x: x.index_select(-1, POSITIONS)),
    "aten.gather": Case(lambda x: x.gather(-1, POSITIONS.expand(x.shape[0], 5, 8))),
    "aten.conv1d": Case(lambda x: F.conv1d(x.mean(1, keepdim=True), torch.ones(1, 1, 3), padding=1)[:, 0]),
    "aten.avg_pool1d": Case(lambda x: F.avg_pool1d(x, 2), after=4),
    "aten.max_pool2d": Case(lambda x: F.max_pool2d(x, (1, 2)), after=4),
    "aten.adaptive_avg_pool2d": Case(lambda x: F.adaptive_avg_pool2d(x, (5, 4)), after=4),
    "aten.upsample_linear1d": Case(lambda x: F.interpolate(x, size=4, mode="linear"), after=4),
    "aten.pad": Case(lambda x: F.pad(x, (1, 1), mode="reflect"), after=10),
    "aten.fft_fft": Case(lambda x: torch.fft.fft(x).real),
    "aten.tril": Case(lambda x: x.tril()),
    "aten.unfold": Case(lambda x: x.unfold(-1, 2, 2)[..., 0], after=4),
    "aten.one_hot": Case(lambda x: F.one_hot((x > 0).long(), 2)[..., 0].float() * x),
    "aten.histc": Case(lambda x: x * torch.histc(x, 4).sum()),
    "aten.linalg_inv": Case(lambda x: x @ torch.linalg.inv(x.transpose(1, 2) @ x + torch.eye(8))),
    "aten.meshgrid": Case(lambda x: x * torch.meshgrid(x[0, 0], x[0, 1], indexing="ij")[0].sum()),
}


@cache
def captured(name):
    network, example = {**PASSING, **FREEZING}[name].build()
    return capture(network, (example,)), example


def programs(name):
    program, example = captured(name)
    return clone(program), example


def halves(groups):
    return {group.name: list(range(0, group.channels, 2)) for group in groups}


def holds(group, tensor, axis):
    return any((slot.tensor, slot.axis) == (tensor, axis) for slot in group.slots)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("name", PASSING)
def test_channels_pass_and_cutting_them_is_zeroing_them(name):
    case = PASSING[name]
    program, example = programs(name)
    found = find(program)
    own = [group for group in found.groups if holds(group, "first.weight", 0)]
    frozen = [z.reason for z in found.frozen if (z.tensor, z.axis) == ("first.weight", 0)]
    assert own, frozen
    assert all(group.exact for group in own) == case.exact, [group.reason for group in own]
    exact = [group for group in found.groups if group.exact]
    with torch.no_grad():
        keep = halves(exact)
        close(cut(clone(program), keep)(example), zero(clone(program), keep)(example))


@pytest.mark.parametrize("name", PASSING)
def test_what_is_left_of_half_of_every_group_runs_and_trains_on_any_batch(name):
    program, example = programs(name)
    shape = program(example).shape
    small = cut(program, halves(find(program).groups))
    more = torch.cat([example, example, example[:1]])
    for mode, batch in itertools.product((True, False), (example, more)):
        small.train(mode)
        out = small(batch)
        assert out.shape[1:] == shape[1:]
        assert torch.isfinite(out).all()
        out.sum().backward()
    again = cut(small, {group.name: [0] for group in find(small).groups if group.channels > 1})
    assert again(more).shape[1:] == shape[1:]


@pytest.mark.parametrize("name", FREEZING)
def test_what_cannot_be_followed_freezes_and_says_which_operation_and_line(name):
    program, example = programs(name)
    found = find(program)
    frozen = [z for z in found.frozen if (z.tensor, z.axis) == ("first.weight", 0)]
    assert sum(z.size for z in frozen) >= 1
    assert any(name in z.reason and "test_rules.py:" in z.reason for z in frozen), [z.reason for z in frozen]
    with torch.no_grad():
        keep = halves(group for group in found.groups if group.exact)
        close(cut(clone(program), keep)(example), zero(clone(program), keep)(example))


def test_rows_of_an_embedding_stay_and_its_columns_are_channels():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.bags, self.last = nn.Embedding(11, 8), nn.EmbeddingBag(11, 8, mode="sum"), nn.Linear(8, 5)

        def forward(self, x):
            return self.last(self.words(x).relu().sum(1) + self.bags(x))

    program, example = capture(Bag(), (torch.tensor([[1, 2, 3], [4, 10, 0]]),)), torch.tensor([[1, 2, 3], [4, 10, 0]])
    found = find(program)
    [columns] = found.groups
    assert holds(columns, "words.weight", 1)
    assert holds(columns, "bags.weight", 1)
    assert any((z.tensor, z.axis) == ("words.weight", 0) and "vocabulary" in z.reason for z in found.frozen)
    keep = halves([columns])
    with torch.no_grad():
        close(cut(clone(program), keep)(example), zero(clone(program), keep)(example))


def test_a_table_that_is_interpolated_keeps_its_positions():
    class Interpolated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.table, self.last = convolution(8), nn.Parameter(torch.randn(1, 8, 4, 4)), pooled(8)

        def forward(self, x):
            return self.last(self.first(x) + F.interpolate(self.table, size=(8, 8), mode="bicubic"))

    found = find(capture(Interpolated(), (torch.randn(PICTURE),)))
    assert {(z.tensor, z.axis) for z in found.frozen} >= {("table", 2), ("table", 3)}
    assert [group for group in found.groups if holds(group, "table", 1)]


def test_a_dimension_that_a_product_has_twice_is_inexact():
    network, example = Case(lambda x: (x[:, :, None] * x[:, :, :, None]).flatten(2), after=64).build()
    [group] = find(capture(network, (example,))).groups
    assert not group.exact
    assert "twice" in group.reason
