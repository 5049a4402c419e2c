"""Photos that were not trained on, and defects rendered on them: what a bundle is calibrated and accepted with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.backends.base import Scored
from service.bundle.folder import Bundle
from service.bundle.manifest import BundleError, InputSpec, QualityLimits
from service.images.decoding import Pixels, read
from service.images.quality import Quality, learn_limits, measure
from service.images.resizing import fit
from training.data.folders import DataError, good_images, listing, split
from training.data.simulated_defects import KINDS, ImpossibleDefectError, apply, part_masks
from training.evaluation.metrics import stacked
from training.evaluation.parts import Parts
from training.settings import RecipeSettings

_DEFECTIVE = 20  # held-out photos that get a defect of every kind


@dataclass(frozen=True)
class HeldOut:
    """What a recipe of `spec` sees of good photos, with their names; `quality` is that of all good photos."""

    photos: list[Pixels]
    names: list[str]
    quality: list[Quality]
    spec: InputSpec

    @classmethod
    def of(cls, paths: list[Path], spec: InputSpec) -> HeldOut:
        """All of these photos."""
        photos = [fit(read(path), spec) for path in paths]
        return cls(photos, [path.name for path in paths], measure_quality(paths, spec), spec)

    def limits(self) -> QualityLimits:
        """What an image must be like to be judged."""
        return learn_limits(self.quality)

    def parts(self, scored: Sequence[Scored], *, trained_on: bool) -> Parts:
        """For the report."""
        maps, scores = stacked(scored)
        title = "good photos, trained on" if trained_on else "held-out good photos"
        return Parts(title, False, self.names, scores, maps, self.photos.__getitem__)


def measure_quality(paths: list[Path], spec: InputSpec) -> list[Quality]:
    """Image quality of good photos as the service will see them."""
    qualities = []
    for path in tqdm(paths, desc="image quality", unit="img", leave=False):
        photo = read(path)
        qualities.append(measure(photo, fit(photo, spec)))
    return qualities


def photos_sha256(photos: list[Path]) -> str:
    """What a bundle remembers of the photos of its training: the split is drawn again from the same ones only."""
    return hashlib.sha256(listing(photos).encode()).hexdigest()


def split_as_trained(bundle: Bundle, folder: Path) -> tuple[list[Path], list[Path]]:
    """Photos of `folder` that the bundle was trained on and those that it held out.

    Raises BundleError where the manifest does not tell, DataError where the folder holds other photos by now.
    """
    record = bundle.manifest.training
    if record.config is None:
        raise BundleError(f"{bundle.path}: its manifest does not tell which photos were held out")
    photos = good_images(folder)
    if record.photos_sha256 not in (None, photos_sha256(photos)):
        raise DataError(
            f"{folder}: holds other photos than {bundle.path} was trained with, so which were held out is not known: "
            "take the folder as it was, or train again"
        )
    return split(photos, float(str(record.config["holdout"])), int(str(record.config["seed"])))


def split_for_acceptance(bundle: Bundle, folder: Path) -> tuple[list[Path], list[Path], int]:
    """Photos that a lower precision is made with, those that it is accepted on, and the seed of the defects on them.

    Those trained on and those held out; of an import, which was trained on all of them, any: the comparison with its
    own float32 stays a fair one.
    """
    if bundle.manifest.training.calibrated_on_training_photos:
        return *split(good_images(folder), RecipeSettings().holdout, seed=0), 0
    seed = (bundle.manifest.training.config or {}).get("seed", 0)
    return *split_as_trained(bundle, folder), int(str(seed))


class Rendered(NamedTuple):
    """A rendered defect: the image `(H, W, 3)`, what visibly changed `(H, W)`, and the kind."""

    picture: Pixels
    mask: NDArray[np.bool_]
    kind: str


def simulate_defects(photos: list[Pixels], seed: int) -> list[Rendered]:
    """One rendered defect of every kind on each of the first photos: none of them made by the training simulator.

    On the part, where it can be told from the background. A kind that cannot be seen on a photo is left out.
    """
    rng = np.random.default_rng(seed)
    defects = []
    for photo, part in zip(photos[:_DEFECTIVE], part_masks(photos[:_DEFECTIVE]), strict=True):
        for kind in KINDS:
            with suppress(ImpossibleDefectError):
                defects.append(Rendered(*apply(photo, kind, rng, None if kind == "border" else part), kind))
    return defects


def rendered_parts(rendered: Sequence[Rendered], scored: Sequence[Scored]) -> Parts:
    """For the report."""
    maps, scores = stacked(scored)
    return Parts(
        "rendered defects",
        True,
        [f"{one.kind} {number}" for number, one in enumerate(rendered, 1)],
        scores,
        maps,
        lambda index: rendered[index].picture,
        lambda index: rendered[index].mask,
        [one.kind for one in rendered],
    )
