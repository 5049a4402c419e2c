"""Flags of every command that makes a bundle, and the order that they amount to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from training.bundling.calibration import MOST_ESCAPES
from training.bundling.order import RecipeOrder

PHOTOS = "good photos, or a folder in MVTec layout"


class RecipeFlags(BaseModel):
    """Where anomalies count, what the thresholds promise, and who signs."""

    model_config = ConfigDict(frozen=True)

    region: Annotated[
        Path | None,
        Field(description="where anomalies count: PNG (white) or JSON polygons; photos are cropped to it first"),
    ] = None
    ignore: Annotated[Path | None, Field(description="where anomalies do not count: PNG (white) or JSON polygons")] = (
        None
    )
    min_area: Annotated[int, Field(ge=0, description="smallest region that is reported, in pixels of --size")] = 0
    sign: Annotated[Path | None, Field(description="PEM file of an Ed25519 private key to sign the bundle with")] = None
    false_reject_rate: Annotated[
        float, Field(gt=0, lt=1, description="share of good parts that may be rejected, 0.01 is 1 %")
    ] = 0.01
    most_escapes: Annotated[
        float,
        Field(
            ge=0, le=1, description="share of the rendered defects that may pass as OK; beyond it the recipe is unfit"
        ),
    ] = MOST_ESCAPES

    def order(self, **names: Any) -> RecipeOrder:
        """What the bundle is to be; the rest of its fields by name."""
        return RecipeOrder(
            region=self.region,
            ignore=self.ignore,
            min_area=self.min_area,
            signing_key=self.sign,
            false_reject_rate=self.false_reject_rate,
            most_escapes=self.most_escapes,
            **names,
        )


class RetryFlags(BaseModel):
    """What becomes of a recipe that is unfit."""

    model_config = ConfigDict(frozen=True)

    retries: Annotated[
        int, Field(ge=0, le=5, description="trainings more, each with the next seed, while the recipe is unfit")
    ] = 1


class PlaceFlags(BaseModel):
    """Where a bundle goes."""

    model_config = ConfigDict(frozen=True)

    version: Annotated[str | None, Field(description="version of the bundle; without it the time")] = None
    models: Annotated[Path, Field(description="folder of the bundles")] = Path("models")
