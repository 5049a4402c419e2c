"""Ablations: a method's rows of differences over a preset, each trained and scored, beside the paper's figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from service.images.decoding import read
from service.images.resizing import resize
from training.bundling.graph import InspectionGraph, score_with_torch
from training.data.folders import DataError, find_images, good_images, listing, split
from training.data.labels import images_sha256, labelled_images
from training.data.reading import load_images
from training.evaluation.evaluate import figures, score_split
from training.experiments.results import Row, mean_minutes, mean_percent, run_queue
from training.loop.memory import keep_freed_memory
from training.loop.runs import Run, TrainingError, claim_run, other_material, training_minutes
from training.methods.protocol import Method, TrainingSet
from training.settings import RecipeSettings


@dataclass(frozen=True)
class Plan:
    """What to run: names of the method's ablations on every folder of `data` with every seed."""

    method: Method[Any]
    preset: RecipeSettings
    data: Sequence[Path]
    textures: Path | None
    other_textures: Path | None
    names: Sequence[str]
    seeds: Sequence[int]

    def rows(self) -> Iterable[tuple[str, Path, str, int]]:
        """Key, folder, name and seed; the full method and the first seeds first, should the run be stopped early."""
        for seed in self.seeds:
            for folder in self.data:
                for name in sorted(self.names, key=lambda name: name != "full"):
                    if not self.method.ablations[name].other_textures or self.other_textures:
                        yield f"{_name(folder)}/{name}/{seed}", folder, name, seed


def run_ablations(plan: Plan, file: Path, device: torch.device) -> str:
    """Train and score what `file` has not, see `run_queue`; a row goes on from its last checkpoint in `FILE.runs`."""
    names = [_name(folder) for folder in plan.data]
    if len(set(names)) < len(names):
        raise DataError(f"--data: {', '.join(names)}: two folders of one name cannot be told apart in the table")
    for folder in plan.data:
        labelled_images(folder)  # what is missing should be known before hours of training
    jobs = {}
    for key, folder, name, seed in plan.rows():
        row = plan.method.ablations[name]
        config = replace(row.apply(plan.preset), seed=seed)
        textures = plan.other_textures if row.other_textures else plan.textures
        jobs[key] = _Job(plan.method, config, folder, textures, file.with_suffix(".runs"), device)
    settings: Row = {"preset": asdict(replace(plan.preset, seed=0)), "textures": _name(plan.textures)}
    return run_queue(
        {key: job.row for key, job in jobs.items()},
        file,
        settings,
        partial(tabulate, plan.method),
        outdated=lambda key, row: jobs[key].outdated(row) if key in jobs else None,
    )


@dataclass(frozen=True)
class _Job:
    """One row: what is trained, on what, and where its run lies."""

    method: Method[Any]
    config: RecipeSettings
    folder: Path
    textures: Path | None
    runs: Path
    device: torch.device

    @property
    def trained(self) -> RecipeSettings:
        """Only map or score differ between rows that share these: one training serves them all."""
        return replace(self.config, score="paper", **self.method.untrained)

    @property
    def run(self) -> Path:
        source_of = listing(find_images(self.textures)) if self.textures else None
        settings = json.dumps([asdict(self.trained), _name(self.textures), source_of], sort_keys=True).encode()
        return self.runs / _name(self.folder) / hashlib.sha256(settings).hexdigest()[:12]

    def outdated(self, row: Row) -> str | None:
        """Why a row that is there is not what this would give; TrainingError where it is of other photos.

        One without its run, or of before rows told what they were judged on, stays as it is.
        """
        run = self.run
        if run.exists() and (difference := other_material(run, good_images(self.folder), self.textures)):
            raise TrainingError(f"{run}: made with other {difference}: choose another --out")
        if row.get("images_sha256") in (None, images_sha256(labelled_images(self.folder))):
            return None
        return "judged on other labelled images"

    def row(self) -> Row:
        method, config, size = self.method, self.config, self.config.size
        photos, run = good_images(self.folder), self.run
        claim_run(run, method.claimed(self.trained), photos, self.textures, flag="--out")
        keep_freed_memory()
        trained_on, _ = split(photos, config.holdout, config.seed)
        good = load_images(trained_on, size, "good photos")
        source = method.textures(config, self.textures) if method.textures else None
        network = method.fit(config, TrainingSet(good, source), Run(run), self.device)
        images = labelled_images(self.folder)
        graph = InspectionGraph(network, score=config.score).eval().to(self.device)
        scored = (score_with_torch(graph, [resize(read(image.path), size, size)])[0] for image in images)
        return {
            **figures(images, score_split(images, scored)),
            "images_sha256": images_sha256(images),
            "good_photos": len(good),
            "textures": [_name(self.textures), len(source)] if source is not None else None,
            "minutes": round(training_minutes(run), 2),
        }


def _name(folder: Path | None) -> str:
    return folder.resolve().name if folder else "procedural"


def tabulate(method: Method[Any], rows: Mapping[str, Row]) -> str:
    """Markdown, one table a data set: the paper's figures (mean of 15 categories) beside ours; blank where not run.

    Ours are means over seeds, with the standard deviation where there are several.
    """
    ours: dict[str, dict[str, list[Row]]] = {}
    for key, row in rows.items():
        data, name, _ = key.rsplit("/", 2)
        ours.setdefault(data, {}).setdefault(name, []).append(row)
    heads = ("image AUROC", "pixel AUROC", "pixel AP")
    columns = ["ablation", *(f"paper, {head}" for head in heads), *heads, "PRO", "seeds", "min"]
    tables = []
    for data in ours or {"": {}}:
        lines = [f"{data}\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for name, ablation in method.ablations.items():
            runs = ours.get(data, {}).get(name, [])
            cells = [f"{name}: {ablation.title}", *(f"{figure}" for figure in ablation.paper or ("", "", ""))]
            cells += [mean_percent(runs, column) for column in ("image_auroc", "pixel_auroc", "pixel_ap", "pro")]
            cells += [str(len(runs)) if runs else "", mean_minutes(runs)]
            lines.append(f"| {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)
