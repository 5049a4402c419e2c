"""HTTP: requests to inspections, inspections to replies."""

from __future__ import annotations

import asyncio
import base64
import re
import time
import uuid
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from service.batching import Batcher
from service.bundle import Precision
from service.inspection import HeatmapMode, Inspection, Inspector
from service.monitoring import Metrics
from service.problems import ProblemError, openapi_responses
from service.recipes import Recipe, RecipeNotReadyError, RecipeStore, UnknownRecipeError
from service.settings import Settings
from service.uploads import FIELD, RAW_TYPES, read_image
from service.verdicts import Verdict

PAGE = Path(__file__).parent / "web" / "index.html"
_PRINTABLE = re.compile(r"[\x21-\x7e]{1,128}")

router = APIRouter()


@dataclass
class Station:
    """What the routes need; made and closed by the app's lifespan."""

    settings: Settings
    metrics: Metrics
    batcher: Batcher
    recipes: RecipeStore
    inspector: Inspector
    draining: bool = False


class ThresholdsReply(BaseModel):
    review: float
    reject: float
    pixel: float


class RegionReply(BaseModel):
    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


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
    regions: list[RegionReply]
    heatmap: HeatmapReply | None
    backend: BackendReply
    timings_ms: dict[str, float]


class RecipeReply(BaseModel):
    recipe: str
    ready: bool
    reason: str | None = None
    version: str | None = None
    model_sha256: str | None = None
    thresholds: ThresholdsReply | None = None
    golden_images: int = 0
    golden_checked: str | None = None


_IMAGE = {"type": "string", "format": "binary"}
_REQUEST_BODY = {
    "required": True,
    "content": {
        **{media_type: {"schema": _IMAGE} for media_type in RAW_TYPES},
        "multipart/form-data": {
            "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _IMAGE}},
        },
    },
}


@router.post(
    "/inspect",
    response_model=InspectionReply,
    responses=dict(openapi_responses()),
    openapi_extra={"requestBody": _REQUEST_BODY},
)
async def inspect(
    request: Request,
    recipe: Annotated[str | None, Query(description="recipe; may be left out where there is one or a default")] = None,
    heatmap: Annotated[
        Literal["none", "auto", "overlay", "map", "npy"],
        Query(description="picture in the reply; auto: overlay for REVIEW and NG"),
    ] = "none",
    x_deadline_ms: Annotated[float | None, Header(gt=0, le=600_000, description="time this request may take")] = None,
    x_part_id: Annotated[str | None, Header(max_length=128, description="comes back in the reply")] = None,
    x_camera_id: Annotated[
        str | None, Header(max_length=64, description="who sends; the same picture twice from one camera is frozen")
    ] = None,
) -> Response:
    """Verdict, score and regions of one image.

    With `Accept: image/png` or `image/jpeg` the reply is the overlay picture itself, the result in `X-` headers.
    """
    started = time.monotonic()
    station = station_of(request)
    if station.draining:
        raise ProblemError("draining", "the service is shutting down: send it to another", retry_after_s=1.0)
    deadline = started + (x_deadline_ms or station.settings.deadline_ms) / 1000
    chosen = _choose(station, recipe)
    picture = _wanted_picture(request)
    mode: HeatmapMode = {"png": "overlay", "jpeg": "jpeg"}[picture] if picture else heatmap  # type: ignore[assignment]
    data = await read_image(request, station.settings.max_upload_bytes)
    work = station.inspector.inspect(data, chosen, mode, camera=x_camera_id, started=started, deadline=deadline)
    inspection = await _unless_disconnected(request, work)
    return _picture_reply(inspection, x_part_id) if picture else _json_reply(inspection, request, x_part_id)


@router.get("/recipes")
async def recipes(request: Request) -> list[RecipeReply]:
    """Every recipe found, ready or not."""
    store = station_of(request).recipes
    ready = [_recipe_reply(recipe) for recipe in store.ready.values()]
    failed = [RecipeReply(recipe=name, ready=False, reason=reason) for name, reason in store.failed.items()]
    return sorted(ready + failed, key=lambda reply: reply.recipe)


@router.get("/recipes/{recipe}/golden/{index}.png", response_class=FileResponse, responses=dict(openapi_responses()))
async def golden_image(request: Request, recipe: str, index: int) -> FileResponse:
    """A golden image of the recipe: something to try it on."""
    bundle = _choose(station_of(request), recipe).bundle
    if not 0 <= index < len(bundle.manifest.golden):
        raise ProblemError("not_found", f"recipe {recipe!r} has golden images 0 to {len(bundle.manifest.golden) - 1}")
    return FileResponse(bundle.file(bundle.manifest.golden[index].image), media_type="image/png")


@router.get("/livez")
async def livez() -> dict[str, str]:
    """200 while the process can answer at all."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """200 when images can be inspected; 503 with the reason otherwise."""
    reason = why_not_ready(station_of(request))
    return JSONResponse({"status": "not ready" if reason else "ready", "reason": reason}, 503 if reason else 200)


@router.get("/state")
async def state(request: Request) -> JSONResponse:
    """What was asked for and what runs: settings, recipes, backend, queue."""
    station = station_of(request)
    return JSONResponse(
        {
            "ready": why_not_ready(station) is None,
            "requested_backend": station.settings.backend,
            "queue_depth": station.batcher.depth,
            "recipes": [
                {
                    **_recipe_reply(recipe).model_dump(exclude_none=True),
                    "backend": _backend_reply(recipe).model_dump(),
                    "ms_per_image": round(1000 * recipe.model.seconds_per_image, 3),
                    "failures_in_a_row": recipe.model.failures,
                }
                for recipe in station.recipes.ready.values()
            ],
            "failed": station.recipes.failed,
        }
    )


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    station = station_of(request)
    station.metrics.queue_depth.set(station.batcher.depth)
    station.metrics.ready.set(why_not_ready(station) is None)
    return Response(generate_latest(station.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The operator's page."""
    return FileResponse(PAGE, media_type="text/html")


def station_of(request: Request) -> Station:
    station: Station = request.state.station
    return station


def why_not_ready(station: Station) -> str | None:
    return "shutting down" if station.draining else station.recipes.why_not_ready()


def _choose(station: Station, name: str | None) -> Recipe:
    if not station.recipes.loaded:
        raise ProblemError("starting", "recipes are being loaded and checked", retry_after_s=1.0)
    try:
        return station.recipes.get(name)
    except UnknownRecipeError as error:
        raise ProblemError("unknown_recipe", str(error)) from error
    except RecipeNotReadyError as error:
        raise ProblemError("recipe_not_ready", str(error)) from error


def _wanted_picture(request: Request) -> Literal["png", "jpeg"] | None:
    accepted = request.headers.get("accept", "")
    if accepted.startswith("image/png"):
        return "png"
    return "jpeg" if accepted.startswith("image/jpeg") else None


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, Inspection]) -> Inspection:
    """The inspection, cancelled as soon as the client goes away: nobody waits for its result."""
    inspection = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({inspection, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not inspection.done():
            raise ProblemError("client_disconnected", "the client went away before the result")
        return inspection.result()
    finally:
        gone.cancel()
        inspection.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json_reply(inspection: Inspection, request: Request, part_id: str | None) -> Response:
    recipe, picture = inspection.recipe, inspection.heatmap
    reply = InspectionReply(
        inspection_id=str(uuid.uuid4()),
        request_id=request.state.request_id,
        part_id=part_id,
        recipe=recipe.name,
        version=recipe.version,
        model_sha256=recipe.model_sha256,
        verdict=inspection.verdict,
        score=inspection.score,
        faults=inspection.faults,
        thresholds=_thresholds_reply(recipe),
        regions=[RegionReply(**asdict(region)) for region in inspection.regions],
        heatmap=None
        if picture is None
        else HeatmapReply(
            format=picture.format, media_type=picture.media_type, data=base64.b64encode(picture.data).decode()
        ),
        backend=_backend_reply(recipe),
        timings_ms={stage: round(1000 * value, 3) for stage, value in inspection.seconds.items()},
    )
    return Response(reply.model_dump_json(), media_type="application/json", headers=_result_headers(inspection))


def _picture_reply(inspection: Inspection, part_id: str | None) -> Response:
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


def _recipe_reply(recipe: Recipe) -> RecipeReply:
    return RecipeReply(
        recipe=recipe.name,
        ready=recipe.model.failures == 0,
        version=recipe.version,
        model_sha256=recipe.model_sha256,
        thresholds=_thresholds_reply(recipe),
        golden_images=len(recipe.bundle.manifest.golden),
        golden_checked=recipe.checked.isoformat(timespec="seconds"),
    )


def _thresholds_reply(recipe: Recipe) -> ThresholdsReply:
    thresholds = recipe.bundle.manifest.thresholds
    return ThresholdsReply(review=thresholds.review, reject=thresholds.reject, pixel=thresholds.pixel)


def _backend_reply(recipe: Recipe) -> BackendReply:
    backend = recipe.model.backend
    return BackendReply(name=backend.name, provider=backend.provider, precision=backend.precision)
