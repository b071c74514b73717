"""Weight sharing: few different values in each weight, the optimal ones, which can then be trained.

Source: S. Han, H. Mao, W. Dally, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman
Coding", ICLR 2016, section 3: k-means in each layer, and centroids trained by the sum of the gradients of their weights. The clustering is
the optimal one (H. Wang, M. Song, "Ckmeans.1d.dp", The R Journal 3/2, 2011) in place of Lloyd's from chosen starts. Errors weighed by
the curvature of the loss, and entropy as the rate, are from Y. Choi, M. El-Khamy, J. Lee, "Towards the Limit of Network Quantization",
ICLR 2017; here the rate is met by the number of codes of each weight, all chosen together, exactly.
"""

from math import ceil
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from laconic.context import Context
from laconic.errors import LaconicError, NotApplicableError
from laconic.program import Mask, Program, Weight, read, represent, weights
from laconic.program.forms import kept
from laconic.program.represent import representations
from laconic.program.unquantized import check_unquantized
from laconic.share.codebooks import Clustered, clustered, numbers_within
from laconic.share.importance import importance
from laconic.step import Patterns, step
from laconic.train import Training

_CODES = 32  # where neither a number nor a budget is given
_MOST, _MORE_BITS = 256, 4  # where a budget is: codes of a weight, and bits above the average


@step
class KMeans:
    """Let the entries of each weight share few values, which are the best for their number.

    Smaller (bytes in Laconic's own files), not faster: runtimes hold the weights dense. Zeros stay exactly zero.
    """

    codes: Annotated[int, Field(ge=2, le=4096)] | None = None  # different values in each weight or group; 32 where no budget is given
    bits_per_weight: Annotated[float, Field(ge=0.5, le=8)] | None = None  # budget: entropy of codes, and codebooks, on average
    granularity: Literal["layer", "group"] = "layer"  # what has a codebook
    group_size: Annotated[int, Field(ge=1)] = 64  # consecutive output channels that have a codebook; only for granularity: group
    importance: Literal["none", "fisher"] = "none"  # what the squared error of a weight is weighed with; fisher: by calibration inputs
    epochs: Annotated[int, Field(ge=0)] = 0  # of training centroids and all that is not shared, on the labels
    learning_rate: Annotated[float, Field(gt=0)] = 0.001  # of that, by AdamW: of centroids as a share of their mean magnitude
    batch: Annotated[int, Field(ge=1)] = 128  # examples
    include: Patterns = ()  # name patterns of layers to share weights in; empty: all
    exclude: Patterns = ()  # name patterns of layers to leave alone

    forms: ClassVar[frozenset[str]] = frozenset({"shared weights"})

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.codes is not None and self.bits_per_weight is not None:
            raise ValueError("give either codes, the same number for every weight, or bits_per_weight, a budget that chooses the numbers")
        return self

    @property
    def trains(self) -> bool:
        """Whether training data is needed."""
        return self.epochs > 0

    def __call__(self, program: Program, context: Context) -> Program:
        """Give every chosen weight its codebook, and train what it holds."""
        if self.trains and context.splits.train is None:
            raise LaconicError("epochs were asked for, and the data has no training split; use epochs: 0, or data with a `train` part")
        chosen = weights(program, self.include, self.exclude)
        check_unquantized(program, chosen)
        _check_finite(chosen)
        books = [book for book in self._clustered(program, chosen, context) if book.most > 1 and book.is_smaller(2)]
        numbers = self._numbers(books)
        pairs = [(book, codes) for book, codes in zip(books, numbers, strict=True) if book.is_smaller(codes)]
        if not pairs:
            names = ", ".join(weight.name for weight in chosen)
            raise NotApplicableError(f"share.KMeans would make none of these weights smaller: {names}; give fewer codes, or larger layers")
        for book, codes in pairs:
            context.note(f"{book.weight.name}: {_put(program, book, codes)}")
        left = {weight.name for weight in chosen} - {book.weight.name for book, _ in pairs}
        if left:
            context.note(f"no smaller with a codebook and left as they are: {', '.join(sorted(left))}")
        if self.trains:
            self._train(program, context)
        return program

    def _clustered(self, program: Program, chosen: list[Weight], context: Context) -> list[Clustered]:
        most = self.codes or _CODES
        if self.bits_per_weight is not None:
            most = min(_MOST, 2 ** ceil(self.bits_per_weight + _MORE_BITS))
        size = self.group_size if self.granularity == "group" else None
        matters: list[Tensor | None] = [None] * len(chosen)
        if self.importance == "fisher":
            if context.splits.validation.vectors:
                raise NotApplicableError("importance: fisher is of networks that score classes, not vectors; leave it out")
            inputs = torch.cat(list(context.calibration()))
            matters = [*importance(program, [weight.name for weight in chosen], inputs, context.generator())]
        keeps = [kept(representations(program, weight.name)) for weight in chosen]
        return [clustered(weight, keep, each, most, size) for weight, keep, each in zip(chosen, keeps, matters, strict=True)]

    def _numbers(self, books: list[Clustered]) -> list[int]:
        """Return how many codes each weight gets."""
        if self.bits_per_weight is not None:
            return numbers_within(books, self.bits_per_weight)
        return [min(self.codes or _CODES, book.most) for book in books]

    def _train(self, program: Program, context: Context) -> None:
        before = context.score(program.eval(), context.splits.validation)
        training = Training(self.epochs, self.batch, self.learning_rate, optimizer="adamw", weight_decay=0.0, autocast="off")
        fitted = context.fit(program, training, progress="training centroids")
        after = "" if fitted.score is None else f": validation score {before:.4f} -> {fitted.score:.4f}"
        context.note(f"centroids trained for {fitted.epochs} epochs{after}")


def _put(program: Program, book: Clustered, codes: int) -> str:
    """Give a weight its codebook, and return in words what that did."""
    name, value = book.weight.name, book.weight.value.detach().clone()
    represent(program, name, book.form(codes))
    if book.keep is not None:
        represent(program, name, Mask(book.keep))
    lost = float((read(program, name).detach() - value).square().sum() / value.square().sum())
    return f"{codes} codes, {book.bits(codes) / book.entries:.3g} bits per weight by entropy, {lost:.2g} of its square lost"


def _check_finite(chosen: list[Weight]) -> None:
    bad = [weight.name for weight in chosen if not torch.isfinite(weight.value).all()]
    if bad:
        raise LaconicError(f"weights hold NaN or infinite numbers: {', '.join(bad)}; no codebook stands for them")
