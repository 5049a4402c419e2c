"""The routes of the live screen: the parts as they are decided, and the images of the newest ones."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from service.http.context import Station, shift_reply, station_of, troubles, why_not_ready
from service.http.problems import openapi_responses
from service.images.decoding import encode
from service.images.heatmap import draw_overlay, preview
from service.station.exporting import pixels_of
from service.station.feed import Entry, Feed, View
from service.station.problem import ProblemError

router = APIRouter(tags=["live"])

# Seconds between two words of the station where no part comes: what is silent for longer is gone.
_STATE_EVERY_S = 1.0


@router.get("/events", response_class=StreamingResponse, responses=openapi_responses())
async def events(request: Request) -> StreamingResponse:
    """Server-sent events: `inspection` for each part, the newest 24 first; `state` every second."""
    station = station_of(request)
    station.access.require(request, "inspect")
    if station.feed.full:
        raise ProblemError("overloaded", "too many pages look on already: close one of them", retry_after_s=5.0)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(station), media_type="text/event-stream", headers=headers)


@router.get("/events/{inspection_id}/{picture}.jpg", response_class=Response, responses=openapi_responses())
async def picture(request: Request, inspection_id: str, picture: Literal["image", "overlay"]) -> Response:
    """The image of one of the newest parts, at most 1024 pixels a side, as it was sent or with its map on it."""
    station = station_of(request)
    station.access.require(request, "inspect")
    view = station.feed.view(inspection_id)
    if view is None:
        raise ProblemError("not_found", f"the image of {inspection_id!r} is no longer among the newest: see its record")
    # One at a time: pages must not take the threads of inspections.
    async with station.looking:
        data = await asyncio.to_thread(_draw, view, picture, station.settings.max_pixels)
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})


def _draw(view: View, picture: Literal["image", "overlay"], max_pixels: int) -> bytes:
    image = pixels_of(view.image, view.layout, max_pixels) if isinstance(view.image, bytes) else view.image
    shown = preview(image)
    if picture == "overlay":
        shown = draw_overlay(shown, view.anomaly_map, view.hot, view.crop)
    return encode(shown, ".jpg")


async def _stream(station: Station) -> AsyncIterator[bytes]:
    # Of pages that came in the same moment the last ones end here.
    if station.feed.full:
        return
    feed = station.feed
    state, part = partial(_state, station), partial(_part, feed)
    with feed.look_on() as parts:
        yield feed.state(state)
        for entry in list(feed.newest):
            yield _part(feed, entry)
        # A server that shuts down waits for its open connections: pages must not be among them.
        while not station.drain.begun:
            try:
                entry = await asyncio.wait_for(parts.get(), _STATE_EVERY_S)
            except TimeoutError:
                yield feed.state(state)
                continue
            waiting = [entry, *(parts.get_nowait() for _ in range(parts.qsize()))]
            yield b"".join(feed.event(one, part) for one in waiting) + feed.state(state)


def _state(station: Station) -> bytes:
    reason = why_not_ready(station)
    return _event(
        "state",
        {
            "now": time.time(),
            "ready": reason is None,
            "reason": reason,
            "troubles": troubles(station),
            "counters": station.counters.totals(),
            "shift": shift_reply(station),
        },
    )


def _part(feed: Feed, entry: Entry) -> bytes:
    return _event("inspection", entry | {"image": feed.view(str(entry["inspection_id"])) is not None})


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
