import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from laconic.errors import LaconicError
from laconic.program import (
    Mask,
    Uniform,
    bake,
    capture,
    clone,
    dense_state,
    example_of,
    fold_batch_norm,
    load,
    only_in_training,
    place,
    read,
    represent,
    save,
    tidy,
    weights,
    write_back,
)
from laconic.program.represent import edges
from networks import NETWORKS, build, captured, quantize

# torch.export itself warns at recurrent networks; see the test that says it must not reach the user
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
ALL = pytest.mark.parametrize("name", NETWORKS)
PICTURE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Of(nn.Module):
    """A network whose forward is a function of the module and its inputs."""

    def __init__(self, forward, **children):
        super().__init__()
        self.function = forward
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x):
        return self.function(self, x)


def tensors(value):
    return value if isinstance(value, tuple) else (value,)


def loss(outputs):
    return sum((output * torch.arange(1.0, output.numel() + 1).reshape(output.shape).cos()).sum() for output in tensors(outputs))


def assert_close(one, other, **tolerance):
    for a, b in zip(tensors(one), tensors(other), strict=True):
        torch.testing.assert_close(a, b, **tolerance or {"rtol": 1e-4, "atol": 1e-5})


def assert_same_training_step(module, program, example):
    """Outputs, gradients of every parameter and running statistics after one pass forth and back."""
    torch.manual_seed(7)
    expected = module(*example)
    loss(expected).backward()
    torch.manual_seed(7)
    outputs = program(*example)
    loss(outputs).backward()
    assert_close(outputs, expected)
    for name, parameter in module.named_parameters():
        gradient = read(program, program.aliases.get(name, name)).grad
        assert (gradient is None) == (parameter.grad is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    for name, buffer in module.named_buffers():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(read(program, name), buffer)


@ALL
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_program_computes_learns_and_keeps_statistics_as_the_module(name, training):
    module, example = build(name)
    program = capture(module.train(training), example).train(training)
    assert_same_training_step(module, program, example)


@ALL
def test_a_program_goes_from_training_back_to_inference(name):
    module, example = build(name)
    program, _ = captured(name)
    assert not program.training
    module.eval()
    assert_close(program.train().eval()(*example), module(*example))


@ALL
def test_a_program_has_the_names_and_values_of_the_module(name):
    module, _ = build(name)
    program, _ = captured(name)
    ours, theirs = program.state_dict(), module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    dense = dense_state(program)
    assert dense.keys() >= theirs.keys() - program.aliases.keys()
    assert not dense.keys() & program.aliases.keys()
    assert all(torch.equal(dense[key], theirs[key]) for key in theirs.keys() - program.aliases.keys())


@ALL
def test_capturing_leaves_the_module_as_it_was_and_training_the_program_does_not_change_it(name):
    module, example = build(name)
    for position, child in enumerate(module.modules()):
        child.training = position % 2 == 0
    flags = {path: child.training for path, child in module.named_modules()}
    state, inputs = copy.deepcopy(module.state_dict()), [tensor.clone() for tensor in example]
    fast = torch.backends.mha.get_fastpath_enabled()
    program = capture(module, example).train()
    optimizer = torch.optim.SGD(program.parameters(), lr=0.5)
    loss(program(*example)).backward()
    optimizer.step()
    assert {path: child.training for path, child in module.named_modules()} == flags
    assert all(torch.equal(module.state_dict()[key], state[key]) for key in state)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert any(not torch.equal(program.state_dict()[key], state[key]) for key in state)
    assert {t.data_ptr() for t in program.state_dict().values()}.isdisjoint(t.data_ptr() for t in module.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(example, inputs, strict=True))
    assert torch.backends.mha.get_fastpath_enabled() == fast


@ALL
def test_a_program_takes_a_batch_of_any_size(name):
    module, example = build(name)
    program, _ = captured(name)
    module.eval()
    for batch in (1, 3, 7):
        inputs = tuple(tensor[torch.arange(batch) % 2] for tensor in example)
        inputs = tuple(t + torch.linspace(0, 1, t.numel()).reshape(t.shape) if t.is_floating_point() else t for t in inputs)
        assert_close(program(*inputs), module(*inputs))


@ALL
def test_a_clone_computes_the_same_and_shares_nothing(name):
    program, example = captured(name)
    before = {key: value.clone() for key, value in program.state_dict().items()}
    for copied in (clone(program), copy.deepcopy(program)):
        assert copied.state_dict().keys() == before.keys()
        assert_close(copied(*example), program(*example), rtol=0, atol=0)
        with torch.no_grad():
            for tensor in copied.state_dict().values():
                tensor.zero_()
        assert all(torch.equal(program.state_dict()[key], before[key]) for key in before)
        node = next(node for node in copied.graph.nodes if node.op == "call_function")
        node.meta["val"] = None
        assert next(n for n in program.graph.nodes if n.name == node.name).meta["val"] is not None


def test_a_clone_keeps_the_mode():
    module, example = build("dropout")
    program = capture(module, example)
    assert clone(program.train()).training
    torch.manual_seed(0)
    first = clone(program)(*example)
    assert not torch.equal(first, clone(program.eval())(*example))


def test_baking_a_clone_leaves_the_original_represented_and_the_other_way_round():
    module, example = build("convolution")
    program = capture(module, example)
    for name in ("classifier.weight", "features.0.0.weight"):
        represent(program, name, Mask(torch.rand_like(read(program, name)) > 0.5))
    first, second = clone(program), clone(program)
    expected = program(*example)
    bake(first, "classifier.weight")
    assert_close(first(*example), expected, rtol=0, atol=0)
    assert_close(second(*example), expected, rtol=0, atol=0)
    assert_close(program(*example), expected, rtol=0, atol=0)
    bake(program, "classifier.weight")
    assert_close(second(*example), expected, rtol=0, atol=0)
    assert "classifier.parametrizations.weight.original" in second.state_dict()
    assert "classifier.weight" in program.state_dict()


def test_ties_stay_ties():
    module, example = build("tied")
    program = capture(module, example)
    assert set(program.aliases) | set(program.aliases.values()) == {"embedding.weight", "decoder.weight"}
    for each in (program, clone(program), copy.deepcopy(program)):
        assert each.embedding.weight is each.decoder.weight
        assert len(list(each.parameters())) == len(list(module.parameters()))
        torch.optim.SGD(each.parameters(), lr=0.1)


def test_an_example_may_be_given_by_name():
    module, (x, y) = build("two-inputs")
    program = capture(module.eval(), {"x": x, "y": y})
    assert [entry.name for entry in program.inputs] == ["x", "y"]
    assert_close(program(x, y), module(x, y))


def test_inputs_are_described_and_imitated():
    program = captured("two-inputs")[0]
    assert [(entry.name, entry.shape, entry.dtype) for entry in program.inputs] == [("x", (4,), torch.float32), ("y", (3,), torch.float32)]
    one, other = example_of(program, batch=5)
    assert (one.shape, other.shape) == ((5, 4), (5, 3))
    assert all(torch.equal(a, b) for a, b in zip(example_of(program, seed=3), example_of(program, seed=3), strict=True))
    assert not torch.equal(example_of(program, seed=3)[0], example_of(program, seed=4)[0])
    tokens = example_of(captured("tied")[0])[0]
    assert tokens.dtype == torch.int64
    assert tokens.shape == (2, 4)


def test_pickling_is_refused_with_the_way_out():
    program = captured("convolution")[0]
    with pytest.raises(LaconicError, match=r"laconic\.program\.save"):
        pickle.dumps(program)


def test_a_warning_of_the_exporter_does_not_reach_the_user(recwarn):
    capture(*build("lstm"))
    assert not [str(warning.message) for warning in recwarn]


def test_a_program_knows_the_line_and_the_module_of_every_operation():
    program = captured("residual")[0]
    convolutions = [node for node in program.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    assert {node.meta["module"] for node in convolutions} == {"stem.0", "body.0.0", "body.1", "shortcut.0"}
    assert all(re.search(r"networks\.py:\d+", node.meta["source"]) for node in convolutions)


# what a network may do with tensors, beyond layers -----------------------------------------------


def conv():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3)


def relu_after_a_view_was_taken(self, x):
    y = self.conv(x)
    seen = y.flatten(1)
    y.relu_()
    return seen


def relu_on_a_view(self, x):
    y = self.conv(x)
    y.flatten(1).relu_()
    return y


def zeros_written_into_a_channel(self, x):
    y = self.conv(x)
    y[:, 0].zero_()
    return y * 2


def relu_in_place_behind_dropout(self, x):
    y = self.conv(x)
    z = F.dropout(y, 0.5, self.training)
    return y + F.relu(z, inplace=True)


def relu_in_place_of_what_is_added_later(self, x):
    y = self.conv(x)
    z = y * 2
    y = F.relu(y, inplace=True)
    return y + z


def sizes_taken_without_gradients(self, x):
    with torch.no_grad():
        batch, offset = x.shape[0], x.mean()
        half = batch // 2 + 1
    return self.conv(x).reshape(batch, -1) / half + offset


def constant_made_on_the_way(self, x):
    return self.conv(x) * torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)


def constant_kept_as_an_attribute(self, x):
    return self.conv(x) * self.constant


def scale_by_the_batch(self, x):
    return self.conv(x) * x.shape[0] ** -0.5


def reduced_precision(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.conv(x)


FORWARDS = [
    relu_after_a_view_was_taken,
    relu_on_a_view,
    zeros_written_into_a_channel,
    relu_in_place_behind_dropout,
    relu_in_place_of_what_is_added_later,
    sizes_taken_without_gradients,
    constant_made_on_the_way,
    constant_kept_as_an_attribute,
    scale_by_the_batch,
]


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_a_program_equals_the_module_and_is_saved_whatever_its_forward_does(forward, tmp_path):
    module = Of(forward, conv=conv(), constant=torch.rand(4, 1, 1)).eval()
    program = capture(module, (PICTURE,))
    assert_close(program(PICTURE), module(PICTURE))
    save(program, tmp_path / "program")
    assert torch.equal(load(tmp_path / "program")(PICTURE), program(PICTURE))
    assert_same_training_step(module.train(), program.train(), (PICTURE,))


def test_dropout_that_is_always_on_stays_on():
    module = Of(lambda self, x: F.dropout(self.conv(x), 0.5, training=True), conv=conv()).eval()
    program = capture(module, (PICTURE,))
    torch.manual_seed(0)
    expected = module(PICTURE)
    torch.manual_seed(0)
    assert_close(program(PICTURE), expected)


def test_a_cumulative_average_becomes_a_running_one_and_is_named_as_not_captured():
    module = nn.Sequential(conv(), nn.BatchNorm2d(4, momentum=None))
    program, same = capture(module, (PICTURE,)).train(), nn.Sequential(module[0], nn.BatchNorm2d(4, momentum=0.1))
    for scale in (1.0, 2.0):
        same(PICTURE * scale)
        program(PICTURE * scale)
    torch.testing.assert_close(read(program, "1.running_mean"), same[1].running_mean)
    assert "cumulative average" in only_in_training(module)[0]


def test_a_region_of_reduced_precision_is_refused():
    with pytest.raises(LaconicError, match="autocast"):
        capture(Of(reduced_precision, conv=conv()), (PICTURE,))


def test_a_weight_that_the_module_itself_parametrizes_is_captured_and_saved(tmp_path):
    module = nn.Sequential(weight_norm(conv())).eval()
    program = capture(module, (PICTURE,))
    assert_close(program(PICTURE), module(PICTURE))
    save(program, tmp_path / "program")
    assert torch.equal(load(tmp_path / "program")(PICTURE), program(PICTURE))


def test_a_module_called_edges_is_like_any_other(tmp_path):
    module = Of(lambda self, x: self.edges(x), edges=conv()).eval()
    program = capture(module, (PICTURE,))
    assert set(dense_state(program)) == {"edges.weight", "edges.bias"}
    save(program, tmp_path / "program")
    assert torch.equal(load(tmp_path / "program")(PICTURE), program(PICTURE))


def test_what_is_not_a_tensor_in_the_outputs_is_left_out_and_the_others_come_in_order():
    module = Of(lambda self, x: {"a": self.conv(x), "b": [x * 2, None]}, conv=conv()).eval()
    one, other = capture(module, (PICTURE,))(PICTURE)
    assert_close(one, module.conv(PICTURE))
    assert torch.equal(other, PICTURE * 2)


# what cannot be captured ---------------------------------------------------------------------------


def decides_on_values(self, x):
    y = self.conv(x)
    if y.sum() > 0:
        return y
    return -y


def fixes_the_batch(self, x):
    return self.conv(x).reshape(2, -1)


def fixes_the_batch_by_length(self, x):
    return self.conv(x).reshape(len(x), -1)


def leaves_torch(self, x):
    return torch.from_numpy(self.conv(x).detach().numpy())


def fails(self, x):
    raise KeyError("nothing here")


def line_of(function, offset):
    return f"{Path(__file__).name}:{function.__code__.co_firstlineno + offset}"


@pytest.mark.parametrize(("forward", "offset"), [(decides_on_values, 2), (leaves_torch, 1), (fails, 1)])
def test_what_cannot_be_captured_is_an_error_at_the_line_of_the_user(forward, offset, capsys):
    module = Of(forward, conv=conv()).train()
    with pytest.raises(LaconicError) as error:
        capture(module, (PICTURE,))
    assert line_of(forward, offset) in str(error.value)
    assert "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")
    assert module.training
    assert module.conv.training


@pytest.mark.parametrize("forward", [fixes_the_batch, fixes_the_batch_by_length])
def test_a_fixed_batch_is_refused_in_words_that_say_so(forward):
    with pytest.raises(LaconicError, match="leave the batch size free"):
        capture(Of(forward, conv=conv()), (PICTURE,))


@pytest.mark.parametrize("example", [(PICTURE[:1],), (torch.tensor(3.0),), ("picture",), (PICTURE, PICTURE[:1])])
def test_an_example_without_a_batch_of_two_is_refused(example):
    with pytest.raises(LaconicError, match="batch of 2 or more on the first axis; got"):
        capture(conv(), example)


# editing -------------------------------------------------------------------------------------------


def test_placing_makes_the_modules_on_the_way_and_replaces_what_was_there():
    program = captured("convolution")[0]
    place(program, "new.inner.table", torch.ones(3), trainable=False)
    place(program, "classifier.bias", torch.full((5,), 2.0))
    assert isinstance(program.classifier.bias, nn.Parameter)
    assert read(program, "new.inner.table").tolist() == [1, 1, 1]
    assert "new.inner.table" in dict(program.named_buffers())
    place(program, "classifier.bias", torch.full((5,), 3.0), trainable=False)
    assert "classifier.bias" not in dict(program.named_parameters())


def test_tidying_drops_what_nothing_reads_and_nothing_else():
    module, example = build("convolution")
    program = capture(module, example)
    expected = program(*example)
    place(program, "forgotten", torch.ones(3))
    tidy(program)
    assert_close(program(*example), expected, rtol=0, atol=0)
    unread = {name for name in module.state_dict() if name.endswith("num_batches_tracked")}
    assert set(program.state_dict()) == set(module.state_dict()) - unread
    tied, tokens = build("tied")
    program = capture(tied, tokens)
    tidy(program)
    assert set(program.state_dict()) == set(tied.state_dict())


# back into the user's class ------------------------------------------------------------------------


@ALL
def test_writing_back_what_was_trained_gives_a_module_equal_to_the_program(name):
    module, example = build(name)
    program, _ = captured(name)
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.mul_(1.1).add_(0.01)
    fresh, _ = build(name, seed=1)
    training = [child.training for child in fresh.modules()]
    assert write_back(program, fresh) is fresh
    assert [child.training for child in fresh.modules()] == training
    assert_close(fresh.eval()(*example), program(*example))
    assert fresh.state_dict().keys() == module.state_dict().keys()
    assert {t.data_ptr() for t in program.state_dict().values()}.isdisjoint(t.data_ptr() for t in fresh.state_dict().values())
    fresh.load_state_dict(module.state_dict())


@pytest.mark.parametrize("name", ["convolution", "residual", "depthwise", "one-dimensional"])
def test_writing_back_after_folding_removes_the_norms(name):
    module, example = build(name)
    program = capture(module, example)
    represent(program, weights(program)[0].name, Mask(torch.rand_like(weights(program)[0].value) > 0.5))
    fold_batch_norm(program)
    write_back(program, module)
    assert not any(isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d) for child in module.modules())
    assert_close(module.eval()(*example), program(*example))
    assert_close(capture(module, example)(*example), program(*example))


def test_writing_back_ties_again():
    module, example = build("tied")
    program = capture(module, example)
    weight = weights(program, kinds=("embedding",))[0]
    represent(program, weight.name, Mask(weight.value > 0))
    write_back(program, module)
    assert module.embedding.weight is module.decoder.weight
    assert (module.embedding.weight == 0).any()
    assert_close(module.eval()(*example), program(*example))


def test_writing_back_resizes_where_shapes_changed():
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    example = (torch.randn(2, 6),)
    program = capture(module, example)
    keep = torch.tensor([0, 2, 5])
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        place(program, name, read(program, name).detach().index_select(axis, keep))
    assert write_back(program, module)[0].weight.shape == (3, 6)
    assert_close(module(*example), program(*example))


def test_writing_back_keeps_what_is_frozen_frozen():
    module, example = build("convolution")
    module.classifier.weight.requires_grad_(False)
    write_back(capture(module, example), module)
    assert [name for name, parameter in module.named_parameters() if not parameter.requires_grad] == ["classifier.weight"]


def test_writing_back_is_refused_where_the_class_computes_something_else():
    module, example = build("convolution")
    program = quantize(capture(module, example), example)
    assert edges(program)
    with torch.no_grad():
        for edge in edges(program).values():
            edge.scale.mul_(8)
    with pytest.raises(LaconicError, match=r"Plain computes something else .* save the program instead"):
        write_back(program, module)


class ReadsItsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        norm = self.norm
        return F.batch_norm(self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training)


def test_writing_back_is_refused_where_the_class_needs_what_is_gone():
    module = ReadsItsNorm().eval()
    program = capture(module, (PICTURE,))
    assert fold_batch_norm(program)
    with pytest.raises(LaconicError, match="save the program instead"):
        write_back(program, module)


def test_a_quantized_weight_is_written_back_dense():
    module, example = build("convolution")
    program = capture(module, example)
    represent(program, "classifier.weight", Uniform(torch.tensor(0.1), torch.tensor(0.0), 4))
    write_back(program, module)
    assert torch.equal(module.classifier.weight, (module.classifier.weight / 0.1).round() * 0.1)
    assert_close(module.eval()(*example), program(*example))


def test_a_constant_made_inside_a_submodule_is_kept_and_saved(tmp_path):
    def shift(self, x):
        return x + torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1)

    module = nn.Sequential(conv(), Of(shift)).eval()
    program = capture(module, (PICTURE,))
    assert_close(program(PICTURE), module(PICTURE))
    save(program, tmp_path / "program")
    assert torch.equal(load(tmp_path / "program")(PICTURE), program(PICTURE))
