"""Which good parts are kept for a review: one in so many, at random, so that no rhythm of the line chooses them."""

from __future__ import annotations

import random


class Sample:
    """One in `every` on average; the first `every` parts give one at their end. 0 takes none."""

    def __init__(self, every: int, seed: int | None = None) -> None:
        self._every = every
        # Chance, not secrecy.
        self._random = random.Random(seed)  # noqa: S311
        self._left = every

    def take(self) -> bool:
        """Whether this part is one."""
        if self._every == 0:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        self._left = self._random.randint(1, 2 * self._every - 1)
        return True
