"""The routes that show what was inspected before."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service.http.context import station_of
from service.http.problems import openapi_responses
from service.station.problem import ProblemError
from service.station.records import Records
from service.station.verdicts import Verdict

router = APIRouter(responses=openapi_responses())


@router.get("/inspections")
async def inspections(
    request: Request,
    recipe: str | None = None,
    verdict: Verdict | None = None,
    before: Annotated[float | None, Query(description="Unix seconds; pass the last `time` to page on")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> list[dict[str, Any]]:
    """Recorded inspections, newest first."""
    records = _records(request)
    async with station_of(request).looking:
        return await asyncio.to_thread(
            records.latest, limit=limit, before=before or time.time() + 1, recipe=recipe, verdict=verdict
        )


@router.get("/inspections/{inspection_id}")
async def inspection(request: Request, inspection_id: str) -> dict[str, Any]:
    """One recorded inspection, as it was answered."""
    found = await asyncio.to_thread(_records(request).find, inspection_id)
    if found is None:
        raise ProblemError("not_found", f"no inspection {inspection_id!r} in the records")
    return found


@router.get("/inspections/{inspection_id}/image", response_class=Response)
async def image(request: Request, inspection_id: str) -> Response:
    """The bytes that were inspected, where they were kept."""
    data = await asyncio.to_thread(_records(request).image, inspection_id)
    if data is None:
        raise ProblemError(
            "not_found",
            f"no picture of inspection {inspection_id!r}: not to be kept (INSPECT_RECORD_IMAGES), not written (the log "
            "says why), or over the disk budget (INSPECT_RECORD_IMAGES_MB)",
        )
    return Response(data, media_type="application/octet-stream")


def _records(request: Request) -> Records:
    station = station_of(request)
    station.access.require(request, "inspect")
    if station.records is None:
        raise ProblemError("not_found", "this service keeps no records: set INSPECT_RECORDS_DIR")
    return station.records
