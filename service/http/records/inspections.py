"""Inspections on record: as a list, as files to take away, and one alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from service.http.context import station_of
from service.http.problems import openapi_responses
from service.http.records.filters import Asked, Cursor
from service.http.records.looking import look, require, without_row
from service.station.exporting import to_csv, to_zip
from service.station.records import Records
from service.station.search import Search

router = APIRouter(responses=openapi_responses())

_MOST_CSV, _MOST_ZIP = 100_000, 1000


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
    return [without_row(one) for one in found]


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
    return without_row(await require(request, inspection_id))


def _pages(records: Records, search: Search, most: int) -> Iterator[dict[str, Any]]:
    """What is found, page by page: nothing is locked meanwhile."""
    cursor = None
    while most > 0 and (page := records.search(search, limit=min(500, most), cursor=cursor)):
        yield from page
        cursor, most = page[-1]["row"], most - len(page)


def _download(pieces: Iterator[bytes], media_type: str, name: str) -> StreamingResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(pieces, media_type=media_type, headers=headers)
