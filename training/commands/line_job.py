"""What a training learns from the line, and the run that it continues."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.images.decoding import Pixels
from training.bundling.continued import marked_by
from training.bundling.results import version_of
from training.commands.training_job import LineJob
from training.data.folders import DataError
from training.data.line import gather
from training.data.recorded import reviewed_parts
from training.loop import distributed
from training.loop.runs import RESULTS
from training.loop.settings import LoopSettings
from training.methods.protocol import Method
from training.settings import RecipeSettings, changed

# Of the steps of the run that is continued: its weights need little.
_SHARE = 4


def line_job(
    records: Path, recipe: str, data: Path, run: Path, method: Method[Any], start: Path | None, models: Path
) -> LineJob:
    """Reviewed parts of `records` put together with the photos of `data` in `run`, which continues the run `start`.

    Every process of a training may call it: one of them does the work, and the first warns.
    """
    if (run / RESULTS).exists():
        raise DataError(f"{run}: a finished run stays as it is: choose another --run, or leave it out")
    before = None if start is None else version_of(start, models)
    parts, left_out = reviewed_parts(records, recipe)
    with nullcontext(_nowhere) if before is None else marked_by(before) as mark:
        line = gather(parts, data, run, mark)
    if distributed.rank() == 0:
        for why, count in {**left_out, **line.left_out}.items():
            print(f"warning: {count} reviewed parts are not learned from: {why}", file=sys.stderr)
        if line.defects.is_dir() and not method.learns_defects:
            print(f"warning: {method.name} learns from good parts alone: no defect is used", file=sys.stderr)
    return LineJob(parts, line, start, before)


def shortened(settings: RecipeSettings, photos: int) -> RecipeSettings:
    """With as few steps as a run takes that goes on from another one."""
    if not isinstance(settings, LoopSettings):
        return settings
    fewer: RecipeSettings = changed(settings, {"steps": max(1, settings.steps_for(photos) // _SHARE)})
    return fewer


def unfinished(run: Path) -> Path:
    """Of runs/bottle, runs/bottle-2, runs/bottle-3 … from `run` on the first that is not finished."""
    name = re.fullmatch(r"(.+)-(\d+)", run.name)
    stem, number = (name[1], int(name[2])) if name else (run.name, 1)
    while (run / RESULTS).exists():
        number += 1
        run = run.with_name(f"{stem}-{number}")
    return run


def _nowhere(pixels: Pixels) -> NDArray[np.bool_] | None:
    return None
