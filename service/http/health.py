"""The routes that say how the station is: alive, ready, what runs, counters, metrics; and the operator's page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.http.access import Right
from service.http.context import reason_for, shift_reply, station_of, troubles, why_not_alive, why_not_ready
from service.http.middleware import POLICY
from service.http.problems import openapi_responses
from service.http.replies import backend_reply, recipe_reply

WEB = Path(__file__).parents[1] / "web"

router = APIRouter()


@router.get("/livez")
async def livez(request: Request) -> JSONResponse:
    """200 while this process may inspect, now or later; 503 with the reason where only a new one may."""
    reason = reason_for(request, why_not_alive(station_of(request)))
    return JSONResponse({"status": "not alive" if reason else "alive", "reason": reason}, 503 if reason else 200)


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """200 when images can be inspected; 503 with the reason otherwise. `troubles` is what else is wrong."""
    station = station_of(request)
    reason = reason_for(request, why_not_ready(station))
    status = "draining" if station.drain.begun else "not ready" if reason else "ready"
    shown = troubles(station) if station.access.may(request, "view") else []
    return JSONResponse({"status": status, "reason": reason, "troubles": shown}, 503 if reason else 200)


@router.get("/state", responses=openapi_responses())
async def state(request: Request) -> JSONResponse:
    """What was asked for and what runs: settings, recipes, backend, queue."""
    station = station_of(request)
    station.access.require(request, "view")
    return JSONResponse(
        {
            "ready": why_not_ready(station) is None,
            "troubles": troubles(station),
            "requested_backend": station.settings.backend,
            "queue_depth": station.batcher.depth,
            "records": None if station.records is None else await asyncio.to_thread(station.records.state),
            "recipes": [
                {
                    **recipe_reply(recipe).model_dump(exclude_none=True),
                    "backend": backend_reply(recipe).model_dump(),
                    "runs_side_by_side": recipe.model.backend.lanes,
                    "images_in_a_run": station.batcher.largest_batch(recipe.model),
                    "ms_per_image": round(1000 * recipe.model.seconds_per_image, 3),
                    "failures_in_a_row": recipe.model.failures,
                }
                for recipe in station.recipes.ready.values()
            ],
            "failed": station.recipes.failed,
        }
    )


@router.get("/access", responses=openapi_responses())
async def access(request: Request) -> dict[str, Any]:
    """Who asks, and what that may do; `keys`: whether this service has API keys."""
    station = station_of(request)
    name = station.access.require(request, "view")
    rights: tuple[Right, ...] = get_args(Right)
    may = [right for right in rights if station.access.may(request, right)]
    return {"name": name, "rights": may, "keys": station.access.has_keys}


@router.get("/counters", responses=openapi_responses())
async def counters(request: Request) -> dict[str, dict[str, int | str | dict[str, int]]]:
    """Parts by verdict since the last reset, for every recipe."""
    station = station_of(request)
    station.access.require(request, "view")
    return station.counters.totals()


@router.get("/shift", responses=openapi_responses())
async def shift(request: Request) -> dict[str, Any]:
    """The shift that is under way, with its parts by recipe and verdict."""
    station = station_of(request)
    station.access.require(request, "view")
    return shift_reply(station)


@router.post("/counters/reset", responses=openapi_responses())
async def reset_counters(
    request: Request, recipe: str | None = None
) -> dict[str, dict[str, int | str | dict[str, int]]]:
    """Begin to count again, for one recipe or for all; the Prometheus counters go on."""
    station = station_of(request)
    station.access.require(request, "admin")
    station.counters.reset(recipe)
    if station.records is not None:
        station.records.reset(recipe)
    return station.counters.totals()


@router.get("/metrics", response_class=Response, responses=openapi_responses())
async def metrics(
    request: Request,
    names: Annotated[
        list[str] | None,
        Query(alias="name[]", include_in_schema=False, description="only these series, as Prometheus asks"),
    ] = None,
) -> Response:
    """Prometheus text format."""
    station = station_of(request)
    station.access.require(request, "metrics")
    station.metrics.queue_depth.set(station.batcher.depth)
    station.metrics.ready.set(why_not_ready(station) is None)
    station.metrics.show_recipes(station.recipes)
    # A copy: another thread may activate a recipe meanwhile.
    for recipe in list(station.recipes.ready.values()):
        good_scores = recipe.bundle.manifest.thresholds.calibration.good_scores
        if (drift := station.counters.drift(recipe.name, good_scores)) is not None:
            station.metrics.drift.labels(recipe.name).set(drift)
    registry = station.metrics.registry
    shown = registry.restricted_registry(names) if names else registry
    return Response(generate_latest(shown), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page(
    request: Request,
    line: Annotated[str | None, Query(description="title of the screen")] = None,
    kiosk: Annotated[str | None, Query(description="there: the live screen alone")] = None,
    camera: Annotated[str | None, Query(description="the live screen of one camera")] = None,
    recipe: Annotated[str | None, Query(description="the live screen of one recipe")] = None,
    language: Annotated[str | None, Query(description="en or de")] = None,
    theme: Annotated[str | None, Query(description="light or dark")] = None,
) -> HTMLResponse:
    """The operator's page: the live screen and the other views. Its script reads the parameters."""
    return await _page(request)


@router.get("/try", include_in_schema=False)
async def try_page(request: Request) -> HTMLResponse:
    """The operator's page, where it begins with the view on which an image can be dropped."""
    return await _page(request)


async def _page(request: Request) -> HTMLResponse:
    """A page whose addresses are relative to `/`, or to the prefix in front of the service."""
    html = await asyncio.to_thread((WEB / "index.html").read_text)
    prefix = station_of(request).settings.root_path
    if not prefix:
        return HTMLResponse(html)
    base = html.replace("<head>", f'<head>\n  <base href="{prefix}/">', 1)
    return HTMLResponse(base, headers={"Content-Security-Policy": POLICY.replace("base-uri 'none'", "base-uri 'self'")})
