"""The batcher: images wait in one bounded queue and leave it together for the device.

No timer waits for a batch to fill: whenever the device is free it takes what is queued for the first image's model.
Load makes batches, an idle line pays nothing. What cannot make its deadline is refused at the door; what expired or was
cancelled while waiting never reaches the model.

A backend says how many runs it takes side by side. A GPU takes one, from one thread. On a CPU the threads of one run
wait for each other after every layer, and for the event loop wherever that took a core from one of them: a second run
fills those gaps.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

import numpy as np

from service.backends.base import BackendError, Scored
from service.backends.plans import MOST_LANES
from service.images.decoding import Pixels
from service.station.priority import yield_to_requests
from service.station.runs import Batch, Job, Model, Result
from service.station.verdicts import DeadlinePassedError

# Waiting times are taken to be this much longer than estimated: results that are a little late are worth nothing, and
# all of the work that made them is lost.
_CAUTION = 1.3
# Weight of the newest batch in the running estimate of seconds per image.
_NEWEST = 0.2
# Seconds after which a run counts as hung: no model that is fit for a line takes that long.
HUNG_S = 15.0
# Seconds after which it does although nothing computes.
_STUCK_S = 120.0


class OverloadedError(Exception):
    """The queue is full or too long for the deadline; `retry_after_s` is when it should be short enough."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClosedError(Exception):
    """The batcher is shutting down and takes no more work."""


def _stacked(jobs: Sequence[Job]) -> Pixels:
    # One is not copied.
    return jobs[0].image[None] if len(jobs) == 1 else np.stack([job.image for job in jobs])


class Batcher:
    """Takes images from any thread; deadlines are on `clock`."""

    def __init__(
        self,
        *,
        max_batch: int,
        queue_size: int,
        idle_tick_s: float = 0.0,
        hung_s: float = HUNG_S,
        on_batch: Callable[[int], None] = lambda size: None,
        clock: Callable[[], float] = time.monotonic,
        computed: Callable[[], float] = time.process_time,
    ) -> None:
        self._computed = computed
        self._computed_at = computed()
        self._max_batch = max_batch
        self._queue_size = queue_size
        self._idle_tick_s = idle_tick_s or None
        self._hung_s = hung_s
        self._last: Job | None = None
        self._on_batch = on_batch
        self._clock = clock
        self._jobs: deque[Job] = deque()
        self._running: list[Batch] = []
        # Seconds that the device has worked, for runs side by side each its share.
        self._work_s = 0.0
        self._work_at = clock()
        self._closing = False
        self._lock = threading.RLock()
        # One for each thread: a wake-up costs a core its work, and one that finds nothing to do costs the same.
        self._wakes = [threading.Condition(self._lock) for _ in range(MOST_LANES)]
        self._asleep: set[int] = set()
        self._lost = 0
        self._threads = [self._start(lane) for lane in range(MOST_LANES)]

    @property
    def depth(self) -> int:
        """Images waiting."""
        return len(self._jobs)

    @property
    def lost(self) -> int:
        """Threads that were given up with their run, and go on computing."""
        return self._lost

    def give_up_hung(self) -> None:
        """Leave a run that hangs to its thread, and its model without images, where the backend can do without.

        To be called every second. What counts is the time in which this process computed: one that was stopped, or that
        others leave no core to, has no run that hangs.
        """
        with self._lock:
            now, computed = self._clock(), self._computed()
            step, self._computed_at = computed - self._computed_at, computed
            for batch in list(self._running):
                model = batch.jobs[0].model
                batch.computed_s += step
                wall_s = now - batch.started
                computes = min(wall_s, batch.computed_s) > self._hung_s
                if not ((computes or wall_s > _STUCK_S) and model.backend.replaceable):
                    continue
                self._count_work(now)
                self._running.remove(batch)
                batch.given_up = model.endless = True
                model.computes_for_ever = computes
                self._lost += 1
                left = [job for job in self._jobs if job.model is model]
                self._jobs = deque(job for job in self._jobs if job.model is not model)
                for job in [*batch.jobs, *left]:
                    with suppress(InvalidStateError):
                        job.future.set_exception(BackendError(self._endless(model)))
                self._threads[batch.lane] = self._start(batch.lane)
            self._wake()

    def hung_s(self) -> float | None:
        """How long the device has been at one batch, where that is far too long. Waits for no lock."""
        # A copy: another thread may take a batch away meanwhile.
        oldest = max((self._clock() - batch.started for batch in tuple(self._running)), default=0.0)
        return oldest if oldest > self._hung_s else None

    def largest_batch(self, model: Model) -> int:
        """Most images of `model` that share a run."""
        return min(self._max_batch, model.backend.max_batch_size)

    def submit(self, model: Model, image: Pixels, deadline: float) -> Future[Result]:
        """Queue one image; cancelling the future takes it out again as long as it waits.

        Without a deadline (infinity: the golden gate) the image is always taken.

        Raises OverloadedError at once where the deadline cannot be met, BackendError where the device hangs,
        ClosedError while shutting down. The future raises DeadlinePassedError or BackendError. An idle device is
        always tried: an estimate spoilt by one stall would refuse every image, and no run would ever correct it.
        """
        with self._lock:
            self._admit(model, deadline)
            job = Job(model, image, deadline)
            self._jobs.append(job)
            self._wake()
        return job.future

    def submit_batch(self, model: Model, images: Sequence[Pixels]) -> list[Future[Result]]:
        """Queue up to `largest_batch` images at once, without a deadline: one run has them all, where nobody else
        sends to this model. Raises as `submit`.
        """
        with self._lock:
            self._admit(model, math.inf)
            jobs = [Job(model, image, math.inf) for image in images]
            self._jobs.extend(jobs)
            self._wake()
        return [job.future for job in jobs]

    def retire(self, model: Model) -> bool:
        """Keep `model` warm no more. False where a run of it is under way: then its memory must not be taken away."""
        with self._lock:
            model.retired = True
            if self._last is not None and self._last.model is model:
                self._last = None
            return all(batch.jobs[0].model is not model for batch in self._running)

    def admit(self, model: Model, deadline: float) -> float:
        """Seconds until the device could begin with an image that came now. Raises what `submit` would raise: an image
        that cannot make its deadline need not be read or decoded.
        """
        with self._lock:
            return self._admit(model, deadline)

    def _admit(self, model: Model, deadline: float) -> float:
        """The seconds to wait, where the image may come in; caller holds the lock."""
        if self._closing:
            raise ClosedError("the service is shutting down")
        now = self._clock()
        if model.endless:
            raise BackendError(self._endless(model))
        if hung := self.hung_s():
            raise BackendError(f"{model.backend.name} has been at one batch for {hung:.0f} s: restart the service")
        wait = self._expected_wait(model, now)
        if len(self._jobs) >= self._queue_size and deadline != math.inf:
            raise OverloadedError(f"{len(self._jobs)} images are waiting already", wait)
        takes = wait + self._own_time(model, len(self._running) + len(self._jobs) + 1)
        late = now + takes - deadline
        busy = bool(self._jobs or self._running)
        if now > deadline or (busy and late > 0):
            left = 1000 * (deadline - now)
            when = f"is in {left:.0f} ms" if left > 0 else f"passed {-left:.0f} ms ago"
            raise OverloadedError(f"the deadline {when}, the result would take {1000 * takes:.0f} ms", max(late, 0.001))
        return wait

    def _endless(self, model: Model) -> str:
        return f"{model.backend.name} was at one image for more than {self._hung_s:.0f} s: the recipe is out of service"

    def close(self, hung_s: float = 5.0) -> None:
        """Finish what is queued, then stop; a device that hangs for `hung_s` is given up and its images with it."""
        with self._lock:
            self._closing = True
            self._wake_all()
        until = time.monotonic() + hung_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._lock:
            for job in [*self._jobs, *(job for batch in self._running for job in batch.jobs)]:
                if not job.future.done():
                    job.future.set_exception(BackendError(f"{job.model.backend.name} hangs"))
            self._jobs.clear()

    def _expected_wait(self, model: Model, now: float) -> float:
        self._count_work(now)
        # Beside what runs; how that slows it down is in its own time.
        if not self._jobs and len(self._running) < model.backend.lanes:
            return 0.0
        waiting = sum(job.model.seconds_per_image for job in self._jobs)
        for batch in self._running:
            estimate = sum(job.model.seconds_per_image for job in batch.jobs)
            waiting += max(0.0, estimate - (self._work_s - batch.work_before))
        return _CAUTION * waiting

    @staticmethod
    def _own_time(model: Model, known: int) -> float:
        """Seconds that a run of one image takes beside its neighbours, of `known` images with itself: as many as run
        side by side. Where eight might and two do, it takes twice what it takes alone.
        """
        return model.seconds_per_image * min(known, MOST_LANES, model.backend.lanes)

    def _count_work(self, now: float) -> None:
        if self._running:
            self._work_s += (now - self._work_at) / len(self._running)
        self._work_at = now

    def _start(self, lane: int) -> threading.Thread:
        thread = threading.Thread(target=self._work, args=(lane,), name=f"device {lane}", daemon=True)
        thread.start()
        return thread

    def _work(self, lane: int) -> None:
        yield_to_requests()
        given_up = False
        while not given_up:
            with self._lock:
                batch, tick = None, False
                while batch is None:
                    if self._jobs and lane < self._lanes_free():
                        batch, tick = self._take(lane), False
                        self._wake()
                    elif self._closing and not self._jobs:
                        # Those that were not let near the last jobs sleep again.
                        self._wake_all()
                        return
                    # One thread is enough to keep the device warm.
                    elif not self._sleep(lane, self._idle_tick_s if lane == 0 else None):
                        batch, tick = self._take_last(lane), True
            (self._tick if tick else self._run)(batch)
            with self._lock:
                if given_up := batch.given_up:
                    self._lost -= 1

    def _sleep(self, lane: int, seconds: float | None) -> bool:
        """Wait for work that this lane may take; False where none came in time. Caller holds the lock."""
        self._wake()
        self._asleep.add(lane)
        try:
            return self._wakes[lane].wait(seconds)
        finally:
            self._asleep.discard(lane)

    def _wake(self) -> None:
        """Wake one thread for the first job, where one sleeps that may take it; caller holds the lock."""
        if not self._jobs or not self._asleep:
            return
        lane = min(self._asleep)
        if lane < self._lanes_free():
            self._asleep.discard(lane)
            self._wakes[lane].notify()

    def _wake_all(self) -> None:
        for wake in self._wakes:
            wake.notify()

    def _lanes_free(self) -> int:
        """Lanes, counted from 0, that may take the first job: all of its backend's, or none while so many are busy."""
        lanes = self._jobs[0].model.backend.lanes
        return lanes if len(self._running) < lanes else 0

    def _tick(self, batch: Batch) -> None:
        """Run the last image again: clocks and caches that cooled down would make the next part late."""
        (last,) = batch.jobs
        with suppress(Exception):
            last.model.backend.run(last.image[None])
        self._finish(batch)

    def _take(self, lane: int) -> Batch | None:
        """The oldest job and others for its model, without the cancelled and the expired; caller holds the lock."""
        jobs: list[Job] = []
        others: list[Job] = []
        now = self._clock()
        while self._jobs:
            job = self._jobs.popleft()
            if jobs and (job.model is not jobs[0].model):
                others.append(job)
                continue
            if not job.future.set_running_or_notify_cancel():
                continue
            # The last in line is tried whatever the estimate says, as on an idle device.
            known = len(self._running) + len(jobs) + len(self._jobs) + 1
            hopeless = now + self._own_time(job.model, known) > job.deadline and bool(jobs or self._jobs)
            if now > job.deadline or hopeless:
                job.future.set_exception(DeadlinePassedError("the deadline passed while the image was waiting"))
                continue
            jobs.append(job)
            if len(jobs) == self._most(jobs, now):
                break
        self._jobs.extendleft(reversed(others))
        if not jobs:
            return None
        if not jobs[0].model.retired:
            self._last = jobs[0]
        return self._begin(jobs, now, lane)

    def _take_last(self, lane: int) -> Batch | None:
        """The last job once more, where the device has nothing to do; caller holds the lock."""
        if self._last is None or self._last.model.endless or self._jobs or self._running or self._closing:
            return None
        return self._begin([self._last], self._clock(), lane)

    def _begin(self, jobs: list[Job], now: float, lane: int) -> Batch:
        self._count_work(now)
        jobs[0].model.ran_at, jobs[0].model.rests = now, False
        batch = Batch(jobs, now, self._work_s, lane)
        self._running.append(batch)
        return batch

    def _most(self, jobs: list[Job], now: float) -> int:
        """Images that may share this batch: all results come when the whole batch is done, none may be late for it."""
        model = jobs[0].model
        limit = self.largest_batch(model)
        if model.seconds_per_image == 0.0:
            return limit
        time_left = min(job.deadline for job in jobs) - now
        fitting = min(float(limit), time_left / _CAUTION / self._own_time(model, model.backend.lanes))
        return max(len(jobs), int(fitting))

    def _run(self, batch: Batch) -> None:
        jobs, model = batch.jobs, batch.jobs[0].model
        try:
            maps, scores = model.backend.run(_stacked(jobs))
            if len(maps) != len(jobs) or len(scores) != len(jobs):
                raise BackendError(f"{len(maps)} maps and {len(scores)} scores for {len(jobs)} images")
            found = [
                (job, Scored(anomaly_map, float(score)))
                for job, anomaly_map, score in zip(jobs, maps, scores, strict=True)
            ]
        # Whatever a backend raises must reach the waiting requests: a dead thread would leave them without an answer.
        except Exception as error:
            self._finish(batch)
            model.failures += 1
            for job in jobs:
                with suppress(InvalidStateError):
                    job.future.set_exception(BackendError(f"{model.backend.name}: {error}"))
            return
        seconds, work = self._finish(batch)
        model.failures = 0
        per_image = work / len(jobs)
        model.seconds_per_image += (_NEWEST if model.seconds_per_image else 1.0) * (per_image - model.seconds_per_image)
        for job, scored in found:
            # A device that hung until `close` gave it up: its images have been answered.
            with suppress(InvalidStateError):
                job.future.set_result(Result(scored, seconds))
        self._on_batch(len(jobs))

    def _finish(self, batch: Batch) -> tuple[float, float]:
        """Seconds that a batch ran, and its share of the device's work; another may begin."""
        with self._lock:
            now = self._clock()
            self._count_work(now)
            if not batch.given_up:
                self._running.remove(batch)
            return now - batch.started, self._work_s - batch.work_before
