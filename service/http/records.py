"""The routes that show what was inspected before, and what people said of it."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.http.access import Right
from service.http.context import station_of
from service.http.identifiers import composed
from service.http.problems import openapi_responses
from service.http.times import Time
from service.http.uploads import read_model
from service.images.cropping import PixelBox, crop_of
from service.images.decoding import decode, encode
from service.images.headers import ImageError
from service.images.heatmap import draw_overlay, hot_from, preview
from service.station.database import RecordsError
from service.station.exporting import media_type_of, pixels_of, to_csv, to_zip
from service.station.problem import ProblemError
from service.station.records import Records
from service.station.reviews import Box, Opinion, Review, defect_types, mask_of
from service.station.searching import Search, latest_reviews
from service.station.verdicts import Verdict

T = TypeVar("T")

router = APIRouter(responses=openapi_responses())

_MOST_CSV, _MOST_ZIP = 100_000, 1000
# base64 of a mask of 12 million pixels takes less.
_REVIEW_BYTES = 4_000_000
_JPEG_HEADERS = {"Cache-Control": "private, max-age=600"}


def _composed(text: str | None) -> str | None:
    return None if text is None else composed(text)


class BoxSent(BaseModel):
    """Where a defect is, in pixels of the image that was sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    x: Annotated[int, Field(ge=0, le=100_000)]
    y: Annotated[int, Field(ge=0, le=100_000)]
    width: Annotated[int, Field(ge=1, le=100_000)]
    height: Annotated[int, Field(ge=1, le=100_000)]


class ReviewSent(BaseModel):
    """What somebody says of a part; `mask` is base64 of a PNG of the image's size, 128 and more is the defect."""

    model_config = ConfigDict(extra="forbid")

    verdict: Opinion
    defect_type: Annotated[str | None, Field(max_length=64)] = None
    note: Annotated[str | None, Field(max_length=2000)] = None
    boxes: Annotated[list[BoxSent], Field(max_length=100)] = []
    mask: str | None = None


# OpenAPI has no place for definitions inside of a body's schema.
_REVIEW_SCHEMA = ReviewSent.model_json_schema()
_REVIEW_SCHEMA["properties"]["boxes"]["items"] = _REVIEW_SCHEMA.pop("$defs")["BoxSent"]


async def read_search(
    part_id: Annotated[str | None, AfterValidator(_composed), Query(description="`SN-47*`: all that begin so")] = None,
    camera: str | None = None,
    recipe: str | None = None,
    version: str | None = None,
    verdict: Annotated[list[Verdict] | None, Query(description="may be given several times")] = None,
    lot: Annotated[
        str | None, AfterValidator(_composed), Query(description="`X-Lot-Id`; `A*`: all that begin so")
    ] = None,
    meta: Annotated[list[str] | None, Query(description="`order=4711` for `X-Meta-Order: 4711`; several times")] = None,
    reviewed: bool | None = None,
    waiting: Annotated[bool | None, Query(alias="open", description="waits for a review")] = None,
    after: Time = None,
    before: Time = None,
) -> Search:
    """What is asked for of the records; raises ProblemError. A coroutine, as in service.http.parameters."""
    pairs = [text.partition("=") for text in meta or []]
    if not all(name and sign for name, sign, _ in pairs):
        raise ProblemError("invalid_request", "meta: send name=value, such as meta=order=4711")
    return Search(
        part_id=part_id,
        camera=camera,
        recipe=recipe,
        version=version,
        verdicts=tuple(dict.fromkeys(verdict or ())),
        lot=lot,
        metadata={name.lower(): value for name, _, value in pairs},
        reviewed=reviewed,
        open=waiting,
        after=after,
        before=before,
    )


Asked = Annotated[Search, Depends(read_search)]
Cursor = Annotated[int | None, Query(ge=1, description="X-Next-Cursor of the page before, with the same filters")]


@router.get("/inspections", tags=["history"])
async def inspections(
    request: Request,
    response: Response,
    search: Asked,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> list[dict[str, Any]]:
    """Recorded inspections, newest first; where there may be more, the reply has `X-Next-Cursor`."""
    found = await look(request, lambda records: records.search(search, limit=limit, cursor=cursor))
    if len(found) == limit:
        response.headers["X-Next-Cursor"] = str(found[-1]["row"])
    return [_without_row(one) for one in found]


@router.get("/inspections/export.csv", response_class=StreamingResponse, tags=["history"])
async def export_csv(request: Request, search: Asked) -> Response:
    """The same as a table, up to 100,000 rows."""
    records = await look(request, lambda records: records)
    return _download(to_csv(_pages(records, search, _MOST_CSV)), "text/csv; charset=utf-8", "inspections.csv")


@router.get("/inspections/export.zip", response_class=StreamingResponse, tags=["history"])
async def export_zip(request: Request, search: Asked) -> Response:
    """The same with the images, maps and masks that are kept, up to 1000 parts."""
    records = await look(request, lambda records: records)
    limit = station_of(request).settings.max_pixels
    return _download(to_zip(_pages(records, search, _MOST_ZIP), records, limit), "application/zip", "inspections.zip")


@router.get("/inspections/{inspection_id}", tags=["history"])
async def inspection(request: Request, inspection_id: str) -> dict[str, Any]:
    """One recorded inspection as it was answered, with its reviews."""
    return _without_row(await _require(request, inspection_id))


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
    found, data = await _require(request, inspection_id), await _image(request, inspection_id)
    return await _drawn(request, found, data, None)


@router.get("/inspections/{inspection_id}/overlay.jpg", response_class=Response, tags=["history"])
async def overlay(request: Request, inspection_id: str) -> Response:
    """The same with the map on it, drawn anew from the map that was kept."""
    found, data = await _require(request, inspection_id), await _image(request, inspection_id)
    return await _drawn(request, found, data, await _map(request, inspection_id))


@router.post(
    "/inspections/{inspection_id}/reviews",
    status_code=201,
    tags=["review"],
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _REVIEW_SCHEMA}}}},
)
async def review(request: Request, inspection_id: str) -> dict[str, Any]:
    """Say what a part is. The answer comes once the review is on the disk; a later one counts instead of this one."""
    station = station_of(request)
    by = station.access.require(request, "review")
    sent = await read_model(request, ReviewSent, most=_REVIEW_BYTES)
    mask = None if sent.mask is None else await asyncio.to_thread(_read_mask, sent.mask, station.settings.max_pixels)
    boxes = [Box(box.x, box.y, box.width, box.height) for box in sent.boxes]
    said = Review(sent.verdict, by, sent.defect_type, sent.note, boxes, mask)
    written = await look(request, lambda records: records.review(inspection_id, said), right="review")
    if written is None:
        raise ProblemError("not_found", f"no inspection {inspection_id!r} in the records")
    return written


@router.get("/reviews", tags=["review"])
async def reviews(
    request: Request, search: Asked, cursor: Cursor = None, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> dict[str, Any]:
    """With `open=true` the parts that wait for a review, newest first; else the reviews. `open`: how many wait."""
    if search.open:
        found = await look(request, lambda records: records.search(search, limit=limit, cursor=cursor))
        items, rows = [_without_row(one) for one in found], [one["row"] for one in found]
    else:
        said = await look(
            request, lambda records: records.ask(partial(latest_reviews, search=search, limit=limit, cursor=cursor))
        )
        items, rows = [one for _, one in said], [row for row, _ in said]
    waiting = await look(request, lambda records: records.open_reviews)
    return {"open": waiting, "items": items, "next": rows[-1] if len(rows) == limit else None}


@router.get("/reviews/{review_id}/mask.png", response_class=Response, tags=["review"])
async def mask(request: Request, review_id: str) -> Response:
    """The mask that a review came with."""
    data = await look(request, lambda records: records.ask(partial(mask_of, review_id=review_id)))
    if data is None:
        raise ProblemError("not_found", f"no mask of a review {review_id!r} in the records")
    return Response(data, media_type="image/png")


@router.get("/defect-types", tags=["review"])
async def known_defect_types(request: Request, recipe: str | None = None) -> list[str]:
    """Kinds of defects that reviews named so far, the most frequent first."""
    return await look(request, lambda records: records.ask(partial(defect_types, recipe=recipe)))


async def look(request: Request, question: Callable[[Records], T], *, right: Right = "inspect") -> T:
    """What the records say; one look at a time, for inspections need the threads. Raises ProblemError."""
    station = station_of(request)
    station.access.require(request, right)
    if station.records is None:
        raise ProblemError("not_found", "this service keeps no records: set INSPECT_RECORDS_DIR")
    records = station.records
    async with station.looking:
        try:
            return await asyncio.to_thread(question, records)
        except RecordsError as error:
            raise ProblemError("records_unavailable", str(error), retry_after_s=5.0) from error


async def _require(request: Request, inspection_id: str) -> dict[str, Any]:
    found = await look(request, lambda records: records.find(inspection_id))
    if found is None:
        raise ProblemError("not_found", f"no inspection {inspection_id!r} in the records")
    return found


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


def _read_mask(text: str, max_pixels: int) -> bytes:
    """A mask as it is kept: a PNG of one channel; raises ProblemError."""
    try:
        pixels = decode(base64.b64decode(text, validate=True), max_pixels=max_pixels)
    except (binascii.Error, ValueError, ImageError) as error:
        raise ProblemError("invalid_request", f"mask: no base64 of a PNG: {error}") from error
    return encode((pixels.max(axis=2) >= 128).astype(np.uint8) * 255, ".png")


def _pages(records: Records, search: Search, most: int) -> Iterator[dict[str, Any]]:
    """What is found, page by page: nothing is locked meanwhile."""
    cursor = None
    while most > 0 and (page := records.search(search, limit=min(500, most), cursor=cursor)):
        yield from page
        cursor, most = page[-1]["row"], most - len(page)


def _download(pieces: Iterator[bytes], media_type: str, name: str) -> StreamingResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(pieces, media_type=media_type, headers=headers)


def _without_row(one: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name != "row"}
