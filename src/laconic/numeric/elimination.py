"""Backward elimination of inputs of a linear layer, the rest making up for what is lost as well as it can.

Source: B. Hassibi, D. Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", NeurIPS 1992, eq. 5, for sets of
inputs at once as in E. Kurtic, E. Frantar, D. Alistarh, "ZipLM: Inference-Aware Structured Pruning of Language Models", NeurIPS 2023,
eq. 2 and 3. The squared error of each output is weighted by how much the loss depends on it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 8192
"""Inputs of one output of a layer, up to which a system in all of them is worth solving."""


@dataclass
class Elimination:
    """A linear layer `outputs = inputs @ weight.T` from which inputs are taken one set after the other."""

    weight: Tensor  # (out, in), float64; changes as inputs go
    inverse: Tensor  # (in, in), float64: of the inputs' second moments, damped; changes as inputs go
    importance: Tensor  # (out,), float64: what one unit of mean squared error of each output costs

    def costs(self, sets: Tensor) -> Tensor:
        """Return what taking each set of inputs away would cost, all that stay adjusted for it.

        Args:
            sets: (count, k) positions of inputs; none that is gone already counts.

        Returns:
            (count,) costs: `sum over outputs of importance * w_S inv(inverse_SS) w_S`.
        """
        blocks = self.inverse[sets[:, :, None], sets[:, None, :]]
        parts = self.weight[:, sets].permute(1, 2, 0) * self.importance.sqrt()  # (count, k, out)
        costs: Tensor = (parts * torch.linalg.solve(blocks, parts)).sum((1, 2))
        return costs

    def take(self, inputs: Tensor) -> None:
        """Take a set of inputs, (k,) positions, away and adjust the weights of the others."""
        solved = torch.linalg.solve(self.inverse[inputs][:, inputs], self.inverse[inputs])  # (k, in)
        self.weight -= self.weight[:, inputs] @ solved
        self.inverse -= self.inverse[:, inputs] @ solved
        self.weight[:, inputs] = 0
        self.inverse[inputs] = 0
        self.inverse[:, inputs] = 0
        self.inverse[inputs, inputs] = 1  # so that blocks with what is gone stay invertible

    def drop(self, outputs: Tensor) -> None:
        """Forget outputs, (k,) positions: their error costs nothing any more."""
        self.importance[outputs] = 0


def elimination(weight: Tensor, moments: Tensor, importance: Tensor, damping: float = 1e-4) -> Elimination:
    """Prepare the elimination of inputs.

    Args:
        weight: (out, in).
        moments: (in, in), mean over the samples of `inputs.T @ inputs`.
        importance: (out,), not negative.
        damping: added to the diagonal of the moments, as a share of its mean.
    """
    moments = damped(moments.double(), damping)
    return Elimination(weight.detach().double().clone(), torch.linalg.inv(moments), importance.double().clone())


def ridge(moments: Tensor, products: Tensor, prior: Tensor, damping: float = 1e-4) -> Tensor:
    """Return the matrix `m` (out, in) that minimises `|targets - inputs @ m.T|^2 + strength * |m - prior|^2`.

    Args:
        moments: (in, in), `inputs.T @ inputs`.
        products: (in, out), `inputs.T @ targets`.
        prior: (out, in), towards which directions are drawn that the inputs do not determine.
        damping: the strength, as a share of the mean of the moments' diagonal.
    """
    moments = moments.double()
    right = products.double() + _strength(moments, damping) * prior.double().T
    solved: Tensor = torch.linalg.solve(damped(moments, damping), right)
    return solved.T


def damped(moments: Tensor, damping: float) -> Tensor:
    """Return a symmetric matrix with a share of its diagonal's mean added to its diagonal; never singular."""
    return moments + _strength(moments, damping) * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)


def _strength(moments: Tensor, damping: float) -> float:
    return max(damping * float(moments.diagonal().mean()), 1e-12)
