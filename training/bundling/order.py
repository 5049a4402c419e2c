"""What a bundle is to be, and what of that can be refused before the hours of a training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.folder import require_new
from service.bundle.manifest import NAME_PATTERN, InputSpec, Manifest, ScoreFormula
from service.bundle.signing import load_private_key, sign
from training.bundling.calibration import MOST_ESCAPES
from training.data.folders import DataError, labelled_folder
from training.data.labels import LabelledImage, labelled_images
from training.data.places import require_place
from training.data.reading import require_readable
from training.data.regions import crop_around, keep_mask
from training.data.survey import Survey, survey


@dataclass(frozen=True)
class RecipeOrder:
    """What the bundle is to be: its names, its score, where anomalies count, its thresholds' promise, when it is
    unfit, who signs it.

    `data` is evaluated on where it has a test split. `seed` draws the rendered defects.
    """

    recipe: str
    method: str
    data: Path
    models: Path
    version: str | None = None  # None: the time
    score: ScoreFormula = "paper"
    seed: int = 0
    region: Path | None = None
    ignore: Path | None = None
    min_area: int = 0
    false_reject_rate: float = 0.01
    most_escapes: float = MOST_ESCAPES
    signing_key: Path | None = None

    def spec(self, height: int, width: int) -> InputSpec:
        """What the recipe sees: of a photo the part that holds the region, at this size."""
        return InputSpec(height=height, width=width, crop=crop_around(self.region))

    def require_usable(self, spec: InputSpec) -> Survey:
        """What the end of a training needs, looked at before its hours: names, regions, the key and the test split.

        What there is to learn from and to test on, for people.
        """
        for what, name in (("recipe", self.recipe), ("version", self.version)):
            if name is not None and not re.fullmatch(NAME_PATTERN, name):
                raise DataError(
                    f"{what} {name!r}: take letters, digits, '.', '_' and '-', at most 64, no space"
                    + ("; where nothing names it, it is called as the folder of the photos" if what == "recipe" else "")
                )
        if self.version:
            require_new(self.models, self.recipe, self.version)
        require_place(self.models / self.recipe, "no bundle", "--models")
        self.keep(spec)
        if self.signing_key:
            load_private_key(self.signing_key)
        try:
            labelled = self.labelled()
            require_readable([image.path for image in labelled], "test photos")
            return survey(self.data, labelled)
        except DataError as error:
            good = self.data / "train" / "good"
            if not good.is_dir():
                raise
            raise DataError(f"{error}; or train without an evaluation: --data {good}") from None

    def keep(self, spec: InputSpec) -> NDArray[np.bool_] | None:
        """Where anomalies count in what the recipe sees, `(H, W)`; None: everywhere."""
        return keep_mask(self.region, self.ignore, spec)

    def labelled(self) -> list[LabelledImage]:
        """The labelled images of `data`, where it has a test split."""
        return labelled_images(self.data) if labelled_folder(self.data) else []

    def signed(self, manifest: Manifest) -> Manifest:
        """With the signature of the key, where there is one."""
        return sign(manifest, self.signing_key) if self.signing_key else manifest
