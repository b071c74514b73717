"""The reader's inner loops, compiled where numba is installed: the same source, the same bytes, a hundred times as fast."""

import zlib
from typing import Any

from laconic.numeric.compiled import compiled
from laconic.pack import reader

LOOPS = ("code", "decide", "pair", "large", "look", "contexts", "entry", "after", "walk", "spell")


def loops() -> dict[str, Any]:
    """Return `walk` and `spell`, compiled or as they are, and `checksum`."""
    return {**vars(compiled(reader, LOOPS)), "checksum": zlib.crc32}
