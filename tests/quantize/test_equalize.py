import pytest
import torch
import torch.nn.functional as F
from torch import nn

from laconic.program import Mask, capture, clone, fold_batch_norm, read, represent
from laconic.quantize import Static
from laconic.quantize.equalize import equalize, equalizing_scale, links, scale_link
from networks import Call


def conv(inputs, outputs, size=3, **more):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **more)


def line(activation):
    return nn.Sequential(conv(3, 6), activation, conv(6, 5))


NETWORKS = {
    "relu": lambda: line(nn.ReLU()),
    "leaky": lambda: line(nn.LeakyReLU(0.1)),
    "a slope per channel": lambda: line(nn.PReLU(6)),
    "no activation": lambda: line(nn.Identity()),
    "batch norm": lambda: nn.Sequential(conv(3, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 5)),
    "pooled and flattened": lambda: nn.Sequential(conv(3, 6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 5)),
    "averaged": lambda: nn.Sequential(conv(3, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    "padded": lambda: Call(lambda on, x: on["b"](F.pad(F.relu(on["a"](x)), (0, 1, 2, 0))), a=conv(3, 6), b=conv(6, 5)),
    "depthwise": lambda: nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 6, groups=6), nn.ReLU(), conv(6, 5, 1)),
    "residual": lambda: Call(
        lambda on, x: on["d"](F.relu((y := F.relu(on["a"](x))) + on["c"](F.relu(on["b"](y))))),
        a=conv(3, 6),
        b=conv(6, 4),
        c=conv(4, 6),
        d=conv(6, 5),
    ),
    "concatenated": lambda: Call(
        lambda on, x: on["c"](torch.cat([F.relu(on["a"](x)), F.relu(on["b"](x))], 1)), a=conv(3, 4), b=conv(3, 5), c=conv(9, 2)
    ),
    "dropout": lambda: nn.Sequential(conv(3, 6), nn.ReLU(), nn.Dropout(), conv(6, 5)),
}
LEFT = {
    "sigmoid": lambda: line(nn.Sigmoid()),
    "gelu": lambda: line(nn.GELU()),
    "read by two kinds": lambda: Call(lambda on, x: on["b"](y := on["a"](x)) + torch.tanh(y).mean(1, True), a=conv(3, 6), b=conv(6, 1)),
    "grouped": lambda: nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 6, groups=2)),
    "a constant is added": lambda: Call(lambda on, x: on["b"](on["a"](x) + 1), a=conv(3, 6), b=conv(6, 5)),
    "tied": lambda: Call(lambda on, x: on["a"](F.relu(on["a"](x))), a=conv(3, 3)),
    "one layer": lambda: nn.Sequential(conv(3, 6)),
}


def network(factory):
    """A program with channels of very different ranges, and inputs."""
    generator = torch.Generator().manual_seed(0)
    model = factory().eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            spread = torch.exp(1.5 * torch.randn(parameter.shape[:1], generator=generator))
            parameter.data = parameter.data * spread.reshape(-1, *[1] * (parameter.ndim - 1))
        elif "bias" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    inputs = torch.randn(16, 3, 8, 8, generator=generator)
    program = capture(model, (inputs[:2],))
    fold_batch_norm(program)
    return program, inputs


def far(one, other):
    return float(((one - other).abs().max() / other.abs().max()).detach())


def ranges(program, link, ends):
    return torch.stack([end.ranges(program, link.channels) for end in ends]).amax(0)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_computes_the_same_and_each_channel_is_made_and_read_over_one_range(name):
    program, inputs = network(NETWORKS[name])
    expected, before = program(inputs), clone(program)
    scaled = equalize(program, [inputs])
    assert scaled
    assert far(program(inputs), expected) < 1e-5
    assert any(not torch.equal(read(program, weight), read(before, weight)) for weight in scaled)
    for link in links(program):
        torch.testing.assert_close(ranges(program, link, link.makers), ranges(program, link, link.readers), rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", LEFT)
def test_what_no_factor_passes_through_is_left_as_it_is(name):
    program, inputs = network(LEFT[name])
    before = clone(program)
    assert equalize(program, [inputs]) == []
    assert all(torch.equal(one, other) for one, other in zip(program.state_dict().values(), before.state_dict().values(), strict=True))


def test_a_depthwise_layer_is_scaled_on_both_sides():
    program, inputs = network(NETWORKS["depthwise"])
    before = {name: read(program, name).detach().abs() for name in ("0.weight", "2.weight", "4.weight")}
    equalize(program, [inputs])
    after = {name: read(program, name).detach().abs() for name in before}
    axes = {"0.weight": (1, 2, 3), "2.weight": (1, 2, 3), "4.weight": (0, 2, 3)}
    wanted = torch.stack([before[name].amax(axes[name]) for name in before]).prod(0) ** (1 / 3)
    for name in before:  # the geometric mean of three: what equating the first two and the last two leads to
        torch.testing.assert_close(after[name].amax(axes[name]), wanted, rtol=2e-3, atol=0)


def test_all_makers_and_all_readers_of_a_residual_sum_are_scaled_together():
    program, _ = network(NETWORKS["residual"])
    found = {tuple(sorted(end.weight for end in link.makers)): {end.weight for end in link.readers} for link in links(program)}
    assert found[("layers.a.weight", "layers.c.weight")] == {"layers.b.weight", "layers.d.weight"}
    assert found[("layers.b.weight",)] == {"layers.c.weight"}


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Hardtanh(-2.0, 2.0), nn.Hardtanh(0.0, 1.5)])
def test_a_bound_acts_on_calibration_inputs_as_before(activation):
    program, inputs = network(lambda: line(activation))
    expected, before = program(inputs), clone(program)
    assert equalize(program, [inputs[:8], inputs[8:]])
    assert far(program(inputs), expected) < 1e-5
    changed = (read(program, "0.weight") - read(before, "0.weight")).flatten(1).abs().amax(1) > 0
    seen = before.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)[0]
    assert changed.any()
    assert seen is not None
    reached = F.conv2d(inputs, read(before, "0.weight"), read(before, "0.bias"), padding=1).amax((0, 2, 3)) >= getattr(
        activation, "max_val", 6.0
    )
    assert reached.any()
    assert not changed[reached].any(), "a channel that reaches the bound keeps its scale"


def test_zeros_of_a_mask_stay_zero():
    program, inputs = network(NETWORKS["relu"])
    keep = torch.rand(6, 3, 3, 3) > 0.5
    represent(program, "0.weight", Mask(keep))
    expected = program(inputs)
    equalize(program, [inputs])
    assert not read(program, "0.weight")[~keep].any()
    assert far(program(inputs), expected) < 1e-5


def test_the_scale_is_that_of_the_paper():
    made, taken = torch.rand(50) + 0.1, torch.rand(50) + 0.1
    scale = equalizing_scale(made, taken)
    torch.testing.assert_close(scale, torch.sqrt(made * taken) / taken)
    torch.testing.assert_close(made / scale, taken * scale)


def test_a_channel_without_weights_keeps_its_scale_and_so_its_bias():
    made = torch.tensor([1.0, 0.0, 1e-7, 0.5])
    assert equalizing_scale(made, torch.ones(4))[1:3].tolist() == [1, 1]
    assert equalizing_scale(torch.ones(4), made)[1:3].tolist() == [1, 1]


@pytest.mark.parametrize("uneven", [True, False])
def test_auto_equalizes_where_the_outputs_come_nearer_by_it(program, context, uneven):
    fold_batch_norm(program)
    if uneven:
        for link in links(program):
            scale_link(program, link, 8 ** (2 * torch.rand(link.channels) - 1))
    settings = {"weight_granularity": "tensor" if uneven else "channel"}
    made = {on: Static(**settings, equalization=on)(clone(program), context) for on in (False, True)}
    inputs = torch.cat(list(context.calibration()))
    with torch.no_grad():
        errors = {on: (each(inputs) - program(inputs)).square().sum() for on, each in made.items()}
    better = min(errors, key=errors.get)
    assert better or not uneven, "uneven channels are what it is for"
    found = Static(**settings, equalization="auto")(clone(program), context)
    one, other = found.state_dict(), made[better].state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any("rounded to nearest" in note for note in context.notes)
