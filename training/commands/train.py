"""`python -m training train`: from photos of good parts to a bundle."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from service.images.decoding import Pixels
from training.bundling.continued import marked_by
from training.bundling.results import version_of
from training.commands.outcome import UNFIT, tell
from training.commands.recipe_flags import PHOTOS, PlaceFlags, RecipeFlags, RetryFlags
from training.commands.settings import MethodFlags
from training.commands.training_job import LineJob, TrainingJob, train_until_fit
from training.data.folders import DataError, good_images
from training.data.line import gather
from training.data.recorded import reviewed_parts
from training.loop.runs import RESULTS
from training.loop.settings import LoopSettings
from training.methods import METHODS
from training.settings import changed

# Of the steps of the run that is continued: its weights need little.
_SHARE = 4


class LearningFlags(MethodFlags, RecipeFlags):
    """What every command that trains recipes is told."""

    textures: Annotated[
        Path | None, Field(description="folder of texture images, e.g. DTD; procedural ones without it")
    ] = None
    device: Annotated[str, Field(description="auto (a GPU where there is one), cpu, cuda or cuda:N")] = "auto"
    compile: Annotated[bool, Field(description="run the network through torch.compile")] = False

    def job(
        self, data: Path, recipe: str, run: Path, models: Path, version: str | None, seed: int | None = None
    ) -> TrainingJob:
        """A training of `data` with these flags; `seed` in place of the settings' own."""
        settings = self.settings() if seed is None else self.settings(seed=seed)
        order = self.order(
            recipe=recipe,
            method=self.method,
            data=data,
            models=models,
            version=version,
            score=settings.score,
            seed=settings.seed,
        )
        return TrainingJob(settings, run, order, self.textures, self.device, self.compile)


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
        job = line_job(request, recipe)
    else:
        folder = request.run or Path("runs") / recipe
        job = request.job(request.data, recipe, folder, request.models, request.version)
    bundle = train_until_fit(job, request.retries)
    if bundle is None:
        return 0
    tell(bundle)
    return UNFIT if bundle.manifest.unfit else 0


def line_job(request: Train, recipe: str) -> TrainingJob:
    """Reads the records, and looks at the run that is continued; raises UserError, BundleError."""
    start, records = request.continue_from, request.from_records
    if records is None:
        raise DataError("--continue-from goes on with what the line brought: add --from-records DIR")
    folder = request.run or _unfinished(start or Path("runs") / recipe)
    if (folder / RESULTS).exists():
        raise DataError(f"{folder}: a finished run stays as it is: choose another --run, or leave it out")
    method = METHODS[request.method]
    before = None if start is None else version_of(start, request.models)
    parts, left_out = reviewed_parts(records, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    with nullcontext(_nowhere) if before is None else marked_by(before) as mark:
        line = gather(parts, request.data, folder, mark)
    for why, count in {**left_out, **line.left_out}.items():
        print(f"warning: {count} reviewed parts are not learned from: {why}", file=sys.stderr)
    if line.defects.is_dir() and not method.learns_defects:
        print(f"warning: {method.name} learns from good parts alone: no defect is used", file=sys.stderr)
    job = request.job(line.photos, recipe, folder, request.models, request.version)
    settings = job.settings
    photos = len(good_images(line.photos))
    if start is not None and isinstance(settings, LoopSettings) and "steps" not in request.changes():
        settings = changed(settings, {"steps": max(1, settings.steps_for(photos) // _SHARE)})
    return replace(job, settings=settings, line=LineJob(parts, line, start, before))


def _unfinished(run: Path) -> Path:
    """Of runs/bottle, runs/bottle-2, runs/bottle-3 … from `run` on the first that is not finished."""
    name = re.fullmatch(r"(.+)-(\d+)", run.name)
    stem, number = (name[1], int(name[2])) if name else (run.name, 1)
    while (run / RESULTS).exists():
        number += 1
        run = run.with_name(f"{stem}-{number}")
    return run


def _nowhere(pixels: Pixels) -> NDArray[np.bool_] | None:
    return None
