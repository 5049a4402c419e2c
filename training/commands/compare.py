"""`python -m training compare`: which method is best on these photos, and into service with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.bundle.folder import Bundle, read_bundle
from training.bundling.order import RecipeOrder
from training.commands import winner
from training.commands.attempts import train
from training.commands.recipe_flags import PHOTOS
from training.commands.settings import preset_like, settings_of
from training.commands.training_job import TrainingJob
from training.data.folders import find_images, good_images, split
from training.experiments import compare, compare_table
from training.experiments.results import ResultsError, Row, run_queue
from training.methods import METHODS


class Compare(BaseModel):
    """Train every method on the same photos and put their figures beside each other; stop it when you like, the same
    command goes on.
    """

    model_config = ConfigDict(frozen=True)

    data: Annotated[Path, Field(description=PHOTOS)]
    methods: Annotated[tuple[str, ...], Field(description="these only; without it all")] = ()
    minutes: Annotated[float | None, Field(gt=0, description="no training begins after so many minutes")] = None
    steps: Annotated[
        int, Field(ge=0, description="optimiser steps of each method that learns in steps; 0: as its preset says")
    ] = 0
    seeds: Annotated[tuple[int, ...], Field(min_length=1, description="one training of each method with each")] = (0,)
    size: Annotated[int, Field(ge=32, le=4096, description="pixels: images are resized to size x size")] = 256
    textures: Annotated[
        Path | None, Field(description="folder of texture images, e.g. DTD; procedural ones without it")
    ] = None
    device: Annotated[str, Field(description="auto (a GPU where there is one), cpu, cuda or cuda:N")] = "auto"
    intervals: Annotated[bool, Field(description="bootstrap 95 % intervals of what is made of scores alone")] = False
    serve_winner: Annotated[bool, Field(description="put the recommended bundle into the folder of the bundles")] = (
        False
    )
    models: Annotated[Path, Field(description="folder of the bundles")] = Path("models")
    out: Annotated[Path, Field(description="JSON file of the rows; table, plot and trainings go beside it")]

    @model_validator(mode="after")
    def _known(self) -> Compare:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"--methods {' '.join(unknown)}: choose among {', '.join(METHODS)}")
        return self

    @property
    def recipe(self) -> str:
        return self.data.resolve().name

    @property
    def work(self) -> Path:
        return self.out.with_suffix(".runs")

    def bundle(self, name: str, seed: int) -> Path:
        return self.work / "models" / self.recipe / f"{name}-{seed}"

    def job(self, name: str, seed: int) -> TrainingJob:
        """With the method's CPU-sized preset and what was given."""
        values = {"seed": seed, "size": self.size, **({"steps": self.steps} if self.steps else {})}
        settings = settings_of(name, preset_like(METHODS[name], "edge"), values)
        order = RecipeOrder(
            recipe=self.recipe,
            method=name,
            data=self.data,
            models=self.work / "models",
            version=f"{name}-{seed}",
            score=settings.score,
            seed=seed,
        )
        textures = self.textures if METHODS[name].textures else None
        return TrainingJob(settings, self.work / f"{name}-{seed}", order, textures, self.device, flag="--out")


def run(request: Compare) -> int:
    names = request.methods or tuple(METHODS)
    _require_material(request, names[0])
    if request.serve_winner:
        winner.require_models(request.models, request.recipe)
    ends = time.monotonic() + 60 * request.minutes if request.minutes else float("inf")
    jobs = {f"{name}/{seed}": partial(_row, request, name, seed) for seed in request.seeds for name in names}
    textures = request.textures.resolve().name if request.textures else "procedural"
    kept: Row = {"data": request.recipe, "size": request.size, "steps": request.steps, "textures": textures}
    rows: dict[str, Row] = {}
    failures = ""
    try:
        run_queue(
            jobs,
            request.out,
            kept,
            partial(_kept, rows, request),
            outdated=partial(_outdated, request),
            go_on=lambda: time.monotonic() < ends,
        )
    except ResultsError as error:
        failures = str(error)
    status = 0
    if rows:
        text, best = _told(request, rows)
        print(text)
        if request.serve_winner:
            status = winner.tell(winner.serve(best, request.models))
    if failures:
        raise ResultsError(failures)
    return status


def _require_material(request: Compare, name: str) -> None:
    """DataError where no method could be trained on the photos: known once, not of every method."""
    for seed in request.seeds:
        split(good_images(request.data), request.job(name, seed).settings.holdout, seed)
    if request.textures:
        find_images(request.textures)
    job = request.job(name, request.seeds[0])
    replace(job.order, version=None).require_usable(job.spec)


def _outdated(request: Compare, key: str, row: Row) -> str | None:
    name, seed = key.rsplit("/", 1)
    if not request.bundle(name, int(seed)).exists():
        return "its bundle is gone"
    if why := request.job(name, int(seed)).outdated():
        return why
    return "judged on other labelled images" if compare.judged_on_others(row, request.data) else None


def _row(request: Compare, name: str, seed: int) -> Row:
    if not (job := request.job(name, seed)).made_before():
        train(job)
    return compare.judge(read_bundle(request.bundle(name, seed)), request.data)


def _kept(rows: dict[str, Row], request: Compare, done: Mapping[str, Row]) -> str:
    rows.clear()
    rows.update(done)
    return _table(request, rows, {})


def _told(request: Compare, rows: dict[str, Row]) -> tuple[str, Bundle]:
    """Table and plot beside the rows, with what was timed; the recommendation, and the bundle that it is of."""
    bundles: dict[str, Bundle] = {}
    faults: dict[str, dict[str, str]] = {}
    for key in rows:
        name, seed = key.rsplit("/", 1)
        bundle = read_bundle(request.bundle(name, int(seed)))
        if why := bundle.manifest.unfit:
            faults.setdefault(name, {})[seed] = why
        # One of a seed that is fit for service, where there is one.
        if name not in bundles or (bundles[name].manifest.unfit and not bundle.manifest.unfit):
            bundles[name] = bundle
    speed = compare.milliseconds(bundles)
    unfit = {name for name, bundle in bundles.items() if bundle.manifest.unfit}
    chosen_by = compare.on_shared_seeds(rows)
    best, reason = compare.recommend(compare_table.grouped(chosen_by), speed, unfit)
    if len(chosen_by) < len(rows):
        seeds = sorted({int(key.rsplit("/", 1)[1]) for key in chosen_by})
        reason += f"; by {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))} alone, which all have"
    text = f"{_table(request, rows, speed)}\n\n{compare_table.LEGEND}\n\nTake {best}: {reason}."
    for seed, why in faults.get(best, {}).items():
        text += f" Seed {seed} of it is unfit for service: {why}."
    compare_table.write(text, rows, speed, request.out)
    return text, bundles[best]


def _table(request: Compare, rows: dict[str, Row], speed: dict[str, float]) -> str:
    titles = {name: method.title for name, method in METHODS.items()}
    return compare_table.tabulate(request.recipe, titles, rows, speed, intervals=request.intervals)
