"""HTTP: requests to inspections, inspections to replies."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.backends import BackendError
from service.images import PixelFormat, decode, decode_raw
from service.inspection import HeatmapMode, Inspection
from service.problems import ProblemError, openapi_responses
from service.recipes import (
    ActivationError,
    GoldenError,
    Recipe,
    RecipeNotReadyError,
    RecipeStore,
    UnknownRecipeError,
)
from service.records import Record
from service.replies import (
    InspectionReply,
    RecipeReply,
    backend_reply,
    inspection_reply,
    json_reply,
    picture_reply,
    recipe_reply,
)
from service.station import Station, station_of, why_not_ready
from service.uploads import FIELD, RAW_TYPES, read_image
from service.verdicts import Verdict

PAGE = Path(__file__).parent / "web" / "index.html"

log = logging.getLogger("draem_inspect")

_LOGGED = {"inspection_id", "request_id", "part_id", "recipe", "version", "verdict", "score"}

router = APIRouter()


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
    width: Annotated[int | None, Query(ge=1, le=65_535, description="of bare pixels")] = None,
    height: Annotated[int | None, Query(ge=1, le=65_535, description="of bare pixels")] = None,
    pixel_format: Annotated[PixelFormat | None, Query(description="of bare pixels, a GenICam name")] = None,
    x_deadline_ms: Annotated[float | None, Header(gt=0, le=600_000, description="time this request may take")] = None,
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
    if station.draining:
        raise ProblemError("draining", "the service is shutting down: send it to another", retry_after_s=1.0)
    deadline = started + (x_deadline_ms or station.settings.deadline_ms) / 1000
    chosen = _choose(station, recipe)
    picture = _wanted_picture(request)
    mode: HeatmapMode = {"png": "overlay", "jpeg": "jpeg"}[picture] if picture else heatmap  # type: ignore[assignment]
    raw = _raw_layout(width, height, pixel_format)
    station.inspector.admit(deadline)
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            data = await read_image(request, station.settings.max_upload_bytes)
    except TimeoutError:
        raise ProblemError("deadline_passed", "the deadline passed while the picture was arriving") from None
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


@router.get("/recipes")
async def recipes(request: Request) -> list[RecipeReply]:
    """Every recipe found, ready or not, with all its versions on disk."""
    store = station_of(request).recipes
    ready = [recipe_reply(recipe) for recipe in store.ready.values()]
    failed = [RecipeReply(recipe=name, ready=False, reason=reason) for name, reason in store.failed.items()]
    versions = await asyncio.to_thread(store.versions)
    replies = [reply.model_copy(update={"versions": versions.get(reply.recipe, [])}) for reply in ready + failed]
    return sorted(replies, key=lambda reply: reply.recipe)


@router.post("/recipes/{recipe}/activate", responses=dict(openapi_responses()))
async def activate(request: Request, recipe: str, version: str) -> RecipeReply:
    """Load a version beside the one in service, check it on its golden images, then serve it."""
    return await _change_recipe(request, lambda store: store.activate(recipe, version))


@router.post("/recipes/{recipe}/rollback", responses=dict(openapi_responses()))
async def rollback(request: Request, recipe: str) -> RecipeReply:
    """Serve the version that served before."""
    return await _change_recipe(request, lambda store: store.rollback(recipe))


@router.post("/recipes/{recipe}/shadow", responses=dict(openapi_responses()))
async def shadow(
    request: Request,
    recipe: str,
    version: Annotated[str | None, Query(description="left out: no shadow any more")] = None,
) -> RecipeReply:
    """Let a version see what the one in service sees, without a say; `inspect_shadow_verdicts_total` compares them."""

    def change(store: RecipeStore) -> Recipe:
        store.shadow(recipe, version)
        return store.get(recipe)

    return await _change_recipe(request, change)


@router.post("/recipes/{recipe}/verify", responses=dict(openapi_responses()))
async def verify(request: Request, recipe: str) -> RecipeReply:
    """Run the golden gate again on what is in service; a recipe that fails it stops serving."""
    return await _change_recipe(request, lambda store: store.verify(recipe))


@router.get("/recipes/{recipe}/golden/{index}.png", response_class=FileResponse, responses=dict(openapi_responses()))
async def golden_image(request: Request, recipe: str, index: int) -> FileResponse:
    """A golden image of the recipe: something to try it on."""
    station = station_of(request)
    station.access.require(request, "inspect")
    bundle = _choose(station, recipe).bundle
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
    for recipe in station.recipes.ready.values():
        good_scores = recipe.bundle.manifest.thresholds.calibration.good_scores
        if (drift := station.counters.drift(recipe.name, good_scores)) is not None:
            station.metrics.drift.labels(recipe.name).set(drift)
    return Response(generate_latest(station.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The operator's page."""
    return FileResponse(PAGE, media_type="text/html")


async def _change_recipe(request: Request, change: Callable[[RecipeStore], Recipe]) -> RecipeReply:
    station = station_of(request)
    station.access.require(request, "admin")
    if not station.recipes.loaded:
        raise ProblemError("starting", "recipes are being loaded and checked", retry_after_s=1.0)
    try:
        recipe = await asyncio.to_thread(change, station.recipes)
    except UnknownRecipeError as error:
        raise ProblemError("unknown_recipe", str(error)) from error
    except (RecipeNotReadyError, GoldenError) as error:
        raise ProblemError("recipe_not_ready", str(error)) from error
    except BackendError as error:
        raise ProblemError("backend_failed", str(error), retry_after_s=5.0) from error
    except ActivationError as error:
        raise ProblemError("activation_failed", str(error)) from error
    station.metrics.show_recipes(station.recipes.ready.values())
    log.info("recipe %s: version %s is in service, checked %s", recipe.name, recipe.version, recipe.checked)
    return recipe_reply(recipe)


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
