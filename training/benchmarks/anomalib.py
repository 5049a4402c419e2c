"""Trains anomalib's Draem and ours on the same photos for the same minutes, and scores both with our metrics.

`python -m training.benchmarks anomalib --data bottle --textures dtd --minutes 30`. anomalib is no dependency of this
project: install it beside it (`pip install anomalib`, with a torchvision built for the torch that is there). Its Draem
has one size, the paper's, and runs as it comes, through its Engine, batch 8; its image score is its own, the maximum
of the map. Minutes are those of training, reading the photos included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.backends.base import Scored
from service.images.decoding import Pixels, read
from service.images.resizing import resize
from training.bundling.graph import InspectionGraph, score_with_torch
from training.data.folders import good_images, split
from training.data.labels import labelled_images
from training.data.reading import load_images
from training.evaluation.evaluate import score_split
from training.evaluation.metrics import image_metrics
from training.loop.memory import keep_freed_memory
from training.loop.runs import Run
from training.methods.draem.config import PRESETS, TrainConfig, preset
from training.methods.draem.lesson import fit
from training.methods.protocol import TrainingSet
from training.simulation.textures import load_textures


class Trained(NamedTuple):
    score: Callable[[Pixels], Scored]  # of an image `(H, W, 3)`
    steps: int
    minutes: float


def train_ours(
    config: TrainConfig, photos: list[Path], textures: Path, minutes: float, device: torch.device
) -> Trained:
    """As many steps as fit in the minutes, by the time of the first few: the schedule must know its end."""
    started = time.monotonic()
    keep_freed_memory()
    good = load_images(photos, config.size, "good photos")
    data = TrainingSet(good, load_textures(textures, config.size, limit=config.max_textures, seed=config.seed))
    with tempfile.TemporaryDirectory() as folder:
        warm, trial, run = (Path(folder) / name for name in ("warm", "trial", "run"))
        for path in (warm, trial, run):
            path.mkdir()
        fit(replace(config, steps=3), data, Run(warm), device)
        before = time.monotonic()
        fit(replace(config, steps=8), data, Run(trial), device)
        step_s = (time.monotonic() - before) / 8
        steps = max(1, int((60 * minutes - (time.monotonic() - started)) / step_s))
        network = fit(replace(config, steps=steps), data, Run(run), device)
    spent = (time.monotonic() - started) / 60
    graph = InspectionGraph(network.cpu(), score=config.score).eval()

    return Trained(lambda image: score_with_torch(graph, [image])[0], steps, spent)


def train_anomalib(photos: list[Path], textures: Path, size: int, minutes: float, seed: int, device: str) -> Trained:
    """anomalib's Draem through its Engine, stopped by the clock."""
    models, data, engines = (importlib.import_module(f"anomalib.{name}") for name in ("models", "data", "engine"))
    torch.manual_seed(seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        normal = Path(folder) / "good"
        normal.mkdir()
        for photo in photos:
            (normal / photo.name).symlink_to(photo.resolve())
        datamodule = data.Folder(
            name="photos",
            root=folder,
            normal_dir="good",
            train_batch_size=8,
            num_workers=0,
            test_split_mode="none",
            val_split_mode="none",
        )
        model = models.Draem(
            dtd_dir=textures,
            pre_processor=models.Draem.configure_pre_processor((size, size)),
            post_processor=False,
            evaluator=False,
            visualizer=False,
        )
        engine = engines.Engine(
            default_root_dir=folder,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            logger=False,
            max_epochs=-1,
            max_time=timedelta(minutes=minutes),
            limit_val_batches=0,
            num_sanity_val_steps=0,
        )
        engine.fit(model, datamodule=datamodule)
        steps = int(engine.trainer.global_step)
    spent = (time.monotonic() - started) / 60
    network: Any = model.model.cpu().eval()

    def score(image: Pixels) -> Scored:
        with torch.inference_mode():
            x: Tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
            result = network(x)
        return Scored(result.anomaly_map[0].numpy(), float(result.pred_score[0]))

    return Trained(score, steps, spent)


def figures(trained: Trained, data: Path, size: int) -> dict[str, float]:
    """Our metrics on the labelled test split."""
    images = labelled_images(data)
    tested = score_split(images, (trained.score(resize(read(image.path), size, size)) for image in images))
    defective = np.array([image.is_defect for image in images])
    metrics = {**image_metrics(tested.scores, defective), **tested.pixels}
    return {"steps": trained.steps, "minutes": round(trained.minutes, 2), **metrics}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks anomalib", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder in MVTec layout")
    parser.add_argument("--textures", type=Path, required=True, help="folder of texture images, e.g. DTD")
    parser.add_argument("--minutes", type=float, required=True, help="training time of each")
    parser.add_argument("--preset", choices=PRESETS, default="edge", help="of ours")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        version = importlib.import_module("anomalib").__version__
        importlib.import_module("anomalib.models")
    except (ImportError, RuntimeError) as error:
        # torchvision raises RuntimeError where it was built for another torch, or for CUDA and this one is not.
        print(
            f"error: anomalib cannot be imported ({error}): pip install anomalib, and a torchvision built for torch "
            f"{torch.__version__}",
            file=sys.stderr,
        )
        return 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = preset(options.preset, seed=options.seed)
    photos, _ = split(good_images(options.data), config.holdout, config.seed)
    ours = train_ours(config, photos, options.textures, options.minutes, torch.device(device))
    theirs = train_anomalib(photos, options.textures, config.size, options.minutes, config.seed, device)
    rows = {f"ours, `{options.preset}`": ours, f"anomalib {version} Draem": theirs}
    results = {name: figures(trained, options.data, config.size) for name, trained in rows.items()}
    columns = list(next(iter(results.values())))
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, row in results.items():
        print(f"| {name} | {' | '.join(f'{row[column]:.4g}' for column in columns)} |")
    print(json.dumps({"seed": options.seed, "threads": torch.get_num_threads(), "device": device}))
    return 0
