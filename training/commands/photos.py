"""The photos of a training: drawn into trained on and held out, read, and looked at for what may spoil it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from service.bundle.manifest import InputSpec, OutlyingPhoto, UnusualPhoto
from service.images.decoding import Pixels
from training.bundling.calibration import photos_needed
from training.bundling.graph import InspectionGraph, score_with_torch
from training.bundling.held_out import HeldOut, measure_quality, photos_sha256, simulate_defects
from training.bundling.order import RecipeOrder
from training.data.contamination import outlying_scores, unusual_photos
from training.data.folders import split
from training.data.reading import load_photos
from training.data.survey import Survey
from training.evaluation.metrics import stacked
from training.settings import RecipeSettings

_NEARLY_BLACK = 32  # of 255


@dataclass(frozen=True)
class Photos:
    """Files of good photos, and what the recipe sees of them, uint8 `(N, 3, H, W)`: trained on and held out."""

    all_files: list[Path]
    trained_on_files: list[Path]
    held_out_files: list[Path]
    trained_on: Tensor
    held_out: Tensor
    spec: InputSpec

    @property
    def files(self) -> list[Path]:
        return [*self.trained_on_files, *self.held_out_files]

    @property
    def sha256(self) -> str:
        return photos_sha256(self.all_files)

    def rendered(self, photos: int, seed: int) -> Tensor:
        """Defects on so many of the held-out photos, uint8 `(N, 3, H, W)`."""
        drawn = simulate_defects(_pixels(self.held_out[:photos]), seed)
        if not drawn:
            return self.held_out[:0]
        return torch.from_numpy(np.stack([one.picture for one in drawn])).permute(0, 3, 1, 2)

    def for_thresholds(self) -> HeldOut:
        names = [file.name for file in self.held_out_files]
        return HeldOut(_pixels(self.held_out), names, measure_quality(self.all_files, self.spec), self.spec)


def read_photos(files: list[Path], settings: RecipeSettings, spec: InputSpec) -> Photos:
    trained_on, held_out = split(files, settings.holdout, settings.seed)
    return Photos(
        files,
        trained_on,
        held_out,
        load_photos(trained_on, spec, "good photos"),
        load_photos(held_out, spec, "held-out photos"),
        spec,
    )


def warn_of_darkness(photos: Tensor, folder: Path) -> None:
    """Warn where no photo has a pixel that is not nearly black."""
    brightest = int(photos.max())
    if brightest < _NEARLY_BLACK:
        print(
            f"warning: {folder}: no pixel is brighter than {brightest} of 255; 16-bit files whose samples have 10 or "
            "12 bits look like this: multiply the samples up to 16 bits, in the camera's images too",
            file=sys.stderr,
        )


def tell_survey(found: Survey) -> None:
    """Print what there is to learn from and to test on, and what looks wrong about it."""
    print("\n".join(found.counts))
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def warn_of_few(held_out: int, false_reject_rate: float) -> None:
    """Warn, before the training, of fewer held-out photos than the promised false-reject rate needs."""
    needed = photos_needed(false_reject_rate)
    if held_out < needed:
        print(
            f"warning: {held_out} held-out photos: a false-reject rate of {false_reject_rate:.3g} takes {needed}; the "
            "thresholds will be extrapolated. Take more photos, a larger --holdout or a larger --false-reject-rate",
            file=sys.stderr,
        )


def warn_of_unusual(photos: Sequence[Tensor], paths: list[Path]) -> list[UnusualPhoto]:
    """Warn of photos unlike the others, before anything is trained on them; what the manifest keeps of it."""
    found = unusual_photos(*photos)
    height, width = photos[0].shape[2:]
    for one in found:
        print(
            f"warning: look at {paths[one.index]}: {one.deviations:.1f} deviations from the other good photos, most at "
            f"x {one.x * width:.0f}, y {one.y * height:.0f} of {width}x{height}; train without it if it shows a defect",
            file=sys.stderr,
        )
    return [
        UnusualPhoto(photo=paths[one.index].name, deviations=round(one.deviations, 1), x=one.x, y=one.y)
        for one in found
    ]


def warn_of_outlying(network: nn.Module, photos: Photos, order: RecipeOrder) -> list[OutlyingPhoto]:
    """Warn of good photos that the trained network scores far above the others; what the manifest keeps of it.

    Photos trained on and photos held out are told apart among their own: a network scores what it has learned lower,
    so that held-out photos would stand out for that. Of fewer than eight of a kind nothing is said.
    """
    graph = InspectionGraph(network, order.keep(photos.spec), order.score).eval()
    _, scores = stacked(score_with_torch(graph, _pixels(photos.trained_on) + _pixels(photos.held_out)))
    usual = {
        int(group[i]): float(np.median(scores[group]))
        for group in np.split(np.arange(len(scores)), [len(photos.trained_on)])
        for i in outlying_scores(scores[group])
    }
    found = sorted(usual, key=lambda i: -scores[i])
    files = photos.files
    for i in found:
        others = "the other photos trained on" if i < len(photos.trained_on) else "the other held-out photos"
        print(
            f"warning: look at {files[i]}: it scores {scores[i]:.3f}, {others} about {usual[i]:.3f}; train again "
            "without it if it shows a defect",
            file=sys.stderr,
        )
    return [OutlyingPhoto(photo=files[i].name, score=round(float(scores[i]), 4)) for i in found]


def _pixels(photos: Tensor) -> list[Pixels]:
    return list(np.ascontiguousarray(photos.permute(0, 2, 3, 1).numpy()))
