"""Runs side by side on a CPU.

An image that is alone gets all threads: it is back soonest. Images side by side get a share each: the threads of one
run wait for each other after every layer, so two narrow runs get more done than two wide ones, or a batch of two
(service/RESULTS.md). The price is the weights in memory twice. How many runs there are, service.backends.plans says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Session = TypeVar("Session")


class Lanes(Generic[Session]):
    """Sessions of one model: `open_wide(threads)` gives one, `open_narrow(lanes, threads)` one for each lane."""

    def __init__(
        self,
        count: int,
        threads: int,
        open_wide: Callable[[int], Session],
        open_narrow: Callable[[int, int], list[Session]],
    ) -> None:
        self.count = count
        # One after the other: the first image that OpenVINO's Python takes sets up what all share, and two threads that
        # bring it theirs together wait for each other for ever, with the interpreter's lock in hand.
        self._wide = open_wide(threads)
        self._narrow = open_narrow(count, -(-threads // count)) if count > 1 else []
        self._running = 0
        self._lock = threading.Lock()

    def rest(self, give_back: Callable[[Session], object]) -> None:
        """Let `give_back` have every session, where none is taken; meanwhile nobody gets one."""
        with self._lock:
            if not self._running:
                for session in (self._wide, *self._narrow):
                    give_back(session)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session of nobody else, as long as no more than `count` are taken."""
        with self._lock:
            alone = self._running == 0
            session = self._wide if alone else self._narrow.pop()
            self._running += 1
        try:
            yield session
        finally:
            with self._lock:
                self._running -= 1
                if not alone:
                    self._narrow.append(session)
