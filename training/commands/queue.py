"""`python -m training queue`: recipes one after the other, each in a process of its own, so that none stops another."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

from pydantic import Field

from training.commands.attempts import train_until_fit
from training.commands.learning_flags import LearningFlags
from training.commands.outcome import INTERRUPTED, QueueStoppedError, attempt, tell
from training.commands.recipe_flags import PHOTOS, PlaceFlags, RetryFlags
from training.commands.training_job import TrainingJob
from training.errors import UserError
from training.loop.runs import RESULTS


class QueueError(UserError):
    """Some recipes failed; the message names them."""


class Queue(LearningFlags, RetryFlags, PlaceFlags):
    """Train one recipe for each folder, named like it, one after the other; what is finished is not trained again."""

    data: Annotated[tuple[Path, ...], Field(description=f"folders, each: {PHOTOS}")]
    runs: Annotated[Path, Field(description="folder of the folders for checkpoints and statistics")] = Path("runs")


def run(request: Queue) -> int:
    jobs: dict[str, Callable[[], int]] = {}
    for folder in request.data:
        recipe = folder.resolve().name
        if recipe in jobs:
            raise QueueError(f"{folder}: a second folder named {recipe}: recipes take their names from the folders")
        job = request.job(folder, recipe, request.runs / recipe, request.models, request.version)
        jobs[recipe] = partial(_train_in_queue, job, request.retries)
    work_through(jobs)
    return 0


def _train_in_queue(job: TrainingJob, retries: int) -> int:
    status = attempt(partial(_train_unless_finished, job, retries))
    if status == 1:
        print(f"{job.order.recipe}: failed", file=sys.stderr)
    return status


def _train_unless_finished(job: TrainingJob, retries: int) -> int:
    job.claim()
    if job.finished():
        print(f"{job.order.recipe}: finished before, see {job.run / RESULTS}")
        return 0
    bundle = train_until_fit(job, retries)
    if bundle:
        tell(bundle)
    return 0


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
