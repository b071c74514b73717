import pytest
import torch
from torch import nn

from laconic.measure import macs as measured
from laconic.program import capture, clone, cost
from laconic.program.cut import cut, symbols
from laconic.program.groups import find
from laconic.program.pack import packed_bytes
from networks import NETWORKS, captured


@pytest.mark.parametrize("name", NETWORKS)
def test_the_counts_are_those_of_the_operations_that_run(name):
    program, example = captured(name)
    assert sum(cost.macs(find(program).walk).values()) == pytest.approx(measured(program, example), rel=1e-3, abs=2)


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_after_a_cut_are_those_of_the_cut_network(name):
    program, example = captured(name)
    found = find(program)
    keep = {group.name: range(group.channels - group.channels // 3) for group in found.groups}
    foretold = symbols(found, keep)
    macs, stored = sum(cost.macs(found.walk, foretold).values()), sum(cost.stored_bytes(found.walk, foretold).values())
    cut(smaller := clone(program), keep)
    assert macs == pytest.approx(measured(smaller, example), rel=1e-3, abs=2)
    assert stored == pytest.approx(packed_bytes(smaller), rel=1e-3)


def test_products_of_every_kind_are_counted():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8, 5))

        def forward(self, x):  # (n, 4, 8)
            y = torch.einsum("nij,kj->nik", x, self.a)  # 4 * 8 * 6
            z = torch.matmul(y, y.transpose(1, 2))  # 4 * 6 * 4
            return torch.bmm(z, x) @ self.b  # 4 * 4 * 8 + 4 * 8 * 5

    program = capture(Products(), (torch.randn(2, 4, 8),))
    assert sum(cost.macs(find(program).walk).values()) == 4 * 8 * 6 + 4 * 6 * 4 + 4 * 4 * 8 + 4 * 8 * 5
