import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from laconic.measure import macs, macs_per_node


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 4))

    def forward(self, weight):
        return self.left @ self.right


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(), nn.Linear(4, 5)

    def forward(self, x):
        return self.out(self.drop(F.relu(self.norm(self.conv(x))).mean((2, 3))))


# (module, shape of the input, multiply-accumulates per example)
CLOSED_FORMS = {
    "convolution": (nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 16, 16), 8 * 8 * 8 * 3 * 9),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), (2, 4, 8, 8), 6 * 6 * 8 * 2 * 9),
    "depthwise": (nn.Conv2d(6, 6, 5, groups=6, bias=False), (3, 6, 8, 8), 4 * 4 * 6 * 25),
    "1-d": (nn.Conv1d(3, 5, 4), (2, 3, 9), 6 * 5 * 3 * 4),
    "transposed": (nn.ConvTranspose2d(3, 5, 2, stride=2), (2, 3, 4, 4), 4 * 4 * 3 * 5 * 4),
    "aten convolution": (
        Call(lambda x: torch.ops.aten.conv2d.default(x, torch.ones(8, 3, 3, 3), None, [1, 1], [1, 1])),
        (2, 3, 8, 8),
        64 * 8 * 27,
    ),
    "linear": (nn.Linear(7, 5), (3, 7), 35),
    "linear over positions": (nn.Linear(7, 5), (3, 4, 7), 4 * 35),
    "matmul": (Call(lambda x: x @ x.transpose(-1, -2)), (2, 3, 4, 5), 3 * 4 * 4 * 5),
    "einsum": (Call(lambda x: torch.einsum("bij,bkj->bik", x, x)), (2, 3, 5), 3 * 3 * 5),
    "matrix by vector": (Call(lambda x: x @ torch.ones(5)), (4, 5), 5),
    "attention": (Call(lambda x: F.scaled_dot_product_attention(x, x, x)), (2, 3, 7, 4), 2 * 3 * 7 * 7 * 4),
    "recurrent": (nn.LSTM(4, 8, batch_first=True), (2, 5, 4), 5 * 4 * 8 * (4 + 8)),
    "recurrent both ways": (nn.LSTM(4, 8, batch_first=True, bidirectional=True), (2, 5, 4), 2 * 5 * 4 * 8 * (4 + 8)),
    "gated": (nn.GRU(4, 8, batch_first=True), (2, 5, 4), 5 * 3 * 8 * (4 + 8)),
    "elementwise": (nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), (3, 4), 0),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_an_operation_counts_as_its_closed_form_says(name):
    module, shape, expected = CLOSED_FORMS[name]
    assert macs(module, (torch.randn(shape),)) == expected


def test_a_transformer_layer_counts_its_projections_and_both_products_of_attention():
    width, inner, length = 8, 16, 5
    layer = nn.TransformerEncoderLayer(width, 2, inner, batch_first=True)
    expected = length * (4 * width * width + 2 * width * inner) + 2 * length * length * width
    assert macs(layer, (torch.randn(3, length, width),)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_attention_between_different_lengths_counts_both():
    def attend(query, key, value):
        return F.scaled_dot_product_attention(query, key, value)

    example = (torch.randn(2, 3, 7, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4))
    assert macs(Call(attend), example) == 3 * 7 * 5 * (4 + 4)


def test_counting_changes_neither_flags_nor_statistics():
    module = Net().train()
    module.drop.eval()
    macs(module, (torch.randn(2, 3, 8, 8),))
    assert [module.training, module.norm.training, module.drop.training] == [True, True, False]
    assert module.norm.num_batches_tracked == 0


def test_making_a_dense_view_is_not_counted():
    module = nn.Linear(4, 6)
    parametrize.register_parametrization(module, "weight", LowRank())
    assert macs(module, (torch.randn(2, 4),)) == 24


def exported(module):
    program = torch.export.export(module, (torch.randn(2, 3, 8, 8),)).module()
    for each in program.modules():  # its own eval() refuses
        each.training = False
    return program


@pytest.mark.parametrize("trace", [torch.fx.symbolic_trace, exported])
def test_the_nodes_of_a_graph_add_up_to_the_whole(trace):
    example = (torch.randn(2, 3, 8, 8),)
    program = trace(Net().eval())
    counts = macs_per_node(program, example)
    assert sum(counts.values()) == macs(program, example) == 64 * 4 * 27 + 20
    assert sorted(count for count in counts.values() if count) == [20, 64 * 4 * 27]
    assert set(counts) == {node.name for node in program.graph.nodes if node.op.startswith("call")}
