import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from laconic.anatomy import taken_apart
from laconic.program import capture
from laconic.report import frozen_table, groups_table
from networks import captured


def text(table, width: int = 500) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


@pytest.fixture
def attention():
    return taken_apart("mine.py:attention", captured("attention")[0])


def test_both_tables_fit_a_hundred_columns(attention):
    for table in (groups_table(attention), frozen_table(attention)):
        assert max(map(len, text(table, 100).splitlines())) <= 100


def test_the_table_says_which_groups_are_heads_and_why_one_is_inexact(attention):
    printed = text(groups_table(attention))
    assert "heads" in printed
    assert f"{len(attention.parts)} groups, {sum(part.group.exact for part in attention.parts)} exact" in printed
    printed = text(groups_table(taken_apart("tokens", captured("root-parameters")[0])))
    assert "aten.softmax.int at tests/networks.py" in printed
    assert "normalizes over these channels" in printed
    assert ", 0 exact" in printed


def test_layers_of_one_kind_are_told_together():
    body = nn.Sequential(nn.Linear(3, 8), *(nn.Sequential(nn.BatchNorm1d(8), nn.ReLU()) for _ in range(12)), nn.Linear(8, 2))
    printed = text(groups_table(taken_apart("deep", capture(body, (torch.randn(2, 3),)))))
    assert "*.*[0] x12" in printed


def test_kernel_positions_are_counted_and_not_listed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    printed = text(frozen_table(taken_apart("small", capture(model, (torch.randn(2, 3, 8, 8),)))))
    assert "positions of kernels" in printed
    assert "conv2d" not in printed
    assert "the network's output" in printed


def test_folders_above_packages_are_left_out_of_reasons():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.second(torch.sort(self.first(x), dim=-1)[0])

    printed = text(frozen_table(taken_apart("sorted", capture(Sorted(), (torch.randn(2, 6),)))))
    assert "aten.sort" in printed
    assert "tests/report/test_groups.py" in printed
    assert str(Path.cwd()) not in printed
