"""What one training learns from: photos, textures, and defects of the line."""

from __future__ import annotations

from dataclasses import dataclass

from service.bundle.manifest import UnusualPhoto
from training.commands.photos import Photos, read_photos, warn_of_darkness, warn_of_few, warn_of_unusual
from training.commands.training_job import TrainingJob
from training.data.folders import good_images
from training.data.line import read_defects
from training.loop import distributed
from training.methods import METHODS
from training.methods.protocol import TrainingSet


@dataclass(frozen=True)
class Material:
    """Photos, those unlike the others (None where another process looked for them), and what the method gets."""

    photos: Photos
    unusual: list[UnusualPhoto] | None
    given: TrainingSet


def read_material(job: TrainingJob) -> Material:
    """Every process reads it; the first warns of what may spoil the training."""
    method, settings, spec = METHODS[job.order.method], job.settings, job.spec
    photos = read_photos(good_images(job.order.data), settings, spec)
    unusual = None
    if distributed.rank() == 0:
        warn_of_few(len(photos.held_out_files), job.order.false_reject_rate)
        warn_of_darkness(photos.trained_on, job.order.data)
        unusual = warn_of_unusual((photos.trained_on, photos.held_out), photos.files)
    textures = method.textures(settings, job.textures) if method.textures else None
    defects = None
    if job.line and method.learns_defects:
        defects = read_defects(job.line.line.defects, spec, settings.grid)
    return Material(photos, unusual, TrainingSet(settings.grid.cut(photos.trained_on), textures, *(defects or ())))
