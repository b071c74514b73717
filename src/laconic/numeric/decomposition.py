"""Matrices and tensors as products of smaller ones, in float64.

A kernel is `(out, in, positions)`: a convolution's with its positions in one axis, a matrix with one position. Where second moments of the
inputs are given, what is least is the error of the *outputs*: `tr((W - W') C (W - W')^T)` for moments `C = E[x x^T]`. Moments that are
singular, as of few examples, say nothing of some directions; these are given the weight `_RIDGE` of the mean one, so that a factor says
there what the weights say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod, sqrt

import torch
from torch import Tensor

_RIDGE = 1e-8  # of the mean diagonal of moments, added to it
_TINY = 1e-300
_MOVED = 0.1  # of the leading vectors that CP begins at
_ROOM = 1e-3  # of the squares of a tensor: the error that may be added to make CP less sensitive


@dataclass(frozen=True)
class Spectrum:
    """A matrix `(out, in)` in the coordinates in which moments are the identity: its singular values tell the error of every rank."""

    left: Tensor  # (out, k)
    values: Tensor  # (k,) falling
    right: Tensor  # (k, in), back in the coordinates of the inputs

    @property
    def errors(self) -> Tensor:
        """The squared error of every rank from 0 to k, (k + 1,); the last is 0.

        C. Eckart, G. Young, "The approximation of one matrix by another of lower rank", Psychometrika 1, 1936.
        """
        squares = self.values.square().flip(0).cumsum(0).flip(0)
        return torch.cat([squares, squares.new_zeros(1)])

    def matrix(self, values: Tensor) -> Tensor:
        """Return the matrix (out, in) of the first terms, with other values (terms,)."""
        return (self.left[:, : len(values)] * values) @ self.right[: len(values)]

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the two matrices (out, rank) and (rank, in) whose product has the least error of that rank; both weigh the same."""
        roots = self.values[:rank].sqrt()
        return self.left[:, :rank] * roots, roots[:, None] * self.right[:rank]


@dataclass(frozen=True)
class Whitening:
    """Coordinates in which second moments are the identity: `S` with `S S^T` the moments, and its inverse; None: the coordinates given."""

    root: Tensor | None = None  # (in, in)
    inverse: Tensor | None = None

    @staticmethod
    def of(moments: Tensor | None) -> "Whitening":
        """Return the coordinates of moments (in, in); None: of the identity."""
        if moments is None:
            return Whitening()
        safe = ridged(moments)
        scale, directions = torch.linalg.eigh(safe)
        roots = scale.clamp_min(float(_RIDGE * safe.diagonal().mean())).sqrt()  # moments summed in float32 may be a little below 0
        return Whitening(directions * roots, (directions / roots).T)

    def spectrum(self, matrix: Tensor) -> Spectrum:
        """Take a matrix (out, in) apart in these coordinates."""
        inside = matrix.double() if self.root is None else matrix.double() @ self.root
        left, values, right = torch.linalg.svd(inside, full_matrices=False)
        return Spectrum(left, values, right if self.inverse is None else right @ self.inverse)


def spectrum(matrix: Tensor, moments: Tensor | None = None) -> Spectrum:
    """Take a matrix apart so that the first terms lose least output.

    Source: the whitening is that of X. Wang, Y. Zheng, Z. Wan, M. Zhang, "SVD-LLM: Truncation-aware Singular Value Decomposition for Large
    Language Model Compression", ICLR 2025, section 3.1; X. Zhang, J. Zou, K. He, J. Sun, "Accelerating Very Deep Convolutional Networks
    for Classification and Detection", TPAMI 2016, section 3.1, states the same least-squares problem for convolutions.

    Args:
        matrix: (out, in).
        moments: of the inputs, (in, in); None: the identity.
    """
    return Whitening.of(moments).spectrum(matrix)


def ridged(moments: Tensor) -> Tensor:
    """Return moments that can be inverted, float64; those of inputs that are always zero are the identity."""
    moments = moments.double()
    mean = float(moments.diagonal().mean())
    return moments + torch.eye(len(moments), dtype=torch.float64) * (_RIDGE * mean if mean > 0 else 1.0)


def output_error(matrix: Tensor, other: Tensor, moments: Tensor | None = None) -> float:
    """Return the squared error of the outputs as a share of their squares; of the weights where there are no moments; 0 of zeros.

    Args:
        matrix: (out, in).
        other: in its place.
        moments: of the inputs, (in, in).
    """
    metric = torch.eye(matrix.shape[1], dtype=torch.float64) if moments is None else moments.double()
    apart, whole = (float(((each @ metric) * each).sum()) for each in ((matrix - other).double(), matrix.double()))
    return max(apart, 0.0) / whole if whole > 0 else 0.0


def randomized_spectrum(matrix: Tensor, rank: int, generator: torch.Generator, oversampling: int = 10, iterations: int = 2) -> Spectrum:
    """Return the first terms of a large matrix from its products with a few random vectors.

    Source: N. Halko, P. Martinsson, J. Tropp, "Finding Structure with Randomness", SIAM Review 53(2), 2011, algorithms 4.4 and 5.1.

    Args:
        matrix: (out, in).
        rank: terms wanted; fewer come where the matrix is smaller.
        generator: of the random vectors.
        oversampling: so many vectors more than terms.
        iterations: of the subspace; more where values fall slowly.
    """
    matrix = matrix.double()
    width = min(rank + oversampling, *matrix.shape)
    basis, _ = torch.linalg.qr(matrix @ torch.randn(matrix.shape[1], width, generator=generator, dtype=torch.float64))
    for _ in range(iterations):
        basis, _ = torch.linalg.qr(matrix.T @ basis)
        basis, _ = torch.linalg.qr(matrix @ basis)
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return Spectrum((basis @ left)[:, :rank], values[:rank], right[:rank])


def tucker(kernel: Tensor, ranks: tuple[int, int], sweeps: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Return a core and bases of outputs and inputs whose product is near a kernel: Tucker-2, by HOSVD and then HOOI.

    Source: L. De Lathauwer, B. De Moor, J. Vandewalle, "On the Best Rank-1 and Rank-(R1, ..., RN) Approximation of Higher-Order Tensors",
    SIAM J. Matrix Anal. Appl. 21, 2000; for kernels: Y.-D. Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low
    Power Mobile Applications", ICLR 2016.

    Args:
        kernel: (out, in, positions).
        ranks: of outputs and inputs.
        sweeps: of HOOI, fewer where nothing changes any more.

    Returns:
        core (ranks[0], ranks[1], positions), bases (out, ranks[0]) and (in, ranks[1]) with orthonormal columns.
    """
    kernel = kernel.double()
    outputs, inputs = (_leading(_unfolded(kernel, mode), rank) for mode, rank in enumerate(ranks))
    last = -1.0
    for _ in range(sweeps):
        outputs = _leading(_unfolded(torch.einsum("oip,ir->orp", kernel, inputs), 0), ranks[0])
        inputs = _leading(_unfolded(torch.einsum("oip,or->rip", kernel, outputs), 1), ranks[1])
        core = torch.einsum("oip,or,is->rsp", kernel, outputs, inputs)
        kept = float(core.square().sum())
        if kept - last <= 1e-9 * kept:
            break
        last = kept
    return torch.einsum("oip,or,is->rsp", kernel, outputs, inputs), outputs, inputs


def _unfolded(kernel: Tensor, mode: int) -> Tensor:
    return kernel.movedim(mode, 0).flatten(1)


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """Return the first left singular vectors, (rows, rank)."""
    vectors = torch.linalg.eigh(matrix @ matrix.T)[1]
    leading: Tensor = vectors.flip(1)[:, :rank]
    return leading


def reduced(moments: Tensor, first: Tensor) -> Tensor:
    """Return the second moments of what a first map makes of the inputs: `T C T^T` for `T` (r, in)."""
    return first @ moments.double() @ first.T


def regressed(matrix: Tensor, moments: Tensor, first: Tensor) -> Tensor:
    """Return the matrix that, behind a first map, gives outputs nearest to those of `matrix`: `W C T^T (T C T^T)^-1`.

    Args:
        matrix: W, (out, in).
        moments: C, of the inputs, (in, in).
        first: T, (r, in).
    """
    crossed = matrix.double() @ moments.double() @ first.T
    fitted: Tensor = torch.linalg.solve(ridged(reduced(moments, first)), crossed.T).T
    return fitted


def cp(kernel: Tensor, rank: int, generator: torch.Generator, sweeps: int = 60, stable: bool = True) -> list[Tensor]:
    """Return one factor of each axis, (size, rank), whose columns' outer products sum to a tensor near `kernel`.

    By alternating least squares (R. Harshman, UCLA Working Papers in Phonetics 16, 1970). Columns that grow without bound and cancel each
    other, which convolutions would not survive, are then taken back: with the error held, each factor becomes the one of least sensitivity
    to changes of the others, A.-H. Phan et al., "Stable Low-rank Tensor Decomposition for Compression of Convolutional Neural Network",
    ECCV 2020, section 3.2.

    Args:
        kernel: of three axes or more.
        rank: above 0; it may be larger than every axis.
        generator: of the columns to begin with, beyond the leading vectors.
        sweeps: of each of the two, fewer where nothing changes any more.
        stable: whether columns are taken back.
    """
    kernel = kernel.double()
    factors = [_start(_unfolded(kernel, mode), rank, generator) for mode in range(kernel.ndim)]
    error = _alternate(kernel, factors, sweeps)
    if stable:
        _calm(kernel, factors, error, sweeps)
    return balanced(factors)


def composed(factors: Sequence[Tensor]) -> Tensor:
    """Return the tensor that CP factors make."""
    letters = "abcdefg"[: len(factors)]
    return torch.einsum(",".join(f"{letter}z" for letter in letters) + f"->{letters}", *factors)


def sensitivity(factors: Sequence[Tensor]) -> float:
    """Return how much the tensor changes, squared, when every entry of the factors does by a small random amount; per its variance."""
    sizes, squares = [len(each) for each in factors], [each.square().sum(0) for each in factors]
    return sum(size * float(_others(squares, mode).sum()) for mode, size in enumerate(sizes))


def balanced(factors: Sequence[Tensor]) -> list[Tensor]:
    """Return the same product with columns of one length in all factors."""
    lengths = torch.stack([each.norm(dim=0).clamp_min(_TINY) for each in factors])
    whole = lengths.log().mean(0).exp()
    return [each / length * whole for each, length in zip(factors, lengths, strict=True)]


def _start(unfolded: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Return the leading vectors, a little moved, since they may be a saddle; and random ones where they are too few."""
    noise = torch.randn(len(unfolded), rank, generator=generator, dtype=torch.float64) / sqrt(len(unfolded))
    leading = _leading(unfolded, rank)
    noise[:, : leading.shape[1]] = leading + _MOVED * noise[:, : leading.shape[1]]
    return noise


def _others(values: Sequence[Tensor], mode: int) -> Tensor:
    """Return the product of all but one."""
    product = torch.ones_like(values[0])
    for place, each in enumerate(values):
        product = product * each if place != mode else product
    return product


def _normal(kernel: Tensor, factors: Sequence[Tensor], mode: int) -> tuple[Tensor, Tensor]:
    """Return both sides of the normal equations of one factor: (rank, rank) and (size, rank)."""
    gram = _others([each.T @ each for each in factors], mode)
    letters = "abcdefg"[: kernel.ndim]
    others = [(f"{letter}z", each) for place, (letter, each) in enumerate(zip(letters, factors, strict=True)) if place != mode]
    seen = torch.einsum(f"{letters},{','.join(name for name, _ in others)}->{letters[mode]}z", kernel, *(each for _, each in others))
    return gram, seen


def _regular(gram: Tensor) -> Tensor:
    """Return a matrix of normal equations that can be solved where columns are alike."""
    return gram + torch.eye(len(gram), dtype=torch.float64) * (1e-12 * float(gram.trace()) + _TINY)


def _alternate(kernel: Tensor, factors: list[Tensor], sweeps: int) -> float:
    """Fit each factor with the others held, again and again, in place; returns the squared error."""
    whole = float(kernel.square().sum())
    last = error = whole
    for _ in range(sweeps):
        for mode in range(kernel.ndim):
            gram, seen = _normal(kernel, factors, mode)
            factors[mode] = torch.linalg.solve(_regular(gram), seen.T).T
            if mode < kernel.ndim - 1:
                lengths = factors[mode].norm(dim=0).clamp_min(_TINY)
                factors[mode] = factors[mode] / lengths
        error = float((kernel - composed(factors)).square().sum())
        if last - error <= 1e-8 * whole:
            break
        last = error
    return error


def _calm(kernel: Tensor, factors: list[Tensor], error: float, sweeps: int) -> None:
    """Make the factors less sensitive, one after the other, with an error at most as large, in place."""
    sizes, whole = [len(each) for each in factors], float(kernel.square().sum())
    limit = error + _ROOM * whole
    factors[:] = balanced(factors)
    before = sensitivity(factors)
    for _ in range(sweeps):
        for mode in range(kernel.ndim):
            squares = [each.square().sum(0) for each in factors]
            weights = sum(sizes[other] * _others([*squares[:mode], torch.ones_like(squares[0]), *squares[mode + 1 :]], other)
                          for other in range(kernel.ndim) if other != mode)  # fmt: skip
            gram, seen = _normal(kernel, factors, mode)
            factors[mode] = _bounded(gram, seen, torch.as_tensor(weights), whole, limit, factors[mode])
        now = sensitivity(factors)
        if before - now <= 1e-3 * before:
            break
        before = now


def _bounded(gram: Tensor, seen: Tensor, weights: Tensor, whole: float, limit: float, before: Tensor) -> Tensor:
    """Return the factor of least weighted squares whose squared error is at most `limit`; the one before where there is none."""

    def solved(price: float) -> Tensor:
        factor: Tensor = torch.linalg.solve(_regular(gram + price * weights.diag()), seen.T).T
        return factor

    def lost(factor: Tensor) -> float:
        return whole - 2 * float((seen * factor).sum()) + float(((factor @ gram) * factor).sum())

    scale = float(gram.trace() / weights.sum().clamp_min(_TINY))
    low, high, best = -14.0, 2.0, before
    for _ in range(30):
        middle = (low + high) / 2
        trial = solved(scale * 10**middle)
        if lost(trial) <= limit:
            low, best = middle, trial
        else:
            high = middle
    return best


def tensor_train(matrix: Tensor, outputs: Sequence[int], inputs: Sequence[int], rank: int) -> list[Tensor]:
    """Return cores whose chain is near a matrix.

    Source: I. Oseledets, "Tensor-Train Decomposition", SIAM J. Sci. Comput. 33(5), 2011, algorithm 1; for layers: A. Novikov, D.
    Podoprikhin, A. Osokin, D. Vetrov, "Tensorizing Neural Networks", NeurIPS 2015.

    Args:
        matrix: (product of outputs, product of inputs).
        outputs: sizes into which the rows are taken apart.
        inputs: as many, of the columns.
        rank: the largest between two cores.

    Returns:
        Cores (left, output, input, right); the first left and the last right are 1.
    """
    if len(outputs) != len(inputs) or prod(outputs) != matrix.shape[0] or prod(inputs) != matrix.shape[1]:
        raise ValueError(f"a matrix of {tuple(matrix.shape)} is not taken apart into {tuple(outputs)} by {tuple(inputs)}")
    count = len(outputs)
    order = [axis for pair in zip(range(count), range(count, 2 * count), strict=True) for axis in pair]
    rest, left, cores = matrix.double().reshape(*outputs, *inputs).permute(order), 1, list[Tensor]()
    for output, input_size in zip(outputs[:-1], inputs[:-1], strict=True):
        found = spectrum(rest.reshape(left * output * input_size, -1))
        kept = min(rank, int((found.values > 1e-14 * found.values[0]).sum()) or 1)
        cores.append(found.left[:, :kept].reshape(left, output, input_size, kept))
        rest, left = found.values[:kept, None] * found.right[:kept], kept
    return [*cores, rest.reshape(left, outputs[-1], inputs[-1], 1)]


def chained(cores: Sequence[Tensor]) -> Tensor:
    """Return the matrix that the cores of a tensor train make."""
    whole = cores[0]
    for core in cores[1:]:
        whole = torch.einsum("aoir,rpjb->aopijb", whole, core).flatten(3, 4).flatten(1, 2)
    return whole[0, :, :, 0]


def variational_rank(matrix: Tensor) -> int:
    """Return how many terms of a matrix are more than noise: the rank of empirical variational Bayesian matrix factorization.

    Source: S. Nakajima, M. Sugiyama, S. D. Babacan, R. Tomioka, "Global Analytic Solution of Fully-observed Variational Bayesian Matrix
    Factorization", JMLR 14, 2013, theorem 2 and section 4.3: the noise is what makes the free energy least.

    Args:
        matrix: (out, in).
    """
    small, large = sorted(matrix.shape)
    values = torch.linalg.svdvals(matrix.double())
    share = small / large
    knee = 2.5129 * sqrt(share)
    border = (1 + knee) * (1 + share / knee)
    most = max(min(ceil(small / (1 + share)) - 1, len(values)) - 1, 0)
    squares, above = values.square(), float(values.square().sum() / (small * large))
    tail = squares[min(most + 1, len(squares) - 1) :]
    below = max(float(tail[0] / (large * border)), float(tail.mean() / large), _TINY)
    if above <= 0 or below >= above:
        return int((squares > large * border * above).sum()) if above > 0 else 0
    noises = torch.logspace(torch.tensor(below).log10().item(), torch.tensor(above).log10().item(), 400, dtype=torch.float64)
    noise = min(noises.tolist(), key=lambda each: _free_energy(squares, each, small, large, border))
    return int((squares > large * noise * border).sum())


def _free_energy(squares: Tensor, noise: float, small: int, large: int, border: float) -> float:
    share, scaled = small / large, (squares / (large * noise)).clamp_min(_TINY)
    signal, rest = scaled[scaled > border], scaled[scaled <= border]
    lifted = signal - (1 + share)
    tau = (lifted + (lifted.square() - 4 * share).sqrt()) / 2
    energy = (rest - rest.log()).sum() + (signal - tau).sum() + ((tau + 1) / signal).log().sum() + share * (tau / share + 1).log().sum()
    return float(energy) + (small - len(squares)) * float(torch.tensor(noise).log())
