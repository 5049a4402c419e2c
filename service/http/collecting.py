"""HTTP: photos for the first training of a recipe that has no model yet. They are kept, and never judged."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from service.http.context import station_of
from service.http.metadata import named, read_metadata
from service.http.problems import openapi_responses, problem_body, problem_response
from service.http.replies import RecipeReply
from service.http.uploads import arrival, read_image, refuse_text
from service.images.decoding import decode, decode_raw
from service.images.headers import ImageError
from service.station.collecting import why_collecting
from service.station.decisions import DecisionError
from service.station.feed import View
from service.station.problem import ProblemError
from service.station.record import Record

router = APIRouter(tags=["collecting"], responses=openapi_responses())

# A map that shows nothing.
_NOTHING = np.zeros((2, 2), np.float32)


@router.post("/recipes/{recipe}/collect")
async def begin(request: Request, recipe: str) -> RecipeReply:
    """Collect photos for the first training of a recipe without a model: each gets NOT_INSPECTED, and is kept."""
    station = station_of(request)
    by = station.access.require(request, "admin")
    if station.records is None:
        raise ProblemError("not_found", "photos are kept in the records: set INSPECT_RECORDS_DIR")
    if recipe in station.recipes.ready or recipe in station.recipes.failed:
        raise ProblemError("activation_failed", f"recipe {recipe!r} has versions already: train from its records")
    return await _change(request, recipe, partial(station.recipes.collecting.begin, recipe, by))


@router.post("/recipes/{recipe}/collect/end")
async def end(request: Request, recipe: str) -> RecipeReply:
    """Collect no more; what was kept stays on record."""
    station = station_of(request)
    by = station.access.require(request, "admin")
    if recipe not in station.recipes.collecting.names:
        raise ProblemError("unknown_recipe", f"recipe {recipe!r} collects nothing")
    return await _change(request, recipe, partial(station.recipes.collecting.end, recipe, by))


async def keep_photo(
    request: Request,
    recipe: str,
    deadline_ms: float | None,
    layout_of: Callable[[], Mapping[str, Any]],
    *,
    part: str | None,
    camera: str | None,
    lot: str | None,
) -> Response:
    """Put a photo on record for the first training of `recipe`; a problem, for nobody judged the part."""
    station = station_of(request)
    station.access.require(request, "inspect")
    metadata, layout = read_metadata(request.headers), layout_of()
    limit = station.settings.max_pixels
    deadline = request.state.started + (deadline_ms or station.settings.deadline_ms) / 1000
    async with arrival(deadline, request.state.body):
        data = await read_image(request, station.settings.max_upload_bytes)
    if not layout:
        refuse_text(data)
    try:
        decoder = partial(decode_raw, **layout) if layout else decode
        size = (await asyncio.to_thread(decoder, data, max_pixels=limit)).shape
    except ImageError as error:
        raise ProblemError(error.code, str(error)) from error
    problem = ProblemError("collecting", why_collecting(recipe))
    now, names = time.time(), {"part_id": named(part), "camera_id": named(camera), "recipe": recipe}
    body = problem_body(problem, request.state.request_id).model_dump(mode="json", exclude_none=True)
    reply = {"inspection_id": str(uuid.uuid4()), **body, **names, "image_size": [size[0], size[1]]}
    if station.records is None:
        raise ProblemError("not_found", "photos are kept in the records: set INSPECT_RECORDS_DIR")
    station.records.add(
        Record(reply, now, None, data, layout=layout or None, lot_id=named(lot), metadata=metadata, counted_as=recipe)
    )
    station.counters.refuse(recipe, problem.code)
    station.metrics.errors.labels(problem.code).inc()
    seen = {"lot_id": lot, "metadata": metadata, "time": now}
    station.feed.publish(reply | seen, View(data, _NOTHING, None, None, layout or None))
    return problem_response(problem, request.state.request_id)


async def _change(request: Request, recipe: str, change: Callable[[], object]) -> RecipeReply:
    station = station_of(request)
    try:
        async with station.changing:
            await asyncio.to_thread(change)
    except (DecisionError, OSError) as error:
        raise ProblemError("activation_failed", str(error)) from error
    return RecipeReply(recipe=recipe, ready=False, reason=why_collecting(recipe))
