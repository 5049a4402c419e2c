"""What becomes of memory that is not needed any more: left alone, a hundred changes of version took 300 MB.

Objects that know each other in a circle, as an error and its traceback do, keep the model that they know until Python
looks for circles, which is seldom. And the C library keeps a heap for each of many threads: models that were opened by
one after the other left holes of their size in all of them. Nothing of that where the C library is another one.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_M_ARENA_MAX = -8
_ARENAS = 2


def use_few_heaps() -> None:
    """To be called before there are threads."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def keep_what_is_there() -> None:
    """Look for no circles in what was imported: a look takes a hundredth of the time."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Let the system have what nobody needs; takes milliseconds."""
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
