"""`python -m training train`: from photos of good parts to a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from training.commands.attempts import train_until_fit
from training.commands.learning_flags import LearningFlags
from training.commands.line_job import line_job, shortened, unfinished
from training.commands.outcome import UNFIT, tell
from training.commands.recipe_flags import PHOTOS, PlaceFlags, RetryFlags
from training.commands.training_job import TrainingJob
from training.data.folders import DataError, good_images
from training.methods import METHODS


class Train(LearningFlags, RetryFlags, PlaceFlags):
    """Train on good photos, export, calibrate, evaluate where labelled defects exist, write the bundle."""

    data: Annotated[Path, Field(description=PHOTOS)]
    recipe: Annotated[str | None, Field(description="name of the recipe; without it that of the folder")] = None
    run: Annotated[Path | None, Field(description="folder for checkpoint and losses; without it runs/RECIPE")] = None
    from_records: Annotated[
        Path | None,
        Field(description="station's records (INSPECT_RECORDS_DIR): learn from the parts that people reviewed too"),
    ] = None
    continue_from: Annotated[
        Path | None,
        Field(
            description="finished run (runs/RECIPE) whose network is trained further, in a quarter of its steps unless "
            "--steps says more; takes a --run of its own"
        ),
    ] = None


def run(request: Train) -> int:
    recipe = request.recipe or request.data.resolve().name
    if request.from_records or request.continue_from:
        job = _with_line(request, recipe)
    else:
        folder = request.run or Path("runs") / recipe
        job = request.job(request.data, recipe, folder, request.models, request.version)
    bundle = train_until_fit(job, request.retries)
    if bundle is None:
        return 0
    tell(bundle)
    return UNFIT if bundle.manifest.unfit else 0


def _with_line(request: Train, recipe: str) -> TrainingJob:
    """Reads the records, and looks at the run that is continued; raises UserError, BundleError."""
    start, records = request.continue_from, request.from_records
    if records is None:
        raise DataError("--continue-from goes on with what the line brought: add --from-records DIR")
    run = request.run or unfinished(start or Path("runs") / recipe)
    line = line_job(records, recipe, request.data, run, METHODS[request.method], start, request.models)
    job = request.job(line.line.photos, recipe, run, request.models, request.version)
    if start is not None and "steps" not in request.changes():
        job = replace(job, settings=shortened(job.settings, len(good_images(line.line.photos))))
    return replace(job, line=line)
