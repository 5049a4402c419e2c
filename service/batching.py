"""The batcher: one thread owns the device; images wait in one bounded queue and leave it together.

No timer waits for a batch to fill: whenever the device is free the thread takes what is queued for the first image's
model. Load makes batches, an idle line pays nothing. What cannot make its deadline is refused at the door; what
expired or was cancelled while waiting never reaches the model.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.backends import Backend, BackendError
from service.images import Pixels
from service.verdicts import DeadlinePassedError

# Waiting times are taken to be this much longer than estimated: results that are a little late are worth nothing, and
# all of the work that made them is lost.
_CAUTION = 1.3
# Weight of the newest batch in the running estimate of seconds per image.
_NEWEST = 0.2


class OverloadedError(Exception):
    """The queue is full or too long for the deadline; `retry_after_s` is when it should be short enough."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClosedError(Exception):
    """The batcher is shutting down and takes no more work."""


@dataclass(eq=False)
class Model:
    """A backend with the batcher's running estimate of what one image costs it, in seconds."""

    backend: Backend
    seconds_per_image: float = 0.0
    failures: int = 0  # in a row


@dataclass(frozen=True)
class Result:
    """Map float32 `(H, W)` and score of one image, how long it waited and ran, and how many shared its batch."""

    anomaly_map: NDArray[np.float32]
    score: float
    queue_s: float
    model_s: float
    batch_size: int


@dataclass(eq=False)
class _Job:
    model: Model
    image: Pixels
    deadline: float
    submitted: float
    future: Future[Result] = field(default_factory=Future)


def yield_to_requests() -> None:
    """Let the calling thread, and those it starts, give way to the rest of the service.

    Inference on the CPU keeps all cores busy; without this a refusal that takes microseconds waits milliseconds.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)


class Batcher:
    """Takes images from any thread; deadlines are on `clock`."""

    def __init__(
        self,
        *,
        max_batch: int,
        queue_size: int,
        idle_tick_s: float = 0.0,
        on_batch: Callable[[int], None] = lambda size: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_batch = max_batch
        self._queue_size = queue_size
        self._idle_tick_s = idle_tick_s or None
        self._last: _Job | None = None
        self._on_batch = on_batch
        self._clock = clock
        self._jobs: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._running_since = 0.0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Images waiting."""
        return len(self._jobs)

    def submit(self, model: Model, image: Pixels, deadline: float) -> Future[Result]:
        """Queue one image; cancelling the future takes it out again as long as it waits.

        Without a deadline (infinity: the golden gate) the image is always taken.

        Raises OverloadedError at once where the deadline cannot be met, ClosedError while shutting down. The future
        raises DeadlinePassedError or BackendError. An idle device is always tried: an estimate spoilt by one stall
        would refuse every image, and no run would ever correct it.
        """
        with self._changed:
            now = self._admit(model, deadline)
            job = _Job(model, image, deadline, now)
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def admit(self, model: Model, deadline: float) -> None:
        """Raises what `submit` would raise now: an image that cannot make its deadline need not be read or decoded."""
        with self._changed:
            self._admit(model, deadline)

    def _admit(self, model: Model, deadline: float) -> float:
        """The time now, where the image may come in; caller holds the lock."""
        if self._closing:
            raise ClosedError
        now = self._clock()
        wait = self._expected_wait(now)
        if len(self._jobs) >= self._queue_size and deadline != math.inf:
            raise OverloadedError(f"{len(self._jobs)} images are waiting already", wait)
        late = now + wait + model.seconds_per_image - deadline
        busy = bool(self._jobs or self._running)
        if now > deadline or (busy and late > 0):
            raise OverloadedError(
                f"the deadline is in {1000 * (deadline - now):.0f} ms, the result would take "
                f"{1000 * (wait + model.seconds_per_image):.0f} ms",
                max(late, 0.001),
            )
        return now

    def close(self) -> None:
        """Finish what is queued, then stop the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def expected_wait(self) -> float:
        """Seconds until the device could begin with an image that came now; raises ClosedError while shutting down."""
        with self._changed:
            if self._closing:
                raise ClosedError
            return self._expected_wait(self._clock())

    def _expected_wait(self, now: float) -> float:
        waiting = sum(job.model.seconds_per_image for job in self._jobs)
        running = sum(job.model.seconds_per_image for job in self._running)
        return _CAUTION * (waiting + max(0.0, running - (now - self._running_since)))

    def _work(self) -> None:
        yield_to_requests()
        while True:
            with self._changed:
                self._running = []
                idle = False
                while not self._jobs and not self._closing and not idle:
                    idle = not self._changed.wait(self._idle_tick_s)
                if not self._jobs and not idle:
                    return
                self._running = self._take()
                self._running_since = self._clock()
            if self._running:
                self._last = self._running[0]
                self._run(self._running)
            elif idle and self._last is not None:
                self._tick(self._last)

    def _tick(self, last: _Job) -> None:
        """Run the last image again: clocks and caches that cooled down would make the next part late."""
        with suppress(Exception):
            last.model.backend.run(last.image[None])

    def _take(self) -> list[_Job]:
        """The oldest job and others for its model, without the cancelled and the expired; caller holds the lock."""
        batch: list[_Job] = []
        others: list[_Job] = []
        now = self._clock()
        while self._jobs:
            job = self._jobs.popleft()
            if batch and (job.model is not batch[0].model):
                others.append(job)
                continue
            if not job.future.set_running_or_notify_cancel():
                continue
            # The last in line is tried whatever the estimate says, as on an idle device.
            hopeless = now + job.model.seconds_per_image > job.deadline and bool(batch or self._jobs)
            if now > job.deadline or hopeless:
                job.future.set_exception(DeadlinePassedError("the deadline passed while the image was waiting"))
                continue
            batch.append(job)
            if len(batch) == self._most(batch, now):
                break
        self._jobs.extendleft(reversed(others))
        return batch

    def _most(self, batch: list[_Job], now: float) -> int:
        """Images that may share this batch: all results come when the whole batch is done, none may be late for it."""
        model = batch[0].model
        limit = min(self._max_batch, model.backend.max_batch_size)
        if model.seconds_per_image == 0.0:
            return limit
        time_left = min(job.deadline for job in batch) - now
        fitting = min(float(limit), time_left / _CAUTION / model.seconds_per_image)
        return max(len(batch), int(fitting))

    def _run(self, batch: list[_Job]) -> None:
        model = batch[0].model
        started = self._clock()
        try:
            maps, scores = model.backend.run(np.stack([job.image for job in batch]))
            if len(maps) != len(batch) or len(scores) != len(batch):
                raise BackendError(f"{len(maps)} maps and {len(scores)} scores for {len(batch)} images")
            seconds = self._clock() - started
            results = [
                Result(anomaly_map, float(score), started - job.submitted, seconds, len(batch))
                for job, anomaly_map, score in zip(batch, maps, scores, strict=True)
            ]
        # Whatever a backend raises must reach the waiting requests: a dead thread would leave them without an answer.
        except Exception as error:
            model.failures += 1
            for job in batch:
                job.future.set_exception(BackendError(f"{model.backend.name}: {error}"))
            return
        model.failures = 0
        per_image = seconds / len(batch)
        model.seconds_per_image += (_NEWEST if model.seconds_per_image else 1.0) * (per_image - model.seconds_per_image)
        self._on_batch(len(batch))
        for job, result in zip(batch, results, strict=True):
            job.future.set_result(result)
