"""What the service answers with: the models of the replies, and how they are made."""

from __future__ import annotations

import base64
import re
import uuid
from typing import Literal

from fastapi import Response
from pydantic import BaseModel

from service.bundle import Precision
from service.heatmap import Region
from service.inspection import Inspection
from service.recipes import Recipe
from service.verdicts import Verdict

_PRINTABLE = re.compile(r"[\x21-\x7e]{1,128}")


class ThresholdsReply(BaseModel):
    review: float
    reject: float
    pixel: float


class BackendReply(BaseModel):
    name: str
    provider: str
    precision: Precision


class HeatmapReply(BaseModel):
    format: Literal["overlay", "map", "npy"]
    media_type: str
    data: str  # base64


class InspectionReply(BaseModel):
    """Regions are in pixels of the sent image; times in milliseconds by stage; `faults` of the picture, if any."""

    inspection_id: str
    request_id: str
    part_id: str | None
    recipe: str
    version: str
    model_sha256: str
    verdict: Verdict
    score: float
    faults: list[str]
    thresholds: ThresholdsReply
    regions: list[Region]
    heatmap: HeatmapReply | None
    backend: BackendReply
    timings_ms: dict[str, float]


class RecipeReply(BaseModel):
    recipe: str
    versions: list[str] = []
    ready: bool
    reason: str | None = None
    version: str | None = None
    model_sha256: str | None = None
    thresholds: ThresholdsReply | None = None
    golden_images: int = 0
    golden_checked: str | None = None


def inspection_reply(inspection: Inspection, request_id: str, part_id: str | None) -> InspectionReply:
    recipe, picture = inspection.recipe, inspection.heatmap
    return InspectionReply(
        inspection_id=str(uuid.uuid4()),
        request_id=request_id,
        part_id=part_id,
        recipe=recipe.name,
        version=recipe.version,
        model_sha256=recipe.model_sha256,
        verdict=inspection.verdict,
        score=inspection.score,
        faults=inspection.faults,
        thresholds=thresholds_reply(recipe),
        regions=inspection.regions,
        heatmap=None
        if picture is None
        else HeatmapReply(
            format=picture.format, media_type=picture.media_type, data=base64.b64encode(picture.data).decode()
        ),
        backend=backend_reply(recipe),
        timings_ms={stage: round(1000 * value, 3) for stage, value in inspection.seconds.items()},
    )


def json_reply(reply: InspectionReply, inspection: Inspection) -> Response:
    return Response(reply.model_dump_json(), media_type="application/json", headers=_result_headers(inspection))


def picture_reply(inspection: Inspection, part_id: str | None) -> Response:
    if inspection.heatmap is None:
        raise ValueError("a picture was asked for and none was drawn")
    headers = _result_headers(inspection)
    if part_id and _PRINTABLE.fullmatch(part_id):
        headers["X-Part-Id"] = part_id
    return Response(inspection.heatmap.data, media_type=inspection.heatmap.media_type, headers=headers)


def _result_headers(inspection: Inspection) -> dict[str, str]:
    recipe = inspection.recipe
    return {
        "X-Verdict": str(inspection.verdict),
        "X-Score": f"{inspection.score:.6f}",
        "X-Recipe": recipe.name,
        "X-Recipe-Version": recipe.version,
        "X-Model-Sha256": recipe.model_sha256,
        "Server-Timing": ", ".join(f"{stage};dur={1000 * value:.3f}" for stage, value in inspection.seconds.items()),
    }


def recipe_reply(recipe: Recipe) -> RecipeReply:
    return RecipeReply(
        recipe=recipe.name,
        ready=recipe.model.failures == 0,
        version=recipe.version,
        model_sha256=recipe.model_sha256,
        thresholds=thresholds_reply(recipe),
        golden_images=len(recipe.bundle.manifest.golden),
        golden_checked=recipe.checked.isoformat(timespec="seconds"),
    )


def thresholds_reply(recipe: Recipe) -> ThresholdsReply:
    thresholds = recipe.bundle.manifest.thresholds
    return ThresholdsReply(review=thresholds.review, reject=thresholds.reject, pixel=thresholds.pixel)


def backend_reply(recipe: Recipe) -> BackendReply:
    backend = recipe.model.backend
    return BackendReply(name=backend.name, provider=backend.provider, precision=backend.precision)
