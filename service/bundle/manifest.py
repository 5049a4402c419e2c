"""The manifest: what a bundle says of itself. An unknown field or a wrong type is refused."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# A manifest holds a score a held-out photo and two lines a file: a thousand times less than this.
MOST_BYTES = 32 * 1024 * 1024

# How an image gets to the size of the network; service.images.resizing has both.
Kernel = Literal["area", "linear"]
# bf16 is not a file of its own: a runtime that can rounds the fp32 graph as it goes.
Precision = Literal["fp32", "fp16", "bf16", "int8"]
# How the graph makes its score of its map; training.bundling.scores has the formulas.
ScoreFormula = Literal["paper", "mean", "windows", "top", "peak"]
# What a score alone says, rising.
Band = Literal["OK", "REVIEW", "NG"]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
UnitInterval = Annotated[float, Field(ge=0.0, le=1.0)]


class BundleError(Exception):
    """The bundle cannot be used; the message names the file and the reason."""


def _relative_inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ".." in parts or path == MANIFEST:
        raise ValueError(f"{path!r} is not a path inside the bundle")
    return path


FilePath = Annotated[str, AfterValidator(_relative_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FileEntry(_Strict):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Crop(_Strict):
    """The part of the photo that is inspected, in shares of its width and height: whatever the camera's resolution."""

    left: UnitInterval
    top: UnitInterval
    width: Annotated[float, Field(gt=0.0, le=1.0)]
    height: Annotated[float, Field(gt=0.0, le=1.0)]

    @model_validator(mode="after")
    def _inside(self) -> Crop:
        # Shares of pixels add up to 1 but for their rounding.
        if max(self.left + self.width, self.top + self.height) > 1 + 1e-9:
            raise ValueError("the crop reaches beyond the photo")
        return self


class InputSpec(_Strict):
    """What the graph's `image` input expects; `service.images.resizing.fit` crops and resizes anything else to it."""

    height: Annotated[int, Field(ge=32, le=4096)]
    width: Annotated[int, Field(ge=32, le=4096)]
    interpolation: Kernel = "area"
    color: Literal["RGB"] = "RGB"
    crop: Crop | None = None  # None: the whole photo, as in all bundles made before there were crops


class Calibration(_Strict):
    """How the thresholds were found: `false_rejects` of `good_images` held-out good parts score at or above reject.

    `false_reject_interval` is the exact two-sided 95 % Clopper-Pearson interval of that rate; the escape fields are the
    same for defects that score below review, where labelled or simulated defects were at hand. `good_scores` are the
    held-out good parts' scores, sorted: what drift is measured against.
    """

    target_false_reject_rate: UnitInterval
    good_images: Annotated[int, Field(ge=0)]
    false_rejects: Annotated[int, Field(ge=0)]
    false_reject_interval: tuple[UnitInterval, UnitInterval]
    defect_images: Annotated[int, Field(ge=0)] = 0
    defect_source: Literal["none", "simulated", "labelled"] = "none"
    escapes: Annotated[int, Field(ge=0)] = 0
    escape_interval: tuple[UnitInterval, UnitInterval] = (0.0, 1.0)
    good_scores: list[UnitInterval] = []
    warning: str | None = None


class QualityLimits(_Strict):
    """What an image must be like to be judged; `service.images.quality` measures it and learns it from good photos."""

    sharpness_min: Annotated[float, Field(ge=0.0)]
    contrast_min: Annotated[float, Field(ge=0.0)]
    brightness_min: Annotated[float, Field(ge=0.0, le=255.0)]
    brightness_max: Annotated[float, Field(ge=0.0, le=255.0)]
    dark_max: UnitInterval
    bright_max: UnitInterval
    aspect_min: Annotated[float, Field(gt=0.0)]
    aspect_max: Annotated[float, Field(gt=0.0)]


class Thresholds(_Strict):
    """score < review is OK, review <= score < reject is REVIEW, score >= reject is NG; `pixel` cuts regions."""

    review: UnitInterval
    reject: UnitInterval
    pixel: UnitInterval
    min_area: Annotated[int, Field(ge=0)] = 0  # regions of fewer pixels, at the input size, are not reported
    calibration: Calibration

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        if self.review > self.reject:
            raise ValueError(f"thresholds.review {self.review} is above thresholds.reject {self.reject}")
        return self

    def band(self, score: float) -> Band:
        """Where a score lies, the one place that decides it; whether there is a verdict is for `judge` to say.

        A score that is not a number is in no band below NG.
        """
        if score < self.review:
            return "OK"
        return "REVIEW" if score < self.reject else "NG"


class GoldenImage(_Strict):
    image: FilePath
    anomaly_map: FilePath
    score: UnitInterval


class Tolerance(_Strict):
    """Largest absolute difference from the golden values that a backend may show."""

    score: Annotated[float, Field(gt=0.0, le=0.1)]
    anomaly_map: Annotated[float, Field(gt=0.0, le=0.5)]


class PeakMemory(_Strict):
    """Most MiB that a training held: of the process, and on its GPU."""

    resident: Annotated[int, Field(ge=0)]
    gpu: Annotated[int, Field(ge=0)]


class UnusualPhoto(_Strict):
    """A good photo unlike the others, and where most: shares of width and height."""

    photo: str
    deviations: float
    x: float
    y: float


class OutlyingPhoto(_Strict):
    """A good photo that the trained network scores far above the others that were trained on, or held out, like it."""

    photo: str
    score: float


class Pretrained(_Strict):
    """Weights that came from elsewhere and are in the graph: their licence is the recipe's too."""

    name: str
    origin: str
    licence: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class UnfitAttempt(_Strict):
    """A training before this one, with another seed, that gave a version unfit for service."""

    version: Name
    seed: int
    unfit: str


class TrainingRecord(_Strict):
    """How the network came to be: trained with `config`, the settings of the manifest's method, or imported.

    Only the method knows what its settings mean; the service keeps them as they are. Each lower precision has the
    figures that it was accepted with. Nothing acts on the record, so a field of another release is kept, not refused.
    """

    model_config = ConfigDict(extra="allow")

    config: dict[str, JsonValue] | None = None
    imported: list[str] | None = None
    calibrated_on_training_photos: bool = False
    good_photos: int | None = None
    photos_sha256: str | None = None
    # Inspections of the line whose images were learned from: they say nothing about what was learned.
    line_parts: list[str] | None = None
    textures: int | Literal["procedural"] | None = None
    pretrained: Pretrained | None = None
    device: str | None = None
    processes: int | None = None
    threads: int | None = None
    minutes: float | None = None
    peak_memory_mib: PeakMemory | None = None
    unusual_photos: list[UnusualPhoto] | None = None
    outlying_scores: list[OutlyingPhoto] | None = None
    after: list[UnfitAttempt] | None = None
    export_parity: float | None = None
    torch: str | None = None
    int8: dict[str, JsonValue] | None = None
    bf16: dict[str, JsonValue] | None = None
    fp16: dict[str, JsonValue] | None = None


class Manifest(_Strict):
    format_version: Literal[1]
    recipe: Name
    version: Name
    method: Name
    created: datetime
    git_revision: str | None
    input: InputSpec
    score_formula: ScoreFormula
    thresholds: Thresholds
    quality: QualityLimits
    models: Annotated[dict[Precision, FilePath], Field(min_length=1)]
    opset: Annotated[int, Field(ge=17)]
    keep_mask: FilePath | None = None  # image of where anomalies count; it is inside the graph already
    golden: Annotated[list[GoldenImage], Field(min_length=1)]
    tolerances: dict[Precision, Tolerance]
    metrics: dict[str, JsonValue] | None = None
    unfit: Annotated[str, Field(min_length=1)] | None = (
        None  # why no part should be judged by it; the service serves it only where told to
    )
    training: TrainingRecord = TrainingRecord()
    signature: str | None = None  # Ed25519 over the rest of the manifest, base64; see service.bundle.signing
    files: dict[FilePath, FileEntry]

    @property
    def created_utc(self) -> datetime:
        """The instant of `created`; one without a time zone, as early manifests may have it, is read as UTC."""
        return self.created.replace(tzinfo=UTC) if self.created.tzinfo is None else self.created.astimezone(UTC)

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        named = {*self.models.values(), *(f for g in self.golden for f in (g.image, g.anomaly_map))}
        named |= {self.keep_mask} if self.keep_mask else set()
        if missing := sorted(named - self.files.keys()):
            raise ValueError(f"no sha256 for {', '.join(missing)}")
        if without := sorted(self.models.keys() - self.tolerances.keys()):
            raise ValueError(f"no golden tolerance for precision {', '.join(without)}")
        folded: dict[str, str] = {}
        for name in self.files:
            if (other := folded.setdefault(name.casefold(), name)) != name:
                raise ValueError(f"{other} and {name} are one file where case makes no difference")
        return self


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; raises BundleError, with `where` in front, for anything but one sound JSON object."""
    if len(data) > MOST_BYTES:
        raise BundleError(f"{where}: {len(data)} bytes: no manifest is longer than {MOST_BYTES}")
    try:
        # First, for it bounds how deep the JSON may be nested.
        manifest = Manifest.model_validate_json(data)
        require_strict_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "manifest"
        if place == "format_version" and first["type"] == "literal_error":
            raise BundleError(
                f"{where}: format_version {repr(first['input'])[:20]}: this service reads {FORMAT_VERSION}: serve "
                "the bundle with a release that knows it, or train again with this one"
            ) from error
        raise BundleError(f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: {error}") from error
    return manifest


def require_strict_json(data: bytes) -> None:
    """Raises ValueError where a name stands twice in an object, one of them passed over, or a number is none."""
    json.loads(data, object_pairs_hook=_without_repeats, parse_constant=_no_number, parse_float=_finite)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is too large")
    return value
