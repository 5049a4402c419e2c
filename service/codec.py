"""The threads that decode and draw, with the same admission as the device: no queue without an end.

Decoding a large photo costs more than most networks. Without a limit here an overload would fill this queue with
work whose deadline passes before the batcher ever sees it, and nobody would be served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.batching import OverloadedError
from service.verdicts import DeadlinePassedError

T = TypeVar("T")

# Weight of the newest picture in the running estimate of seconds per picture.
_NEWEST = 0.2


class Codec:
    """Used from one event loop; `threads` decode and as many draw, so that no finished result waits for a decode."""

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._threads = threads
        self._clock = clock
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._drawing = ThreadPoolExecutor(threads, thread_name_prefix="draw")
        self._pending = 0
        self._seconds = 0.0

    def admit(self, deadline: float) -> None:
        """Raises OverloadedError where a decode that began now would not be done by `deadline`.

        While a thread is free it is tried: a spoilt estimate would refuse for ever.
        """
        wait = self._pending * self._seconds / self._threads
        late = self._clock() + wait + self._seconds - deadline
        if self._pending >= self._threads and late > 0:
            raise OverloadedError(f"{self._pending} pictures are being decoded already", max(late, 0.001))

    async def decode(self, deadline: float, decoder: Callable[[], T]) -> T:
        """Run `decoder` in the pool; raises OverloadedError at once, DeadlinePassedError where it waited too long."""
        self.admit(deadline)

        def run() -> tuple[T, float]:
            started = self._clock()
            if started > deadline:
                raise DeadlinePassedError("the deadline passed while the picture was waiting to be decoded")
            return decoder(), self._clock() - started

        self._pending += 1
        try:
            decoded, seconds = await asyncio.get_running_loop().run_in_executor(self._decoding, run)
        finally:
            self._pending -= 1
        self._seconds += (_NEWEST if self._seconds else 1.0) * (seconds - self._seconds)
        return decoded

    async def draw(self, work: Callable[[], T]) -> T:
        """Run `work` in the drawing pool."""
        return await asyncio.get_running_loop().run_in_executor(self._drawing, work)

    def close(self) -> None:
        self._decoding.shutdown()
        self._drawing.shutdown()
