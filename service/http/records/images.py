"""Images of inspections on record: as they came, their maps, and both together."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from service.http.context import station_of
from service.http.problems import openapi_responses
from service.http.records.looking import look, require
from service.images.cropping import PixelBox, crop_of
from service.images.decoding import decode, encode
from service.images.headers import ImageError
from service.images.heatmap import draw_overlay, hot_from, preview
from service.station.exporting import media_type_of, pixels_of
from service.station.problem import ProblemError

router = APIRouter(responses=openapi_responses())

_JPEG_HEADERS = {"Cache-Control": "private, max-age=600"}


@router.get("/inspections/{inspection_id}/image", response_class=Response, tags=["history"])
async def image(request: Request, inspection_id: str) -> Response:
    """The bytes that were inspected, where they were kept."""
    data = await _image(request, inspection_id)
    return Response(data, media_type=media_type_of(data))


@router.get("/inspections/{inspection_id}/map", response_class=Response, tags=["history"])
async def anomaly_map(request: Request, inspection_id: str) -> Response:
    """The map of the whole photo as a gray PNG, 255 is 1; kept with the image."""
    return Response(await _map(request, inspection_id), media_type="image/png")


@router.get("/inspections/{inspection_id}/preview.jpg", response_class=Response, tags=["history"])
async def preview_image(request: Request, inspection_id: str) -> Response:
    """The image, at most 1024 pixels a side."""
    found, data = await require(request, inspection_id), await _image(request, inspection_id)
    return await _drawn(request, found, data, None)


@router.get("/inspections/{inspection_id}/overlay.jpg", response_class=Response, tags=["history"])
async def overlay(request: Request, inspection_id: str) -> Response:
    """The same with the map on it, drawn anew from the map that was kept."""
    found, data = await require(request, inspection_id), await _image(request, inspection_id)
    return await _drawn(request, found, data, await _map(request, inspection_id))


async def _image(request: Request, inspection_id: str) -> bytes:
    data = await look(request, lambda records: records.image(inspection_id))
    if data is None:
        raise ProblemError(
            "not_found",
            f"no image of inspection {inspection_id!r}: not to be kept (INSPECT_RECORD_IMAGES), not written (the log "
            "says why), or over the disk budget (INSPECT_RECORD_IMAGES_MB)",
        )
    return data


async def _map(request: Request, inspection_id: str) -> bytes:
    data = await look(request, lambda records: records.map(inspection_id))
    if data is None:
        raise ProblemError(
            "not_found",
            f"no map of inspection {inspection_id!r}: it is kept with the image (INSPECT_RECORD_IMAGES) since version "
            "3 of the records; `python -m service replay` makes it again",
        )
    return data


async def _drawn(request: Request, found: dict[str, Any], data: bytes, anomaly_map: bytes | None) -> Response:
    station = station_of(request)
    async with station.looking:
        drawn = await asyncio.to_thread(_draw, found, data, anomaly_map, station.settings.max_pixels)
    return Response(drawn, media_type="image/jpeg", headers=_JPEG_HEADERS)


def _draw(found: dict[str, Any], data: bytes, anomaly_map: bytes | None, max_pixels: int) -> bytes:
    try:
        image = pixels_of(data, found["layout"], max_pixels)
    except ImageError as error:
        raise ProblemError("not_found", f"the kept image cannot be shown: {error}") from error
    shown = preview(image)
    if anomaly_map is None:
        return encode(shown, ".jpg")
    values = np.divide(decode(anomaly_map)[:, :, 0], 255, dtype=np.float32)
    hot = hot_from(values, found["verdict"], found["thresholds"]["pixel"])
    # Records from before there were crops do not say.
    inspected = found.get("inspected") and crop_of(PixelBox(**found["inspected"]), image.shape[:2])
    return encode(draw_overlay(shown, values, hot, inspected), ".jpg")
