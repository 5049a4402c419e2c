"""`python -m training reproduce`: the paper's tables beside what this code gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from service.bundle.folder import read_bundle
from training.commands.attempts import train
from training.commands.learning_flags import LearningFlags
from training.commands.outcome import tell
from training.commands.settings import preset_like, settings_of
from training.commands.training_job import TrainingJob
from training.errors import UserError
from training.experiments.public_split import link_split
from training.experiments.published import PAPER
from training.experiments.reproduce import find_categories, tabulate
from training.experiments.results import Row, run_queue
from training.methods import METHODS


class Reproduce(LearningFlags):
    """Train every category of the paper's tables that is there and put the figures beside the paper's.

    Without --method and --preset every method of table 2, with the preset of its paper.
    """

    dataset: Annotated[Literal[tuple(PAPER)], Field(description="the paper's table")]  # type: ignore[valid-type]
    data: Annotated[Path, Field(description="folder with one folder a category, in MVTec layout")]
    categories: Annotated[tuple[str, ...], Field(description="these only; without it all that are there")] = ()
    split: Annotated[
        Path | None,
        Field(description="file of the names of the photos to train on; all other good ones are tested on"),
    ] = None
    seed: Annotated[tuple[int, ...], Field(min_length=1, description="one run each")] = (0,)
    out: Annotated[Path, Field(description="JSON file of the rows; all else goes beside it")]

    def presets(self) -> dict[str, str]:
        """Methods to run, each with its preset."""
        if {"method", "preset"} & self.model_fields_set:
            return {self.method: self.preset}
        return {name: preset_like(METHODS[name], "paper") for name in PAPER[self.dataset] if name in METHODS}


def run(request: Reproduce) -> int:
    work: Path = request.out.with_suffix(".runs")
    presets = request.presets()
    changes = {name: value for name, value in request.changes().items() if name != "seed"}

    def job_of(method: str, data: Path, seed: int) -> TrainingJob:
        version = f"{presets[method]}-{seed}"
        return _job(request, method, presets[method], {**changes, "seed": seed}, data, work, version)

    def row(method: str, data: Path, seed: int) -> Row:
        job = job_of(method, data, seed)
        if not job.made_before() and (made := train(job)):
            tell(made)
        manifest = read_bundle(job.bundle).manifest
        return {**(manifest.metrics or {}), "minutes": manifest.training.minutes}

    categories = find_categories(request.dataset, request.data, request.categories)
    if request.split and len(categories) > 1:
        raise UserError(f"--split {request.split}: is of one category: name it with --categories")
    folders = {category: request.data / category for category in categories}
    if request.split:
        folders = {name: link_split(data, request.split, work / "split" / name) for name, data in folders.items()}
    jobs = {
        f"{method}/{category}/{seed}": partial(row, method, data, seed)
        for seed in request.seed
        for method in presets
        for category, data in folders.items()
    }
    textures = request.textures.resolve().name if request.textures else "procedural"
    kept: Row = {"presets": dict(presets), "changes": changes, "textures": textures}
    if request.split:
        kept["split"] = request.split.name
    outdated = partial(_outdated, job_of, folders)
    print(run_queue(jobs, request.out, kept, partial(tabulate, request.dataset), outdated=outdated))
    return 0


def _outdated(
    job_of: Callable[[str, Path, int], TrainingJob], folders: Mapping[str, Path], key: str, _row: Row
) -> str | None:
    """Rows of categories that were not asked for stay as they are."""
    method, category, seed = key.split("/")
    return job_of(method, folders[category], int(seed)).outdated() if category in folders else None


def _job(
    request: Reproduce,
    method: str,
    preset: str,
    changes: Mapping[str, Any],
    data: Path,
    work: Path,
    version: str,
) -> TrainingJob:
    settings = settings_of(method, preset, changes)
    order = request.order(
        recipe=data.name,
        method=method,
        data=data,
        models=work / "models",
        version=version,
        score=settings.score,
        seed=settings.seed,
    )
    textures = request.textures if METHODS[method].textures else None
    return TrainingJob(
        settings, work / data.name / version, order, textures, request.device, request.compile, flag="--out"
    )
