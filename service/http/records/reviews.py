"""What people said of inspected parts: to say it, the parts that wait for it, masks and kinds of defects."""

from __future__ import annotations

import asyncio
import base64
import binascii
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.http.context import station_of
from service.http.problems import openapi_responses
from service.http.records.filters import Asked, Cursor
from service.http.records.looking import look, without_row
from service.http.uploads import read_model
from service.images.decoding import decode, encode
from service.images.headers import ImageError
from service.station.problem import ProblemError
from service.station.reviews import Box, Opinion, Review, defect_types, mask_of
from service.station.searching import latest_reviews

router = APIRouter(responses=openapi_responses())

# base64 of a mask of 12 million pixels takes less.
_REVIEW_BYTES = 4_000_000


class BoxSent(BaseModel):
    """Where a defect is, in pixels of the image that was sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    x: Annotated[int, Field(ge=0, le=100_000)]
    y: Annotated[int, Field(ge=0, le=100_000)]
    width: Annotated[int, Field(ge=1, le=100_000)]
    height: Annotated[int, Field(ge=1, le=100_000)]


class ReviewSent(BaseModel):
    """What somebody says of a part; `mask` is base64 of a PNG of the image's size, 128 and more is the defect.
    `reviewer` is the person's name, put on record before the key's.
    """

    model_config = ConfigDict(extra="forbid")

    verdict: Opinion
    defect_type: Annotated[str | None, Field(max_length=64)] = None
    note: Annotated[str | None, Field(max_length=2000)] = None
    reviewer: Annotated[str | None, Field(max_length=64, pattern=r"\S")] = None
    boxes: Annotated[list[BoxSent], Field(max_length=100)] = []
    mask: str | None = None


# OpenAPI has no place for definitions inside of a body's schema.
_REVIEW_SCHEMA = ReviewSent.model_json_schema()
_REVIEW_SCHEMA["properties"]["boxes"]["items"] = _REVIEW_SCHEMA.pop("$defs")["BoxSent"]


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
    # A key may be that of a place where several people work.
    by = by if sent.reviewer is None else f"{' '.join(sent.reviewer.split())} ({by})"
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
        items, rows = [without_row(one) for one in found], [one["row"] for one in found]
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


def _read_mask(text: str, max_pixels: int) -> bytes:
    """A mask as it is kept: a PNG of one channel; raises ProblemError."""
    try:
        pixels = decode(base64.b64decode(text, validate=True), max_pixels=max_pixels)
    except (binascii.Error, ValueError, ImageError) as error:
        raise ProblemError("invalid_request", f"mask: no base64 of a PNG: {error}") from error
    return encode((pixels.max(axis=2) >= 128).astype(np.uint8) * 255, ".png")
