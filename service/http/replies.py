"""What the service answers with: the models of the replies, and how they are made."""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic_core import to_json

from service.bundle.manifest import Crop, Precision, QualityLimits
from service.http.identifiers import identifier_header
from service.images.cropping import box_of
from service.images.heatmap import Region
from service.station.ids import new_id
from service.station.inspection import Heatmap, Inspection
from service.station.loading import Recipe
from service.station.verdicts import Verdict


class ThresholdsReply(BaseModel):
    review: float
    reject: float
    pixel: float
    min_area: int


class LimitsReply(BaseModel):
    """Whose limits are in force: the manifest's, or changed ones, since when and by whom; `sha256` is of the values."""

    source: Literal["manifest", "changed"]
    sha256: str
    changed: str | None = None
    by: str | None = None


class BackendReply(BaseModel):
    name: str
    provider: str
    precision: Precision


class BoxReply(BaseModel):
    x: int
    y: int
    width: int
    height: int


class HeatmapReply(BaseModel):
    format: Literal["overlay", "map", "npy"]
    media_type: str
    data: str  # base64


_EXAMPLE: dict[str, JsonValue] = {
    "inspection_id": "0b6f1f5e-3f0a-4f0e-9a55-0d2f2a6c9a11",
    "request_id": "line-4.17",
    "part_id": "A 17",
    "camera_id": "line 3",
    "recipe": "demo",
    "version": "1",
    "model_sha256": "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8",
    "verdict": "NG",
    "score": 0.55,
    "faults": [],
    "thresholds": {"review": 0.11, "reject": 0.13, "pixel": 0.5, "min_area": 0},
    "limits": {
        "source": "changed",
        "sha256": "9b74c9897bac770ffc029102a200c5de5ee6c1e7bb8bfa0c64a0f2d2b1e0a1a7",
        "changed": "2026-01-02T12:00:00+00:00",
        "by": "Ada from quality",
    },
    "inspected": {"x": 96, "y": 64, "width": 320, "height": 256},
    "regions": [{"x": 126, "y": 101, "width": 41, "height": 56, "area": 1456, "peak": 0.55}],
    "image_size": [256, 256],
    "heatmap": {"format": "overlay", "media_type": "image/png", "data": "iVBORw0KGgo="},
    "backend": {"name": "onnxruntime", "provider": "CPUExecutionProvider", "precision": "fp32"},
    "timings_ms": {"read": 0.4, "decode": 0.6, "quality": 0.2, "queue": 0.5, "model": 18.3, "postprocess": 0.4},
    "replayed": False,
}


class InspectionReply(BaseModel):
    """Regions are in pixels of the sent image, whose size is height and width, and so is what was `inspected` of it,
    null where all was; times in milliseconds by stage; `faults` of the image, if any.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    inspection_id: str
    request_id: str
    part_id: str | None
    camera_id: str | None
    recipe: str
    version: str
    model_sha256: str
    verdict: Verdict
    score: float
    faults: list[str]
    thresholds: ThresholdsReply
    limits: LimitsReply
    inspected: BoxReply | None = None
    regions: list[Region]
    image_size: tuple[int, int]
    heatmap: HeatmapReply | None
    backend: BackendReply
    timings_ms: dict[str, float]
    replayed: bool = False


class CalibrationReply(BaseModel):
    """What the version's thresholds did on the parts that they were tried on; the intervals are of 95 %."""

    good_images: int
    false_rejects: int
    false_reject_interval: tuple[float, float]
    defect_images: int
    defect_source: Literal["none", "simulated", "labelled"]
    escapes: int
    escape_interval: tuple[float, float]
    warning: str | None


class CollectingReply(BaseModel):
    """Photos that are kept for the first training of a recipe; None where the records cannot be read."""

    photos: int | None
    since: str
    by: str


class RecipeReply(BaseModel):
    """A recipe, and what its folder holds: `newer` are versions that serve when they are activated, `faulty` those that
    cannot, with the reason, `ignored` other folders; `why` says who chose the version that serves, `shadow` is the
    version that sees the same without a say; `crop` is the part of the photo that is inspected, in shares of its width
    and height.
    """

    recipe: str
    default: bool = False
    versions: list[str] = []
    newer: list[str] = []
    faulty: dict[str, str] = {}
    ignored: dict[str, str] = {}
    ready: bool
    reason: str | None = None
    unfit: str | None = None
    version: str | None = None
    why: str | None = None
    shadow: str | None = None
    collecting: CollectingReply | None = None
    model_sha256: str | None = None
    thresholds: ThresholdsReply | None = None
    quality: QualityLimits | None = None
    limits: LimitsReply | None = None
    calibration: CalibrationReply | None = None
    keep_mask: bool = False
    crop: Crop | None = None
    golden_images: int = 0
    golden_checked: str | None = None


def inspection_reply(
    inspection: Inspection, request_id: str, part_id: str | None, camera_id: str | None
) -> dict[str, Any]:
    """What an InspectionReply says, as JSON values: making a model of each costs as much as the rest of the answer."""
    recipe, picture = inspection.recipe, inspection.heatmap
    backend = recipe.model.backend
    crop = recipe.bundle.manifest.input.crop
    return {
        "inspection_id": new_id(),
        "request_id": request_id,
        "part_id": part_id,
        "camera_id": camera_id,
        "recipe": recipe.name,
        "version": recipe.version,
        "model_sha256": recipe.model_sha256,
        "verdict": str(inspection.verdict),
        "score": inspection.score,
        "faults": inspection.faults,
        "thresholds": _thresholds(recipe),
        "limits": _limits(recipe),
        "inspected": None if crop is None else dict(vars(box_of(crop, inspection.image_size))),
        "regions": [dict(vars(region)) for region in inspection.regions],
        "image_size": list(inspection.image_size),
        "heatmap": None
        if picture is None
        else {
            "format": picture.format,
            "media_type": picture.media_type,
            "data": base64.b64encode(picture.data).decode(),
        },
        "backend": {"name": backend.name, "provider": backend.provider, "precision": backend.precision},
        "timings_ms": {stage: round(1000 * value, 3) for stage, value in inspection.seconds.items()},
        "replayed": False,
    }


def stored(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply as it is kept: without its image."""
    return reply | {"heatmap": None}


# The names of numbers that JSON has not.
_NO_NUMBERS = (b"NaN", b"Infinity")


def as_json(reply: object) -> bytes:
    """Replies as JSON; raises ValueError for a number that JSON has not."""
    text = to_json(reply)
    # A name that a client gave may have the word in it: Python's encoder, which takes three times as long, can tell.
    if any(word in text for word in _NO_NUMBERS):
        return json.dumps(reply, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    return text


def json_reply(reply: dict[str, Any]) -> Response:
    return Response(as_json(reply), media_type="application/json", headers=_result_headers(reply))


def picture_reply(reply: dict[str, Any], picture: Heatmap | None) -> Response:
    if picture is None:
        raise ValueError("an image was asked for and none was drawn")
    return Response(picture.data, media_type=picture.media_type, headers=_result_headers(reply))


def replay(reply: dict[str, Any]) -> Response:
    """A stored reply as the answer to the same trigger: JSON, whatever the first one was, and marked."""
    headers = _result_headers(reply) | {"X-Replayed": "true"}
    return Response(as_json(reply | {"replayed": True}), media_type="application/json", headers=headers)


def _result_headers(reply: dict[str, Any]) -> dict[str, str]:
    headers = {
        "X-Verdict": reply["verdict"],
        "X-Inspection-Id": reply["inspection_id"],
        "X-Score": f"{reply['score']:.6f}",
        "X-Recipe": reply["recipe"],
        "X-Recipe-Version": reply["version"],
        "X-Model-Sha256": reply["model_sha256"],
        "X-Limits": reply["limits"]["source"],
        "X-Thresholds": "; ".join(f"{name}={value:g}" for name, value in reply["thresholds"].items()),
        "X-Faults": "; ".join(fault.split(":")[0] for fault in reply["faults"]),
        "X-Regions": str(len(reply["regions"])),
        "X-Backend": " ".join(reply["backend"].values()),
        "Server-Timing": ", ".join(f"{stage};dur={value:.3f}" for stage, value in reply["timings_ms"].items()),
    }
    for name, header in (("part_id", "X-Part-Id"), ("camera_id", "X-Camera-Id")):
        if value := reply.get(name):
            headers[header] = identifier_header(value)
    return headers


def recipe_reply(recipe: Recipe) -> RecipeReply:
    return RecipeReply(
        recipe=recipe.name,
        ready=recipe.model.failures == 0,
        version=recipe.version,
        unfit=recipe.bundle.manifest.unfit,
        why=recipe.why or None,
        model_sha256=recipe.model_sha256,
        thresholds=thresholds_reply(recipe),
        quality=recipe.limits.quality,
        limits=limits_reply(recipe),
        calibration=CalibrationReply.model_validate(
            recipe.bundle.manifest.thresholds.calibration, from_attributes=True
        ),
        keep_mask=recipe.bundle.manifest.keep_mask is not None,
        crop=recipe.bundle.manifest.input.crop,
        golden_images=len(recipe.bundle.manifest.golden),
        golden_checked=recipe.checked.isoformat(timespec="seconds"),
    )


def thresholds_reply(recipe: Recipe) -> ThresholdsReply:
    return ThresholdsReply.model_validate(_thresholds(recipe))


def limits_reply(recipe: Recipe) -> LimitsReply:
    return LimitsReply.model_validate(_limits(recipe))


def _thresholds(recipe: Recipe) -> dict[str, Any]:
    limits = recipe.limits.thresholds
    return {"review": limits.review, "reject": limits.reject, "pixel": limits.pixel, "min_area": limits.min_area}


def _limits(recipe: Recipe) -> dict[str, Any]:
    change, sha256 = recipe.limits.change, recipe.limits.sha256
    if change is None:
        return {"source": "manifest", "sha256": sha256, "changed": None, "by": None}
    changed = change.changed.isoformat(timespec="seconds")
    return {"source": "changed", "sha256": sha256, "changed": changed, "by": change.by}


def backend_reply(recipe: Recipe) -> BackendReply:
    backend = recipe.model.backend
    return BackendReply(name=backend.name, provider=backend.provider, precision=backend.precision)
