"""The noise of a change, against changing the network itself."""

import pytest
import torch

from laconic.program import clone, read, weights
from laconic.program.noise import in_place_of, relative_error, run, run_on
from laconic.program.observe import stepwise
from networks import captured


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # torch.export's, of recurrent layers
@pytest.mark.parametrize("kind", ["residual", "tied", "lstm", "attention"])
def test_a_weight_in_place_of_another_gives_what_the_network_with_it_gives(kind):
    program, (example, *_) = captured(kind)
    for weight in weights(program):
        other = torch.randn_like(weight.value)
        edited = clone(program).eval()
        with torch.no_grad():
            read(edited, weight.name).copy_(other)
            wanted = edited(example)
            torch.testing.assert_close(run(program, example, in_place_of(weight, other)), wanted)
            for node, values in stepwise(program, (example,)):
                if node is weight.readers[0]:
                    torch.testing.assert_close(run_on(program, node, values, in_place_of(weight, other)), wanted)


def test_the_error_is_a_share_of_the_squares_of_what_is_wanted():
    assert relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.25 / 25)
