"""The two LeNets on which compression is compared since Deep Compression, for 28 x 28 grey digits.

Sources: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 1998;
the second one as in Caffe's `lenet.prototxt` and in S. Han, H. Mao, W. Dally, "Deep Compression", ICLR 2016.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class LeNet300(nn.Module):
    """Two hidden layers, of 300 and 100 neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(n, 10)` of `(n, 1, 28, 28)`."""
        hidden = F.relu(self.fc1(images.flatten(1)))
        hidden = F.relu(self.fc2(hidden))
        logits: Tensor = self.fc3(hidden)
        return logits


class LeNet5(nn.Module):
    """Caffe's variant: two convolutions, each with max pooling and no activation, and two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(n, 10)` of `(n, 1, 28, 28)`."""
        hidden = F.max_pool2d(self.conv1(images), 2)
        hidden = F.max_pool2d(self.conv2(hidden), 2)
        hidden = F.relu(self.fc1(hidden.flatten(1)))
        logits: Tensor = self.fc2(hidden)
        return logits


def lenet300() -> nn.Module:
    """Build LeNet-300-100 (LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998): 266,610 parameters."""
    return LeNet300()


def lenet5() -> nn.Module:
    """Build Caffe's LeNet-5 (after LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998): 431,080 parameters."""
    return LeNet5()
