from dataclasses import replace

import pytest
import torch

from laconic.errors import LaconicError
from laconic.factorize import SVD, Gradual
from laconic.factorize.channels import Channels
from laconic.factorize.gradual import Towards, lowered
from laconic.factorize.svd import Spatial
from laconic.factorize.ways import Subject
from laconic.measure import macs
from laconic.numeric.decomposition import Whitening, output_error
from laconic.program import capture, clone
from laconic.program.layers import layers
from laconic.train import Training, top1

PULLED = Training(epochs=4, batch=32, learning_rate=0.02, autocast="off")


def matrix_and_moments(generator):
    matrix, inputs = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((6, 9), (40, 9)))
    return matrix, inputs.T @ inputs / 40


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_the_full_pull_is_the_nearest_matrix_of_the_rank(generator):
    matrix, moments = matrix_and_moments(generator)
    for whitening, metric in ((Whitening(), None), (Whitening.of(moments), moments)):
        drawn = lowered(matrix, 3, 1.0, "rank", whitening)
        assert torch.linalg.matrix_rank(drawn) == 3
        left, right = (torch.randn(200, *shape, generator=generator, dtype=torch.float64) for shape in ((6, 3), (3, 9)))
        others = left @ right
        moved = drawn + 1e-3 * (others[:100] - drawn)
        truncated = [lowered(each, 3, 1.0, "rank", Whitening()) for each in moved]  # near by, of the same rank
        least = output_error(matrix, drawn, metric)
        assert all(output_error(matrix, other, metric) >= least - 1e-9 for other in [*others, *truncated])


def test_a_weaker_pull_goes_a_share_of_the_way(generator):
    matrix, moments = matrix_and_moments(generator)
    whitening = Whitening.of(moments)
    nearest = lowered(matrix, 2, 1.0, "rank", whitening)
    torch.testing.assert_close(lowered(matrix, 2, 0.25, "rank", whitening), matrix + 0.25 * (nearest - matrix))
    torch.testing.assert_close(lowered(matrix, 2, 0.0, "nuclear", whitening), matrix)
    torch.testing.assert_close(lowered(matrix, 9, 1.0, "rank", whitening), matrix)


def test_the_nuclear_pull_is_the_proximal_step_of_the_nuclear_norm(generator):
    matrix, _ = matrix_and_moments(generator)
    threshold = 0.5 * float(torch.linalg.svdvals(matrix)[3])
    drawn = lowered(matrix, 3, 0.5, "nuclear", Whitening())

    def objective(other):
        return float((other - matrix).square().sum()) / 2 + threshold * float(torch.linalg.svdvals(other).sum())

    moves = 0.05 * torch.randn(200, 6, 9, generator=generator, dtype=torch.float64)
    assert all(objective(drawn + move) >= objective(drawn) for move in moves)
    assert torch.linalg.matrix_rank(lowered(matrix, 3, 1.0, "nuclear", Whitening())) == 3


@pytest.mark.parametrize("way", [Channels(), Spatial()], ids=lambda way: way.name)
def test_what_is_folded_is_unfolded(way, program):
    layer = next(layer for layer in layers(program) if layer.weight == "left.weight")
    weight = program.get_parameter("left.weight").detach().double().flatten(1)
    subject = Subject(layer, weight, None, 1, (1, 1), 1)
    assert torch.equal(way.unfolded(subject, way.folded(subject)), weight)


@pytest.mark.parametrize("pull", ["rank", "nuclear"])
def test_layers_are_drawn_to_their_ranks_before_they_are_taken_apart(pull, program, make_context, monkeypatch):
    context = replace(make_context(teacher=clone(program)), notes=[])
    seen = []
    monkeypatch.setattr(Towards, "__call__", observed(Towards.__call__, program, seen))
    made = Gradual(macs=0.6, kinds=("svd",), pull=pull, pulled=PULLED)(program, context)
    assert macs(made, context.example()) <= 0.6 * macs(context.teacher, context.example())
    assert seen[0] > 0.1 > 1e-6 > seen[-1]
    assert top1(made, context.splits.test) > 0.85
    names = dict(made.named_parameters())
    assert "right.down.weight" in names or "left.down.weight" in names
    assert any("taken apart" in note for note in context.notes)


def observed(call, program, seen):
    """Note after every batch how much of a layer is beyond the rank that was chosen for it."""

    def called(self, done, total):
        answer = call(self, done, total)
        subject, _, rank = next(self._each())
        values = torch.linalg.svdvals(program.get_parameter(subject.layer.weight).detach().flatten(1).double())
        seen.append(float(values[rank:].square().sum() / values.square().sum()))
        return answer

    return called


def test_it_keeps_more_than_training_afterwards(program, make_context):
    whole = clone(program)
    context = make_context(teacher=whole)
    gradual = Gradual(macs=0.55, pulled=PULLED)(clone(program), context)
    after = SVD(macs=0.55)(clone(program), context)
    assert top1(gradual, context.splits.test) > top1(after, context.splits.test)


def test_from_random_weights_ranks_are_kept_too(untrained, make_context):
    context = make_context()
    program = capture(untrained, context.example())
    made = Gradual(rank=4, include=("left", "right"), pulled=PULLED)(program, context)
    assert made.get_parameter("left.down.weight").shape[0] == 4 or made.get_parameter("left.up.weight").shape[1] == 4
    assert top1(made, context.splits.test) > 0.5


def test_it_is_refused_without_data_to_train_on(program, make_context):
    context = make_context()
    with pytest.raises(LaconicError, match="no training split"):
        Gradual()(program, replace(context, splits=replace(context.splits, train=None)))
