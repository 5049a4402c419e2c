"""HTTP: requests to inspections, inspections to replies."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.images import PixelFormat, decode, decode_raw
from service.inspection import HeatmapMode, Inspection
from service.problems import ProblemBody, ProblemError, openapi_responses, problem_body
from service.records import Record
from service.replies import (
    InspectionReply,
    backend_reply,
    inspection_reply,
    json_reply,
    picture_reply,
    recipe_reply,
)
from service.station import Station, choose_recipe, station_of, why_not_ready
from service.uploads import FIELD, RAW_TYPES, arrival, read_image, read_images
from service.verdicts import Verdict

PAGE = Path(__file__).parent / "web" / "index.html"

log = logging.getLogger("draem_inspect")

_LOGGED = {"inspection_id", "request_id", "part_id", "recipe", "version", "verdict", "score"}

router = APIRouter()


_MAX_BATCH_FILES = 64
_IMAGE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "required": [FIELD], "properties": {FIELD: {"type": "array", "items": _IMAGE}}}
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
    width: Annotated[int | None, Query(ge=1, le=65_535, description="of bare pixels")] = None,
    height: Annotated[int | None, Query(ge=1, le=65_535, description="of bare pixels")] = None,
    pixel_format: Annotated[PixelFormat | None, Query(description="of bare pixels, a GenICam name")] = None,
    x_deadline_ms: Annotated[float | None, Header(ge=1, le=600_000, description="time this request may take")] = None,
    x_part_id: Annotated[str | None, Header(max_length=128, description="comes back in the reply")] = None,
    x_trigger_id: Annotated[
        str | None, Header(min_length=1, max_length=128, description="the same trigger gives the same answer again")
    ] = None,
    x_camera_id: Annotated[
        str | None, Header(max_length=64, description="who sends; the same picture twice from one camera is frozen")
    ] = None,
) -> Response:
    """Verdict, score and regions of one image.

    The body is an encoded image, or bare pixels of a `width`, `height` and `pixel_format` (rows without padding).
    With `Accept: image/png` or `image/jpeg` the reply is the overlay picture itself, the result in `X-` headers.
    """
    started = time.monotonic()
    station = station_of(request)
    station.access.require(request, "inspect")
    deadline = started + (x_deadline_ms or station.settings.deadline_ms) / 1000
    chosen = choose_recipe(station, recipe)
    picture = _wanted_picture(request)
    mode: HeatmapMode = {"png": "overlay", "jpeg": "jpeg"}[picture] if picture else heatmap  # type: ignore[assignment]
    raw = _raw_layout(width, height, pixel_format)
    station.inspector.admit(deadline)
    async with arrival(deadline):
        data = await read_image(request, station.settings.max_upload_bytes)
    limit = station.settings.max_pixels
    decoder = partial(decode_raw, data, max_pixels=limit, **raw) if raw else partial(decode, data, max_pixels=limit)
    if x_trigger_id is not None and (stored := await station.triggers.claim(x_trigger_id)) is not None:
        return Response(json.dumps(stored), media_type="application/json", headers={"X-Replayed": "true"})
    reply: InspectionReply | None = None
    try:
        work = station.inspector.inspect(decoder, chosen, mode, camera=x_camera_id, started=started, deadline=deadline)
        inspection = await _unless_disconnected(request, work)
        reply = inspection_reply(inspection, request.state.request_id, x_part_id)
    finally:
        if x_trigger_id is not None:
            station.triggers.finish(x_trigger_id, None if reply is None else _without_picture(reply))
    _record(station, reply, x_trigger_id, data)
    log.info(
        "inspected", extra=reply.model_dump(mode="json", include=_LOGGED) | {"total_ms": reply.timings_ms["total"]}
    )
    return picture_reply(inspection, x_part_id) if picture else json_reply(reply, inspection)


@router.post(
    "/inspect/batch",
    responses=dict(openapi_responses()),
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def inspect_batch(
    request: Request,
    recipe: Annotated[str | None, Query(description="recipe; may be left out where there is one or a default")] = None,
    x_deadline_ms: Annotated[float | None, Header(ge=1, le=600_000, description="time all of them may take")] = None,
) -> list[InspectionReply | ProblemBody]:
    """Several images in one form: one result each, in order; what cannot be inspected is a problem in its place."""
    started = time.monotonic()
    station = station_of(request)
    station.access.require(request, "inspect")
    deadline = started + (x_deadline_ms or station.settings.deadline_ms) / 1000
    chosen = choose_recipe(station, recipe)
    async with arrival(deadline):
        images = await read_images(request, station.settings.max_upload_bytes, max_files=_MAX_BATCH_FILES)

    async def one(data: bytes) -> InspectionReply | ProblemBody:
        decoder = partial(decode, data, max_pixels=station.settings.max_pixels)
        try:
            inspection = await station.inspector.inspect(
                decoder, chosen, "none", camera=None, started=started, deadline=deadline
            )
        except ProblemError as problem:
            station.metrics.errors.labels(problem.code).inc()
            return problem_body(problem, request.state.request_id)
        reply = inspection_reply(inspection, request.state.request_id, None)
        _record(station, reply, None, data)
        return reply

    return list(await asyncio.gather(*(one(data) for data in images)))


@router.get("/livez")
async def livez() -> dict[str, str]:
    """200 while the process can answer at all."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """200 when images can be inspected; 503 with the reason otherwise."""
    station = station_of(request)
    reason = why_not_ready(station)
    status = "draining" if station.drain.begun else "not ready" if reason else "ready"
    return JSONResponse({"status": status, "reason": reason}, 503 if reason else 200)


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
                    **recipe_reply(recipe).model_dump(exclude_none=True),
                    "backend": backend_reply(recipe).model_dump(),
                    "ms_per_image": round(1000 * recipe.model.seconds_per_image, 3),
                    "failures_in_a_row": recipe.model.failures,
                }
                for recipe in station.recipes.ready.values()
            ],
            "failed": station.recipes.failed,
        }
    )


@router.get("/counters")
async def counters(request: Request) -> dict[str, dict[str, int | str]]:
    """Parts by verdict since the last reset, for every recipe."""
    return station_of(request).counters.totals()


@router.post("/counters/reset", responses=dict(openapi_responses()))
async def reset_counters(request: Request, recipe: str | None = None) -> dict[str, dict[str, int | str]]:
    """Begin to count again, for one recipe or for all; the Prometheus counters go on."""
    station = station_of(request)
    station.access.require(request, "admin")
    station.counters.reset(recipe)
    return station.counters.totals()


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    station = station_of(request)
    station.metrics.queue_depth.set(station.batcher.depth)
    station.metrics.ready.set(why_not_ready(station) is None)
    station.metrics.show_recipes(station.recipes)
    for recipe in station.recipes.ready.values():
        good_scores = recipe.bundle.manifest.thresholds.calibration.good_scores
        if (drift := station.counters.drift(recipe.name, good_scores)) is not None:
            station.metrics.drift.labels(recipe.name).set(drift)
    return Response(generate_latest(station.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The operator's page."""
    return FileResponse(PAGE, media_type="text/html")


def _record(station: Station, reply: InspectionReply, trigger_id: str | None, image: bytes) -> None:
    if station.records is None:
        return
    keep = {"none": False, "failed": reply.verdict is not Verdict.OK, "all": True}[station.settings.record_images]
    station.records.add(Record(_without_picture(reply), time.time(), trigger_id, image if keep else None))


def _without_picture(reply: InspectionReply) -> dict[str, Any]:
    return reply.model_dump(mode="json", exclude={"heatmap"}) | {"heatmap": None}


def _raw_layout(width: int | None, height: int | None, pixel_format: PixelFormat | None) -> dict[str, Any]:
    given = {"width": width, "height": height, "pixel_format": pixel_format}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ProblemError(
            "invalid_request", f"bare pixels need width, height and pixel_format: no {', '.join(missing)}"
        )
    return {} if missing else given


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
