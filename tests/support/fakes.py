"""Hand-made stand-ins, shared by the service's tests."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision

T = TypeVar("T")
Run = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]


def brightness(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Map: mean of the channels over 255; score: its largest value."""
    maps = (images.astype(np.float32).mean(axis=3) / 255).astype(np.float32)
    return maps, maps.max(axis=(1, 2))


class FakeBackend:
    """Records the size of every batch; waits for `release` before each one when `blocking`."""

    name = "fake"
    provider = "FakeProvider"
    precision: Precision = "fp32"

    def __init__(
        self,
        run: Run = brightness,
        *,
        blocking: bool = False,
        max_batch_size: int = 8,
        lanes: int = 1,
        replaceable: bool = False,
    ) -> None:
        self._run = run
        self.max_batch_size = max_batch_size
        self.lanes = lanes
        self.replaceable = replaceable
        self.batches: list[int] = []
        self.started = threading.Semaphore(0)
        self.release = threading.Semaphore(0 if blocking else 1_000_000)
        self.closed = False
        self.rested = 0

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.batches.append(len(images))
        self.started.release()
        assert self.release.acquire(timeout=300), "the test never released this batch"
        return self._run(images)

    def rest(self) -> None:
        self.rested += 1

    def close(self) -> None:
        self.closed = True

    def forget_starts(self) -> None:
        """From now on `started` counts what begins after this."""
        while self.started.acquire(blocking=False):
            pass

    def take_one(self, requests: Sequence[threading.Thread]) -> None:
        """Start the first request and, when it runs here alone, the others."""
        self.forget_starts()
        requests[0].start()
        assert self.started.acquire(timeout=300)
        for request in requests[1:]:
            request.start()


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def wait_for(condition: Callable[[], T | None]) -> T:
    """What is there at last, asked for again and again; what never comes is a failure, not a test that hangs."""
    until = time.monotonic() + 300
    while not (found := condition()):
        assert time.monotonic() < until, "it never came"
        # What is waited for needs the interpreter too.
        time.sleep(0.002)
    return found


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process cannot open another file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def leave_note(file: Path, status: int) -> int:
    """A job for a queue: leaves a file, then ends with `status`; a negative one is the signal that kills it."""
    file.touch()
    if status < 0:
        os.kill(os.getpid(), -status)
    return status
