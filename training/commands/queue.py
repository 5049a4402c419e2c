"""`python -m training queue`: recipes one after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from training.commands.attempts import train_until_fit
from training.commands.learning_flags import LearningFlags
from training.commands.outcome import attempt, tell
from training.commands.recipe_flags import PHOTOS, PlaceFlags, RetryFlags
from training.commands.training_job import TrainingJob
from training.loop.jobs import QueueError, work_through
from training.loop.runs import RESULTS


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
