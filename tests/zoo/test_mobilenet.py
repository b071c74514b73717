import math

import pytest
import torch
import torch.nn.functional as F

from laconic.zoo.mobilenet import Convolution


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (6, 7)])
def test_stride_2_pads_as_tensorflow_does(height, width):
    """TensorFlow: the output has ceil(size / 2) places; what they need in zeros is split evenly, the odd one at the end."""
    layer = Convolution(3, 4, 3, 2, linear=True)
    images = torch.randn(2, 3, height, width)
    needed = [max((math.ceil(side / 2) - 1) * 2 + 3 - side, 0) for side in (width, height)]
    padded = F.pad(images, [zeros for total in needed for zeros in (total // 2, total - total // 2)])
    assert torch.allclose(layer(images), F.conv2d(padded, layer.conv.weight, layer.conv.bias, stride=2), atol=1e-6)


def test_only_linear_convolutions_pass_negative_and_large_values():
    images = torch.randn(2, 3, 4, 4) * 100
    assert Convolution(3, 8)(images).aminmax() == (0, 6)
    assert Convolution(3, 8, linear=True)(images).min() < 0
