"""The axis algebra: what every dimension of every tensor is made of.

A dimension is a term: a symbol (so many channels, indivisible as far as is known), an ordered sum of terms (a concatenation) or an
ordered product of terms (a reshape: outermost factor first). Operations equate terms; where two descriptions of one dimension differ in
fineness, the coarser one is refined. What cannot be described freezes its symbols, with the reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Keep: TypeAlias = Mapping[int, Sequence[int]]
"""Symbol number -> the channels that stay, ascending; symbols that are absent stay whole."""


@dataclass(frozen=True)
class Symbol:
    """Channels that come and go one by one."""

    number: int


@dataclass(frozen=True)
class Sum:
    """Parts one after the other."""

    parts: "tuple[Term, ...]"


@dataclass(frozen=True)
class Product:
    """Factors nested, the outermost (slowest) first."""

    factors: "tuple[Term, ...]"


Term: TypeAlias = Symbol | Sum | Product
UNIT = Product(())
"""A dimension of size 1."""


class MisfitError(Exception):
    """Two descriptions of one dimension cannot be brought together."""


@dataclass
class Algebra:
    """The symbols, their sizes, what they turned out to be, and which of them must stay whole."""

    sizes: list[int] = field(default_factory=list)
    bound: dict[int, Term] = field(default_factory=dict)
    frozen: dict[int, str] = field(default_factory=dict)  # symbol -> why it must stay whole
    inexact: dict[int, str] = field(default_factory=dict)  # symbol -> why cutting is not the same as zeroing
    heads: set[int] = field(default_factory=set)  # symbols that count attention heads

    def new(self, size: int, frozen: str | None = None) -> Term:
        """Return a new symbol of `size` channels; a dimension of size 1 is the unit."""
        if size == 1:
            return UNIT
        self.sizes.append(size)
        number = len(self.sizes) - 1
        if frozen:
            self.frozen[number] = frozen
        return Symbol(number)

    def size(self, term: Term) -> int:
        """Return how many positions a term has."""
        match self._head(term):
            case Symbol(number):
                return self.sizes[number]
            case Sum(parts):
                return sum(map(self.size, parts))
            case Product(factors):
                return prod(map(self.size, factors))

    def normal(self, term: Term) -> Term:
        """Return the term with every bound symbol replaced, nested sums and products flattened and units dropped."""
        match self._head(term):
            case Symbol() as symbol:
                return symbol
            case Sum(parts):
                return _sum([self.normal(part) for part in parts])
            case Product(factors):
                return _product([self.normal(factor) for factor in factors])

    def leaves(self, term: Term) -> Iterator[int]:
        """Yield the numbers of the symbols in a term, in order, with repetition."""
        match self._head(term):
            case Symbol(number):
                yield number
            case Sum(parts):
                for part in parts:
                    yield from self.leaves(part)
            case Product(factors):
                for factor in factors:
                    yield from self.leaves(factor)

    def freeze(self, term: Term, reason: str) -> None:
        """Let every symbol of the term stay whole; the first reason is kept."""
        for number in self.leaves(term):
            self.frozen.setdefault(number, reason)

    def blur(self, term: Term, reason: str) -> None:
        """Mark every symbol of the term: cutting it changes what a reduction computes."""
        for number in self.leaves(term):
            self.inexact.setdefault(number, reason)

    def unify(self, first: Term, second: Term) -> Term:
        """Equate two terms, refining both as needed; returns one of them.

        Raises:
            MisfitError: sizes differ, or the boundaries of the two never meet.
        """
        a, b = self.normal(first), self.normal(second)
        if a == b:
            return a
        if self.size(a) != self.size(b):
            raise MisfitError(f"{self.size(a)} channels meet {self.size(b)}")
        if isinstance(a, Symbol) or isinstance(b, Symbol):
            self._bind(*((a, b) if isinstance(a, Symbol) else (b, a)))
        elif isinstance(a, Product) and isinstance(b, Product):
            self._unify_products(list(a.factors), list(b.factors))
        elif isinstance(a, Sum) and isinstance(b, Sum):
            self._unify_sums(list(a.parts), list(b.parts))
        else:
            self._unify_mixed(*((a, b) if isinstance(a, Sum) else (b, a)))
        return a

    def split_product(self, term: Term, outer: int, inner: int) -> tuple[Term, Term]:
        """Describe a term as a product of an outer factor and an inner one of the given sizes.

        Raises:
            MisfitError: the term has a boundary in between.
        """
        term = self.normal(term)
        if outer == 1 or inner == 1:
            return (UNIT, term) if outer == 1 else (term, UNIT)
        match term:
            case Symbol(number):
                pair = (self._piece(number, outer), self._piece(number, inner))
                self._bind(term, Product(pair))
                return pair
            case Product(factors):
                return self._split_factors(list(factors), outer)
            case Sum(parts):
                return self._split_parts(parts, outer, inner)

    def split_sum(self, term: Term, at: int) -> tuple[Term, Term]:
        """Describe a term as a sum of a left part of size `at` and the rest.

        Raises:
            MisfitError: `at` lies inside an indivisible piece.
        """
        term = self.normal(term)
        match term:
            case Symbol(number):
                pair = (self._piece(number, at), self._piece(number, self.sizes[number] - at))
                self._bind(term, Sum(pair))
                return pair
            case Sum(parts):
                return self._split_at(list(parts), at)
            case Product(factors):
                inner = prod(map(self.size, factors[1:]))
                if not factors or at % inner:
                    raise MisfitError(f"a cut at {at} inside blocks of {inner}")
                left, right = self.split_sum(factors[0], at // inner)
                return _product([left, *factors[1:]]), _product([right, *factors[1:]])

    def kept(self, term: Term, keep: Keep) -> NDArray[np.int64]:
        """Return the positions of a term that stay when each symbol keeps its channels."""
        match self._head(term):
            case Symbol(number):
                return np.asarray(keep.get(number, range(self.sizes[number])), dtype=np.int64)
            case Sum(parts):
                starts = np.cumsum([0, *map(self.size, parts)])
                return np.concatenate([start + self.kept(part, keep) for start, part in zip(starts, parts, strict=False)])
            case Product(factors):
                positions = np.zeros(1, dtype=np.int64)
                for factor in factors:
                    positions = (positions[:, None] * self.size(factor) + self.kept(factor, keep)[None, :]).ravel()
                return positions

    def channel_of(self, term: Term, number: int) -> NDArray[np.int64]:
        """Return, for every position of a term, which channel of the symbol it belongs to; -1 where to none."""
        match self._head(term):
            case Symbol(own):
                return np.arange(self.sizes[own]) if own == number else np.full(self.sizes[own], -1)
            case Sum(parts):
                return np.concatenate([self.channel_of(part, number) for part in parts])
            case Product(factors):
                channels = np.full(1, -1)
                for factor in factors:
                    inner = self.channel_of(factor, number)
                    channels = np.maximum(np.repeat(channels, len(inner)), np.tile(inner, len(channels)))
                return channels

    def is_squared(self, term: Term, number: int) -> bool:
        """Say whether a product in a term has a symbol in two of its factors, so that a position belongs to two channels."""
        match self._head(term):
            case Sum(parts):
                return any(self.is_squared(part, number) for part in parts)
            case Product(factors):
                having = [factor for factor in factors if number in self.leaves(factor)]
                return len(having) > 1 or any(self.is_squared(factor, number) for factor in having)
        return False

    def _head(self, term: Term) -> Term:
        while isinstance(term, Symbol) and term.number in self.bound:
            term = self.bound[term.number]
        return term

    def _piece(self, number: int, size: int) -> Term:
        return self.new(size, self.frozen.get(number))

    def _bind(self, symbol: Symbol, term: Term) -> None:
        number = symbol.number
        if number in set(self.leaves(term)):
            raise MisfitError("a dimension would contain itself")
        if number in self.frozen:
            self.freeze(term, self.frozen[number])
        if number in self.inexact:
            self.blur(term, self.inexact[number])
        if number in self.heads:
            self.heads.update(self.leaves(term))
        self.bound[number] = term

    def _unify_products(self, ours: list[Term], theirs: list[Term]) -> None:
        while ours and theirs:
            a, b = ours.pop(0), theirs.pop(0)
            small, large = min(self.size(a), self.size(b)), max(self.size(a), self.size(b))
            if large % small:
                raise MisfitError(f"factors of {small} and {large}")
            if self.size(a) > small:
                a, rest = self.split_product(a, small, large // small)
                ours.insert(0, rest)
            elif self.size(b) > small:
                b, rest = self.split_product(b, small, large // small)
                theirs.insert(0, rest)
            self.unify(a, b)

    def _unify_sums(self, ours: list[Term], theirs: list[Term]) -> None:
        while ours and theirs:
            a, b = ours.pop(0), theirs.pop(0)
            if self.size(a) > self.size(b):
                a, rest = self.split_sum(a, self.size(b))
                ours.insert(0, rest)
            elif self.size(b) > self.size(a):
                b, rest = self.split_sum(b, self.size(a))
                theirs.insert(0, rest)
            self.unify(a, b)

    def _unify_mixed(self, total: Sum, product: Product) -> None:
        """A concatenation met by a reshape: each part has the inner factors, and the outer factor is the concatenation of what is left."""
        outer, *inner = product.factors
        size = prod(map(self.size, inner))
        if any(self.size(part) % size for part in total.parts):
            first, second = self.split_product(total, self.size(outer), size)
            self.unify(first, outer)
            self.unify(second, _product(inner))
            return
        pieces = [self.new(self.size(part) // size) for part in total.parts]
        self.unify(outer, _sum(pieces))
        for part, piece in zip(total.parts, pieces, strict=True):
            self.unify(part, _product([piece, *inner]))

    def _split_factors(self, factors: list[Term], outer: int) -> tuple[Term, Term]:
        taken: list[Term] = []
        while outer > 1:
            factor = factors.pop(0)
            size = self.size(factor)
            if size > outer:
                if size % outer:
                    raise MisfitError(f"a boundary at {outer} inside a factor of {size}")
                factor, rest = self.split_product(factor, outer, size // outer)
                factors.insert(0, rest)
            elif outer % size:
                raise MisfitError(f"a factor of {size} across a boundary at {outer}")
            taken.append(factor)
            outer //= self.size(factor)
        return _product(taken), _product(factors)

    def _split_parts(self, parts: tuple[Term, ...], outer: int, inner: int) -> tuple[Term, Term]:
        """Split a concatenation: every part by the inner factor where it divides them, else into equal slices, which become one."""
        if all(self.size(part) % inner == 0 for part in parts):
            pairs = [self.split_product(part, self.size(part) // inner, inner) for part in parts]
            for _, second in pairs[1:]:
                self.unify(pairs[0][1], second)
            return _sum([first for first, _ in pairs]), pairs[0][1]
        slices, rest = list[Term](), _sum(list(parts))
        for _ in range(outer - 1):
            left, rest = self.split_sum(rest, inner)
            slices.append(left)
        for each in slices:
            self.unify(rest, each)
        return _sum([UNIT] * outer), rest

    def _split_at(self, parts: list[Term], at: int) -> tuple[Term, Term]:
        left: list[Term] = []
        while at > 0:
            part = parts.pop(0)
            if self.size(part) > at:
                part, rest = self.split_sum(part, at)
                parts.insert(0, rest)
            left.append(part)
            at -= self.size(part)
        return _sum(left), _sum(parts)


def _sum(parts: Sequence[Term]) -> Term:
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, Sum) else (part,))]
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def _product(factors: Sequence[Term]) -> Term:
    flat = [inner for factor in factors for inner in (factor.factors if isinstance(factor, Product) else (factor,))]
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def product(factors: Sequence[Term]) -> Term:
    """Return the term of several dimensions merged into one, row by row."""
    return _product(factors)


def concatenation(parts: Sequence[Term]) -> Term:
    """Return the term of several tensors' dimensions one after the other."""
    return _sum(parts)
