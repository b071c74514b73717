import pytest
import torch
from torch.nn import functional as F

from laconic.distill.kept import Likeliest, Whole, enough, form_of, likeliest, restored


def peaked(rows, classes, height=4.0):
    """Answers of a network that is sure of a few classes."""
    logits = torch.randn(rows, classes)
    return logits.scatter_add(1, torch.randint(classes, (rows, 5)), height * torch.rand(rows, 5) + height)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_what_is_kept_has_the_probabilities_of_the_likeliest_and_of_all_others_together(temperature):
    logits = torch.randn(6, 4, 50) * 3
    values, classes, rest = likeliest(logits, 9, temperature)
    true, again = ((each / temperature).softmax(-1) for each in (logits, restored(values, classes, rest, 50)))
    torch.testing.assert_close(again.gather(-1, classes), true.gather(-1, classes))
    for row, kept in zip(again.flatten(0, 1), classes.flatten(0, 1), strict=True):
        others = [float(row[number]) for number in range(50) if number not in kept.tolist()]
        assert max(others) - min(others) < 1e-7
    assert set(classes[0, 0].tolist()) == set(logits[0, 0].argsort(descending=True)[:9].tolist())


def test_as_many_are_kept_as_say_almost_all():
    logits = peaked(40, 1000, 20.0)
    count = enough(logits, 1.0)
    assert count == 8
    again = restored(*likeliest(logits, count, 1.0), 1000)
    lost = F.kl_div(again.log_softmax(1), logits.log_softmax(1), reduction="batchmean", log_target=True)
    said = F.kl_div(torch.full((40, 1000), -torch.tensor(1000.0).log()), logits.log_softmax(1), reduction="batchmean", log_target=True)
    assert lost <= 0.01 * said
    assert enough(torch.randn(40, 1000), 4.0) is None  # nothing stands out
    assert enough(peaked(40, 30), 1.0) is None  # so few classes that nothing is saved


@pytest.mark.parametrize("shape", [(200,), (3, 200), (3, 40_000)])
def test_rows_are_read_as_they_were_written(shape):
    answers = peaked(4 * shape[0] if len(shape) > 1 else 4, shape[-1]).reshape(4, *shape)
    form = Likeliest(shape, 16, 2.0)
    with torch.autocast("cpu", torch.bfloat16):  # in which batches are drawn
        rows = form.written(answers)
    assert rows.dtype == torch.float16
    assert rows.shape == (4, form.columns)
    assert not rows[:, 0].isnan().any()
    read = form.read(torch.from_numpy(rows.numpy().copy()))
    exact = restored(*likeliest(answers, 16, 2.0), shape[-1])
    torch.testing.assert_close(read, exact, rtol=2e-3, atol=2e-3)
    whole = Whole(shape)
    torch.testing.assert_close(whole.read(whole.written(answers)), answers, rtol=2e-3, atol=2e-3)


def test_maps_and_boxes_are_kept_whole():
    assert isinstance(form_of(peaked(8, 1000, 20.0), 1.0), Likeliest)
    assert isinstance(form_of(peaked(8, 1000, 20.0).reshape(2, 4, 1000), 1.0), Likeliest)
    assert form_of(torch.randn(2, 200, 4, 4), 1.0) == Whole((200, 4, 4))
