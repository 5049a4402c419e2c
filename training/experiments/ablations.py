"""Ablations: rows of differences over a preset, each trained and scored, beside the paper's table 3 and figure 9.

Every row differs from the full method, the paper's simulator on the preset's networks and schedule, in what its title
says and in nothing else. The row `preset` is the preset as it ships.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from training.bundling.export import InspectionGraph
from training.data.folders import DataError, find_images, good_images, labelled_images, listing, load_images, split
from training.evaluation.evaluate import figures, score_split, torch_scorer
from training.experiments.results import Row, mean_minutes, mean_percent, run_queue
from training.loop.fit import claim_run, keep_freed_memory, train, training_minutes
from training.methods.draem.config import TrainConfig
from training.methods.draem.simulator import SimulatorConfig
from training.methods.draem.textures import load_textures

# Image AUROC, pixel AUROC, pixel AP in percent.
Figures = tuple[float, float, float]


@dataclass(frozen=True)
class Ablation:
    """What differs from the full method: fields of TrainConfig and of SimulatorConfig, or the texture folder."""

    title: str
    paper: Figures | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    simulator: dict[str, Any] = field(default_factory=dict)
    other_textures: bool = False
    as_shipped: bool = False  # the preset's own simulator and number of textures

    def apply(self, preset: TrainConfig) -> TrainConfig:
        """The row's settings; a field that does not exist raises TypeError."""
        if self.as_shipped:
            return preset
        full = {"score": "paper", "max_textures": 0, "simulator": SimulatorConfig(**self.simulator)}
        return replace(preset, **{**full, **self.changes})


_RECONSTRUCTIVE = {"networks": "reconstructive", "focal_weight": 0.0}

ABLATIONS: dict[str, Ablation] = {
    "discriminative": Ablation(
        "discriminative network only: it sees the image twice, no reconstruction",
        (93.9, 92.7, 62.5),
        {"networks": "discriminative", "l2_weight": 0.0, "ssim_weight": 0.0},
    ),
    "reconstructive-ssim": Ablation(
        "reconstructive network and its losses only, map by SSIM", (83.9, 89.7, 47.5), _RECONSTRUCTIVE
    ),
    "reconstructive-msgms": Ablation(
        "reconstructive network and its losses only, map by MSGMS",
        (90.7, 93.4, 50.9),
        {**_RECONSTRUCTIVE, "distance": "msgms"},
    ),
    "imagenet": Ablation("textures from an ImageNet-like folder", (97.9, 97.0, 67.9), other_textures=True),
    "colours": Ablation(
        "homogeneous colours as textures",
        (96.2, 92.6, 56.5),
        simulator={"plain_colours": True, "texture_augmentation": False},
    ),
    "rectangles": Ablation(
        "rectangles instead of Perlin masks", (96.9, 96.8, 65.1), simulator={"mask_shape": "rectangles"}
    ),
    "no-augmentation-no-opacity": Ablation(
        "neither texture augmentation nor random opacity",
        (97.4, 94.5, 64.3),
        simulator={"texture_augmentation": False, "opacity_min": 1.0},
    ),
    "no-opacity": Ablation("no random opacity", (97.4, 95.0, 64.5), simulator={"opacity_min": 1.0}),
    "no-augmentation": Ablation(
        "no texture augmentation", (97.9, 97.1, 68.4), simulator={"texture_augmentation": False}
    ),
    "full": Ablation("the full method; all textures", (98.0, 97.3, 68.4)),
    "textures-1": Ablation("1 texture", changes={"max_textures": 1}),
    "textures-10": Ablation("10 textures", changes={"max_textures": 10}),
    "textures-100": Ablation("100 textures", changes={"max_textures": 100}),
    "focal-only": Ablation(
        "both networks, the discriminative loss only: no L2, no SSIM", changes={"l2_weight": 0.0, "ssim_weight": 0.0}
    ),
    "no-l2": Ablation("no L2 in the reconstruction loss", changes={"l2_weight": 0.0}),
    "no-ssim": Ablation("no SSIM in the reconstruction loss", changes={"ssim_weight": 0.0}),
    "score-mean": Ablation("the full method, score `mean`", changes={"score": "mean"}),
    "score-windows": Ablation("the full method, score `windows`", changes={"score": "windows"}),
    "score-top": Ablation("the full method, score `top`", changes={"score": "top"}),
    "preset": Ablation("the preset as it ships, with its own simulator and score", as_shipped=True),
}


@dataclass(frozen=True)
class Plan:
    """What to run: names of ABLATIONS on every folder of `data` with every seed."""

    preset: TrainConfig
    data: list[Path]
    textures: Path | None
    other_textures: Path | None
    names: list[str]
    seeds: list[int]

    def rows(self) -> Iterable[tuple[str, Path, str, int]]:
        """Key, folder, name and seed; the full method and the first seeds first, should the run be stopped early."""
        for seed in self.seeds:
            for folder in self.data:
                for name in sorted(self.names, key=lambda name: name != "full"):
                    if not ABLATIONS[name].other_textures or self.other_textures:
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
        config = replace(ABLATIONS[name].apply(plan.preset), seed=seed)
        textures = plan.other_textures if ABLATIONS[name].other_textures else plan.textures
        jobs[key] = partial(_train_and_score, config, folder, textures, file.with_suffix(".runs"), device)
    settings: Row = {"preset": asdict(replace(plan.preset, seed=0)), "textures": _name(plan.textures)}
    return run_queue(jobs, file, settings, tabulate)


def _train_and_score(config: TrainConfig, folder: Path, textures: Path | None, runs: Path, device: torch.device) -> Row:
    # Only map or score differ between distances and formulas: one training serves them all.
    trained = replace(config, distance="ssim", score="paper")
    source_of = listing(find_images(textures, recursive=True)) if textures else None
    settings = json.dumps([asdict(trained), _name(textures), source_of], sort_keys=True).encode()
    run = runs / _name(folder) / hashlib.sha256(settings).hexdigest()[:12]
    photos = good_images(folder)
    claim_run(run, trained, photos, textures)
    keep_freed_memory()
    trained_on, _ = split(photos, config.holdout, config.seed)
    good = load_images(trained_on, config.size, "good photos")
    source = load_textures(textures, config.size, limit=config.max_textures, seed=config.seed)
    network = train(config, good, source, run, device=device)
    images = labelled_images(folder)
    graph = InspectionGraph(network, score=config.score).eval().to(device)
    maps, scores = score_split(images, torch_scorer(graph, config.size))
    return {
        **figures(images, maps, scores),
        "good_photos": len(good),
        "textures": [_name(textures), len(source)],
        "minutes": round(training_minutes(run), 2),
    }


def _name(folder: Path | None) -> str:
    return folder.resolve().name if folder else "procedural"


def tabulate(rows: Mapping[str, Row]) -> str:
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
        for name, ablation in ABLATIONS.items():
            runs = ours.get(data, {}).get(name, [])
            cells = [f"{name}: {ablation.title}", *(f"{figure}" for figure in ablation.paper or ("", "", ""))]
            cells += [mean_percent(runs, column) for column in ("image_auroc", "pixel_auroc", "pixel_ap", "pro")]
            cells += [str(len(runs)) if runs else "", mean_minutes(runs)]
            lines.append(f"| {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)
