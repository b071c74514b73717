"""From a student and a method, named in a word each, to the recipe that teaches it."""

from pathlib import Path
from typing import Any

from laconic.errors import LaconicError, unknown

_INSIDE = ("hint", "attention", "similarity", "review")
_BETWEEN = ("distances", "contrast")
METHODS = ("divergence", "decoupled", "correlation", "standardized", "channels", *_INSIDE, *_BETWEEN)
"""What a student learns: of the teacher's answers, of values inside it, of how examples stand to each other."""


def plan(student: str, weights: Path | None, method: str, settings: dict[str, Any]) -> list[dict[str, dict[str, Any]]]:
    """Return the recipe, as plain data, that makes a student of the network that came and teaches it.

    Args:
        student: a network by name; or `width:SHARE`, the teacher with that share of the filters of every layer; or `blocks:SHARE`, the
            teacher without whole blocks, with at most that share of its multiply-accumulates.
        weights: what a named student begins with; None: random ones.
        method: how it is compared with the teacher, one of METHODS.
        settings: of the step that teaches.

    Raises:
        LaconicError: a method or share is none, or there are weights without a name.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    kind, _, share = student.partition(":")
    if kind not in ("width", "blocks"):
        made: dict[str, dict[str, Any]] = {"distill.Student": {"model": student, **({"weights": str(weights)} if weights else {})}}
        return [made, _lesson(method, settings)]
    if weights is not None:
        raise LaconicError(f"--student {student} is cut from the teacher and keeps its weights; leave --student-weights out")
    kept = _share(student, share)
    cut = {"prune.Filters": {"ratio": round(1 - kept, 6)}} if kind == "width" else {"prune.Layers": {"macs": kept}}
    return [cut, _lesson(method, settings)]


def _share(student: str, written: str) -> float:
    try:
        share = float(written)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise LaconicError(f"--student {student}: what is kept is a share between 0 and 1, as in width:0.5 or blocks:0.5")
    return share


def _lesson(method: str, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if method in _INSIDE:
        return {"distill.Feature": {"loss": method, **settings}}
    if method in _BETWEEN:
        return {"distill.Relation": {"loss": method, **settings}}
    return {"distill.Response": {**({"standardize": True} if method == "standardized" else {"loss": method}), **settings}}
