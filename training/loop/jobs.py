"""Jobs one after the other, each in a process of its own, so that none stops another.

No word of torch here: a process loads what its job needs.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from types import FrameType

from training.errors import UserError

INTERRUPTED = 130  # exit status of a training that was told to stop and saved its state


class QueueError(UserError):
    """Some jobs failed, or cannot be; the message names them."""


class QueueStoppedError(UserError):
    """A signal stopped the queue; the job under way has saved its state."""


def work_through(jobs: dict[str, Callable[[], int]]) -> None:
    """Run every job, by name, in order; a job is picklable and gives its exit status.

    Raises QueueError at the end where jobs failed. SIGTERM and SIGINT are passed on to the job under way; when that
    has ended, QueueStoppedError is raised.
    """
    context = multiprocessing.get_context("spawn")
    failed: list[str] = []
    for place, (name, job) in enumerate(jobs.items(), start=1):
        process = context.Process(target=_exit_with, args=(job,), name=name)
        stopped: list[int] = []

        def pass_on(
            number: int,
            frame: FrameType | None,
            stopped: list[int] = stopped,
            terminate: Callable[[], None] = process.terminate,
        ) -> None:
            stopped.append(number)
            terminate()

        process.start()
        previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            process.join()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if stopped or process.exitcode == INTERRUPTED:
            raise QueueStoppedError(f"stopped at {name}, {place} of {len(jobs)}: the same command goes on there")
        if process.exitcode != 0:
            failed.append(name)
    if failed:
        raise QueueError(
            f"{len(failed)} of {len(jobs)} recipes failed: {', '.join(failed)}; the reasons are above, "
            "and the same command tries these again"
        )


def _exit_with(job: Callable[[], int]) -> None:
    raise SystemExit(job())
