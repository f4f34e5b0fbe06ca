"""How often the interpreter looks for cycles of objects: hardly anything here lies in one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["rare_collections"]

# New objects that outnumber those let go of, before a look. At Python's 700, what stays is looked through
# again and again: an eighth of the daemon's time with short texts, a sixth of the producer's and of a start.
NEW_OBJECTS = 100_000


@contextmanager
def rare_collections(*, freeze: bool = False) -> Iterator[None]:
    """Looks seldom, afterwards as before; what is not used any more still goes at once, but for cycles.

    Args:
        freeze: look once now, and then never again at what is left.
    """
    before = gc.get_threshold()
    if freeze:
        gc.collect()
        gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if freeze:
            gc.unfreeze()
