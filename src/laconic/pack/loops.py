"""The reader's inner loops, compiled where numba is installed: the same source, the same bytes, a hundred times as fast."""

from typing import Any

from laconic.numeric.compiled import compiled
from laconic.pack import reader

LOOPS = ("code", "decide", "pair", "large", "look", "contexts", "entry", "walk", "spell")


def loops() -> Any:
    """Return `walk` and `spell`, compiled or as they are."""
    return compiled(reader, LOOPS)
