"""The threads that decode and draw, with the same admission as the device: no queue without an end.

Decoding a large photo costs more than most networks. Without a limit here an overload would fill this queue with
work whose deadline passes before the batcher ever sees it, and nobody would be served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from service.station.batching import OverloadedError
from service.station.pace import Pace
from service.station.verdicts import DeadlinePassedError

T = TypeVar("T")
R = TypeVar("R")
M = TypeVar("M")

# Weight of the newest image in the running estimate of seconds per image.
_NEWEST = 0.2


class Codec:
    """Used from one event loop; `threads` decode and as many draw, so that no finished result waits for a decode."""

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._threads = threads
        self._clock = clock
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._drawing = ThreadPoolExecutor(threads, thread_name_prefix="draw")
        # Of whole inspections: these threads, the device's and the event loop share the cores.
        self.pace = Pace(clock)
        self._pending: set[Future[Any]] = set()
        self._seconds = 0.0

    def admit(self, deadline: float) -> None:
        """Raises OverloadedError where a decode that began now would not be done by `deadline`.

        While a thread is free it is tried: a spoilt estimate would refuse for ever.
        """
        pending = len(self._pending)
        wait = pending * self._seconds / self._threads
        late = self._clock() + wait + self._seconds - deadline
        if pending >= self._threads and late > 0:
            raise OverloadedError(f"{pending} images are being decoded already", max(late, 0.001))

    async def decode(
        self, deadline: float, decoder: Callable[[], T], then: Callable[[T], Future[R]], meanwhile: Callable[[T], M]
    ) -> tuple[M, R]:
        """Run `decoder` in the pool and there, on the way to the device, `then`; `meanwhile` is done there too, while
        the device works. The event loop is woken once, with what came of it and what `then` promised. Raises
        OverloadedError at once, DeadlinePassedError where it waited too long.

        Where the caller is cancelled so is the promise; a decode that has begun goes on, and is pending until its
        thread is free.
        """
        self.admit(deadline)
        waiting = [decoder]
        done: Future[tuple[M, R]] = Future()

        def run() -> None:
            if done.cancelled():
                return
            try:
                started = self._clock()
                if started > deadline:
                    raise DeadlinePassedError("the deadline passed while the image was waiting to be decoded")
                decoded = waiting.pop()()
                promise = then(decoded)
                try:
                    found = meanwhile(decoded)
                except BaseException:
                    promise.cancel()
                    raise
                self._learn(self._clock() - started)
                _hand_over(found, promise, done)
            except BaseException as error:
                with suppress(InvalidStateError):
                    done.set_exception(error)

        future = self._decoding.submit(run)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        # What is cancelled stays in the pool's queue until its turn comes: not with its image.
        future.add_done_callback(lambda _: waiting.clear())
        # Cancelled only where it has not begun.
        done.add_done_callback(lambda _: future.cancel())
        return await asyncio.wrap_future(done)

    def _learn(self, seconds: float) -> None:
        # Read once: other threads write it too.
        before = self._seconds
        self._seconds = before + _NEWEST * (seconds - before) if before else seconds

    async def draw(self, work: Callable[[], T]) -> T:
        """Run `work` in the drawing pool."""
        return await asyncio.get_running_loop().run_in_executor(self._drawing, work)

    def close(self) -> None:
        self._decoding.shutdown()
        self._drawing.shutdown()


def _hand_over(found: M, promise: Future[R], done: Future[tuple[M, R]]) -> None:
    """Let `done` end as `promise` does, and `promise` be cancelled with it."""
    # Emptied at the end: images must not live until the garbage collector finds a circle.
    running = [promise]

    def finish(promise: Future[R]) -> None:
        running.clear()
        with suppress(InvalidStateError):
            if promise.cancelled():
                done.cancel()
            elif (error := promise.exception()) is not None:
                done.set_exception(error)
            else:
                done.set_result((found, promise.result()))

    def cancel(_: Future[tuple[M, R]]) -> None:
        for one in running[:]:
            one.cancel()

    done.add_done_callback(cancel)
    promise.add_done_callback(finish)
