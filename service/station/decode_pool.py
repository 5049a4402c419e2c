"""The threads that decode and draw, with the same admission as the device: no queue without an end.

Decoding a large photo costs more than most networks. Without a limit here an overload would fill this queue with
work whose deadline passes before the batcher ever sees it, and nobody would be served.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

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
        self._clock = clock
        self._queue: SimpleQueue[_Decode[Any, Any, Any] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"decode_{number}", daemon=True) for number in range(threads)
        ]
        self._drawing = ThreadPoolExecutor(threads, thread_name_prefix="draw")
        # Of whole inspections: these threads, the device's and the event loop share the cores.
        self.pace = Pace(clock)
        self._pending: set[_Decode[Any, Any, Any]] = set()
        self._seconds = 0.0
        for thread in self._threads:
            thread.start()

    def admit(self, deadline: float) -> None:
        """Raises OverloadedError where a decode that began now would not be done by `deadline`.

        While a thread is free it is tried: a spoilt estimate would refuse for ever.
        """
        pending = len(self._pending)
        wait = pending * self._seconds / len(self._threads)
        late = self._clock() + wait + self._seconds - deadline
        if pending >= len(self._threads) and late > 0:
            raise OverloadedError(f"{pending} images are being decoded already", max(late, 0.001))

    async def decode(
        self, deadline: float, decoder: Callable[[], T], then: Callable[[T], Future[R]], meanwhile: Callable[[T], M]
    ) -> tuple[M, R]:
        """Run `decoder` in a thread and there, on the way to the device, `then`; `meanwhile` is done there too, while
        the device works. The event loop is woken once, with what came of it and what `then` promised. Raises
        OverloadedError at once, DeadlinePassedError where it waited too long.

        Where the caller is cancelled so is the promise; a decode that has begun goes on, and is pending until its
        thread is free.
        """
        self.admit(deadline)
        one = _Decode(deadline, decoder, then, meanwhile)
        self._pending.add(one)
        self._queue.put(one)
        try:
            return await one.done
        finally:
            # A decode that nobody waits for any more keeps its thread busy.
            if one.give_up() or not one.done.cancelled():
                self._pending.discard(one)

    async def draw(self, work: Callable[[], T]) -> T:
        """Run `work` in the drawing pool."""
        return await asyncio.get_running_loop().run_in_executor(self._drawing, work)

    def close(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._drawing.shutdown()

    def _work(self) -> None:
        while (one := self._queue.get()) is not None:
            if (seconds := one.run(self._clock)) is not None:
                # Read once: other threads write it too.
                before = self._seconds
                self._seconds = before + _NEWEST * (seconds - before) if before else seconds
            self._pending.discard(one)
            # While it waits for the next one it keeps no image.
            del one


class _Decode(Generic[T, M, R]):
    """One image on its way. Nothing here has a lock: each step is one of the interpreter's own."""

    def __init__(
        self, deadline: float, decoder: Callable[[], T], then: Callable[[T], Future[R]], meanwhile: Callable[[T], M]
    ) -> None:
        self._deadline = deadline
        self._then = then
        self._meanwhile = meanwhile
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[tuple[M, R]] = self._loop.create_future()
        # Who takes the decoder decides: the thread that begins, or the caller who does not wait any more.
        self._waiting = [decoder]
        # Emptied at the end: images must not live until the garbage collector finds a circle.
        self._promised: list[Future[R]] = []
        self._given_up = False

    def run(self, clock: Callable[[], float]) -> float | None:
        """Decode, in a thread; returns the seconds that it took, None where nothing was decoded."""
        try:
            decoder = self._waiting.pop()
        except IndexError:
            return None
        seconds: float | None = None
        try:
            started = clock()
            if started > self._deadline:
                raise DeadlinePassedError("the deadline passed while the image was waiting to be decoded")
            decoded = decoder()
            seconds = clock() - started
            promise = self._then(decoded)
            self._promised.append(promise)
            try:
                found = self._meanwhile(decoded)
            except BaseException:
                promise.cancel()
                raise
            seconds = clock() - started
            if self._given_up:
                promise.cancel()
            promise.add_done_callback(lambda promise: self._tell(found, promise))
        except BaseException as error:
            self._promised.clear()
            self._call(self._fail, error)
        return seconds

    def give_up(self) -> bool:
        """Take back what nobody waits for; True where it had not begun. From the event loop, also at the end."""
        self._given_up = True
        for promise in self._promised[:]:
            promise.cancel()
        try:
            self._waiting.pop()
        except IndexError:
            return False
        return True

    def _tell(self, found: M, promise: Future[R]) -> None:
        self._promised.clear()
        if promise.cancelled():
            self._call(self.done.cancel)
        elif (error := promise.exception()) is not None:
            self._call(self._fail, error)
        else:
            self._call(self._finish, found, promise.result())

    def _finish(self, found: M, result: R) -> None:
        if not self.done.done():
            self.done.set_result((found, result))

    def _fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def _call(self, step: Callable[..., object], *arguments: object) -> None:
        # Nobody waits on an event loop that is closed.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(step, *arguments)
