"""What Laconic says when what it was given cannot work: one paragraph that names what came, where, and what to do."""

import difflib
from collections.abc import Iterable


class LaconicError(Exception):
    """A mistake in what the user gave. The command line prints it as one paragraph and exits with code 2."""


class UnreachableError(LaconicError):
    """A target that the network does not allow; says how far one can get."""


class NotApplicableError(LaconicError):
    """A step that has nothing to do on this network, though its settings are right: already quantized, no such layers."""


def unknown(kind: str, name: str, known: Iterable[str]) -> LaconicError:
    """Say that `name` is no known `kind`, with the nearest names first.

    >>> print(unknown("model", "resnet2", ["mobilenet_v2", "resnet20"]))
    unknown model 'resnet2'; did you mean 'resnet20'? There are: mobilenet_v2, resnet20
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f" did you mean {' or '.join(map(repr, near))}?" if near else ""
    return LaconicError(f"unknown {kind} {name!r};{hint} There are: {', '.join(known)}")
