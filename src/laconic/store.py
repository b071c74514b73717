"""Content-addressed runs: a finished piece of work is kept under a name made from everything that went into it."""

import hashlib
import json
from typing import Any


def key(*parts: Any) -> str:
    """Return a short name derived from the content of `parts` (anything JSON can hold): equal content, equal name.

    >>> key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
