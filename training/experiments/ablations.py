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
from training.data.labels import labelled_images
from training.data.reading import load_images
from training.evaluation.evaluate import figures, score_split
from training.experiments.results import Row, mean_minutes, mean_percent, run_queue
from training.loop.memory import keep_freed_memory
from training.loop.runs import Run, claim_run, training_minutes
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
        runs = file.with_suffix(".runs")
        jobs[key] = partial(_train_and_score, plan.method, config, folder, textures, runs, device)
    settings: Row = {"preset": asdict(replace(plan.preset, seed=0)), "textures": _name(plan.textures)}
    return run_queue(jobs, file, settings, partial(tabulate, plan.method))


def _train_and_score(
    method: Method[Any],
    config: RecipeSettings,
    folder: Path,
    textures: Path | None,
    runs: Path,
    device: torch.device,
) -> Row:
    # Only map or score differ between these: one training serves them all.
    trained = replace(config, score="paper", **method.untrained)
    source_of = listing(find_images(textures)) if textures else None
    settings = json.dumps([asdict(trained), _name(textures), source_of], sort_keys=True).encode()
    run = runs / _name(folder) / hashlib.sha256(settings).hexdigest()[:12]
    photos = good_images(folder)
    claim_run(run, method.claimed(trained), photos, textures, flag="--out")
    keep_freed_memory()
    trained_on, _ = split(photos, config.holdout, config.seed)
    good = load_images(trained_on, config.size, "good photos")
    source = method.textures(config, textures) if method.textures else None
    network = method.fit(config, TrainingSet(good, source), Run(run), device)
    images = labelled_images(folder)
    graph = InspectionGraph(network, score=config.score).eval().to(device)
    size = config.size
    scored = (score_with_torch(graph, [resize(read(image.path), size, size)])[0] for image in images)
    return {
        **figures(images, score_split(images, scored)),
        "good_photos": len(good),
        "textures": [_name(textures), len(source)] if source is not None else None,
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
