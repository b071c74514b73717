from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.errors import LaconicError
from laconic.program import capture
from laconic.train import Training


def numbers(examples):
    inputs = np.arange(4 * examples, dtype=np.float32).reshape(examples, 4)
    return Split(inputs, np.arange(examples) % 2, (1.0,), (2.0,))


def context_of(calibration=10, train=8):
    return Context(Splits(numbers(train) if train else None, numbers(calibration), numbers(6), numbers(5)))


def line():
    return capture(nn.Sequential(nn.Linear(4, 2)), (torch.randn(2, 4),))


def test_the_example_is_the_first_calibration_inputs_as_the_network_takes_them():
    (example,) = context_of().example(3)
    expected = (torch.arange(12, dtype=torch.float32).reshape(3, 4) - 1) / 2
    assert torch.equal(example, expected)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16])
def test_an_example_larger_than_the_calibration_part_repeats_it(batch):
    (example,) = context_of(calibration=3).example(batch)
    (all_of_it,) = context_of(calibration=3).example(3)
    assert torch.equal(example, all_of_it[torch.arange(batch) % 3])


def test_one_calibration_input_is_enough_for_an_example_of_two():
    assert context_of(calibration=1).example()[0].shape == (2, 4)


def test_calibration_gives_every_input_once_in_order():
    batches = list(context_of(calibration=10).calibration(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat(batches), context_of(calibration=10).example(10)[0])


def test_generators_start_at_the_seed_and_are_independent():
    context = context_of()
    draws = [torch.randn(3, generator=generator) for generator in (context.generator(), context.generator())]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.randn(3, generator=replace(context, seed=1).generator()))


def test_only_the_journal_grows():
    context = context_of()
    context.note("one")
    context.note("two")
    assert context.notes == ["one", "two"]
    assert context_of().notes == []
    with pytest.raises(FrozenInstanceError):
        context.seed = 1


def test_training_without_training_data_is_refused_with_the_way_out():
    with pytest.raises(LaconicError, match="no training split; use post-training steps only, or data with"):
        context_of(train=0).fit(line(), Training(epochs=1))


def test_training_uses_the_training_part_and_scores_the_validation_part():
    seen = []

    def loss(model, inputs, labels):
        seen.append((inputs, labels))
        return nn.functional.cross_entropy(model(inputs), labels)

    scored = []

    def score(model, split):
        scored.append(split)
        return 0.5

    context = replace(context_of(train=8), score=score)
    fitted = context.fit(line(), Training(epochs=2, batch=4, learning_rate=1e-3), loss)
    assert fitted.score == 0.5
    assert scored == [context.splits.validation] * 2
    assert len(seen) == 4
    inputs = torch.cat([batch for batch, _ in seen[:2]])
    assert torch.equal(inputs.sort(0).values, context.splits.train.batch(slice(None))[0])


def test_the_seed_of_the_context_is_the_seed_of_training():
    ends = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        program = line()
        replace(context_of(), seed=seed).fit(program, Training(epochs=1, batch=2, autocast="off"))
        ends.append(program(context_of().example()[0]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_training_leaves_checkpoints_in_the_folder_of_the_context(tmp_path):
    replace(context_of(), folder=tmp_path).fit(line(), Training(epochs=1))
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
