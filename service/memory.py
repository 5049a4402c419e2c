"""What the C library does with memory that was given back: by default it keeps a heap for each of many threads.

Every model is opened by another thread, so that a hundred changes of recipe left holes of a model's size in as many
heaps. Nothing to do where the C library is another one.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8
_ARENAS = 2


def use_few_heaps() -> None:
    """To be called before there are threads."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Let the system have what is free in the heaps; takes milliseconds."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
