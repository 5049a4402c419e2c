"""From a trained network to the bundle of its job, with a record of how it was trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from service.bundle.folder import Bundle
from service.bundle.manifest import PeakMemory, Pretrained, TrainingRecord
from training.bundling.continued import with_comparison
from training.bundling.recipe import write_recipe
from training.bundling.results import write_results
from training.commands.material import Material
from training.commands.photos import warn_of_outlying
from training.commands.training_job import TrainingJob
from training.evaluation.report import Training
from training.loop import memory
from training.loop.runs import CHECKPOINT, RESULTS, disk_full_named, losses_of, peak_memory, training_minutes
from training.methods import METHODS

# Held-out photos that a choice after the training is made by, and how many of them get defects of every kind.
_MOST_PHOTOS, _WITH_DEFECTS = 60, 10


@dataclass(frozen=True)
class Trained:
    """A network, where it was trained, in how many seconds of this session, by how many processes, and from what."""

    network: nn.Module
    device: torch.device
    seconds: float
    processes: int
    pretrained: Pretrained | None


def write_trained(trained: Trained, material: Material, job: TrainingJob) -> Bundle:
    """Calibrate, evaluate and write the bundle; the run's folder is marked as finished."""
    method = METHODS[job.order.method]
    chosen = method.settle(job.settings, trained.network, *_to_choose_by(material, job)) if method.settle else {}
    for name, value in chosen.items():
        print(f"chosen on held-out photos: {name.replace('_', '-')} {value}")
    record = _record(trained, material, job, chosen)
    samples = method.samples(job.settings, material.given) if method.samples else None
    with disk_full_named(job.order.models / job.order.recipe):
        bundle = _write(trained.network, material, job, Training(record, losses_of(job.run), samples))
    with disk_full_named(job.run / RESULTS):
        write_results(job.run, bundle)
    return bundle


def _to_choose_by(material: Material, job: TrainingJob) -> tuple[Tensor, Tensor]:
    """Held-out photos, and rendered defects: others than those that tell the escapes."""
    photos = material.photos
    return photos.held_out[:_MOST_PHOTOS], photos.rendered(_WITH_DEFECTS, job.order.seed + 1)


def _record(trained: Trained, material: Material, job: TrainingJob, chosen: dict[str, Any]) -> TrainingRecord:
    photos, textures = material.photos, material.given.textures
    looped = (job.run / CHECKPOINT).exists()
    peak = peak_memory(job.run) if looped else memory.PeakMemory().or_more(trained.device)
    return TrainingRecord(
        config=asdict(job.settings) | chosen,
        good_photos=len(photos.trained_on_files),
        photos_sha256=photos.sha256,
        textures=None if textures is None else len(textures) if job.textures else "procedural",
        pretrained=trained.pretrained,
        device=str(trained.device),
        processes=trained.processes,
        threads=torch.get_num_threads(),
        minutes=round(training_minutes(job.run) if looped else trained.seconds / 60, 2),
        peak_memory_mib=PeakMemory(**asdict(peak)),
        unusual_photos=material.unusual,
        outlying_scores=warn_of_outlying(trained.network, photos, job.order),
        after=list(job.after) or None,
        line_parts=job.line.line.learned if job.line else None,
    )


def _write(network: nn.Module, material: Material, job: TrainingJob, shown: Training) -> Bundle:
    """The bundle; beside the version that it continues, where there is one, it is to be seen with the comparison."""
    held_out = material.photos.for_thresholds()
    if job.line is None or job.line.before is None:
        return write_recipe(network, held_out, job.order, shown)
    with TemporaryDirectory() as folder:
        unseen = replace(job.order, models=Path(folder), signing_key=None)
        made = write_recipe(network, held_out, unseen, shown)
        return with_comparison(made, job.line.before, job.line.parts, job.line.line.learned, job.order)
