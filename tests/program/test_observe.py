import pytest
import torch

from laconic.program import capture, clone, tidy
from laconic.program.blocks import pieces
from laconic.program.observe import Piece, changed, examples_at_once, observe, rest, side_by_side, stepwise
from networks import NETWORKS, build, captured


def relus(program):
    return [node for node in program.graph.nodes if node.target is torch.ops.aten.relu.default]


def test_what_is_seen_is_what_the_network_computes_in_eval_mode_without_gradients():
    module, example = build("convolution")
    program = capture(module, example).train()
    seen = {}
    module.eval()
    expected = []
    module.features[0][2].register_forward_hook(lambda _, __, output: expected.append(output.clone()))
    module.features[2][2].register_forward_hook(lambda _, __, output: expected.append(output.clone()))
    module(*example)
    before = program.state_dict()["features.0.1.running_mean"].clone()
    observe(program, [example], relus(program), lambda node, value: seen.update({node: value}))
    assert program.training
    assert torch.equal(program.state_dict()["features.0.1.running_mean"], before)
    for node, value in zip(relus(program), expected, strict=True):
        torch.testing.assert_close(seen[node], value)
        assert not seen[node].requires_grad


def test_every_input_is_run_and_nodes_are_visited_in_order():
    module, example = build("convolution")
    program = capture(module, example)
    visited = []
    observe(program, [example, (example[0][:1],)], relus(program)[::-1], lambda node, value: visited.append((node, len(value))))
    first, second = relus(program)
    assert visited == [(first, 2), (second, 2), (first, 1), (second, 1)]


def test_a_returned_value_replaces_what_the_later_nodes_read():
    module, example = build("convolution")
    program = capture(module, example)
    first, second = relus(program)
    seen = {}

    def visit(node, value):
        seen[node] = value
        return torch.zeros_like(value) if node is first else None

    observe(program, [example], [first, second], visit)
    module.eval()
    module.features[0][2].register_forward_hook(lambda _, __, output: torch.zeros_like(output))
    expected = []
    module.features[2][2].register_forward_hook(lambda _, __, output: expected.append(output.clone()))
    module(*example)
    torch.testing.assert_close(seen[second], expected[0])


def test_the_mode_comes_back_after_an_error():
    module, example = build("convolution")
    program = capture(module, example).train()

    def fail(node, value):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        observe(program, [example], relus(program), fail)
    assert program.training


def test_two_programs_run_side_by_side_by_the_names_of_their_nodes():
    whole, example = captured("residual")
    program = clone(whole)
    added = next(node for node in program.graph.nodes if node.target is torch.ops.aten.add.Tensor)
    with program.graph.inserting_after(added):
        doubled = program.graph.call_function(torch.ops.aten.mul.Tensor, (added, 2.0))
    added.replace_all_uses_with(doubled, delete_user_cb=lambda user: user is not doubled)
    tidy(program)
    seen = {}
    for node, values, reference in side_by_side(program, whole, example[0]):
        seen[node.name] = reference
        if node is doubled:
            torch.testing.assert_close(values[added], seen["add"])
    assert list(seen) == [node.name for node in program.graph.nodes]
    assert seen[doubled.name] is None
    assert seen["output"] is None
    wanted = {}
    relu = relus(whole)[-1]
    observe(whole, [example], [relu], lambda node, value: wanted.update({node.name: value}))
    torch.testing.assert_close(seen[relu.name], wanted[relu.name])


def test_little_memory_means_fewer_examples(monkeypatch):
    program, _ = captured("residual")
    monkeypatch.setattr("laconic.program.observe._MEMORY", 4 * 6 * 8 * 64 * 10)  # ten examples of the largest value, 8 x 8 x 8
    assert examples_at_once(program) == 10


def test_the_rest_of_a_run_from_any_stop_gives_its_output_and_leaves_the_values():
    program, example = captured("residual")
    expected = program(*example)
    with torch.no_grad():
        for node, values in stepwise(program, example):
            if node.op in ("call_function", "output"):
                before = dict(values)
                assert torch.equal(rest(program, node, values, {}), expected)
                assert values == before


def test_a_change_acts_the_same_in_a_whole_run_and_in_the_rest_of_one():
    program, example = captured("residual")
    changes = {relus(program)[0]: lambda value: value.round()}
    with torch.no_grad():
        expected = changed(program, example, changes)
        assert not torch.equal(expected, program(*example))
        for node, values in stepwise(program, example):
            if node.op == "call_function":
                assert torch.equal(rest(program, node, values, changes), expected)
            if node in changes:
                break


def test_a_change_of_a_value_that_is_there_already_acts_on_those_that_still_read_it():
    program, example = captured("residual")
    [first, *_] = relus(program)
    with torch.no_grad():
        expected = changed(program, example, {first: torch.zeros_like})
        after = next((node, dict(values)) for node, values in stepwise(program, example) if node is first.next)
        assert torch.equal(rest(program, *after, {first: torch.zeros_like}), expected)


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"two-inputs", "two-outputs"}))
def test_pieces_run_one_behind_the_other_compute_what_the_network_does(name):
    program, example = captured(name)
    [value] = example
    for start, end in pieces(program):
        value = Piece(program, start.name, end.name)(value)
    torch.testing.assert_close(value, program(*example))


def test_a_piece_that_needs_other_values_than_its_start_is_refused():
    program, _ = captured("residual")
    branch = next(node for node in program.graph.nodes if node.target is torch.ops.aten.add.Tensor).all_input_nodes[0]
    with pytest.raises(ValueError, match="is not computed from"):
        Piece(program, branch.name, "output")
