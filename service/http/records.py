"""The routes that show what was inspected before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response

from service.http.context import station_of
from service.http.problems import openapi_responses
from service.station.database import RecordsError
from service.station.problem import ProblemError
from service.station.records import Records
from service.station.verdicts import Verdict

T = TypeVar("T")

router = APIRouter(responses=openapi_responses())


@router.get("/inspections")
async def inspections(
    request: Request,
    recipe: str | None = None,
    verdict: Verdict | None = None,
    before: Annotated[float | None, Query(description="those dated before, Unix seconds")] = None,
    before_id: Annotated[
        str | None, Query(description="those that came before; pass the last `inspection_id` to page on")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> list[dict[str, Any]]:
    """Recorded inspections, newest first."""
    return await _look(
        request,
        lambda records: records.latest(limit=limit, before=before, before_id=before_id, recipe=recipe, verdict=verdict),
    )


@router.get("/inspections/{inspection_id}")
async def inspection(request: Request, inspection_id: str) -> dict[str, Any]:
    """One recorded inspection, as it was answered."""
    found = await _look(request, lambda records: records.find(inspection_id))
    if found is None:
        raise ProblemError("not_found", f"no inspection {inspection_id!r} in the records")
    return found


@router.get("/inspections/{inspection_id}/image", response_class=Response)
async def image(request: Request, inspection_id: str) -> Response:
    """The bytes that were inspected, where they were kept."""
    data = await _look(request, lambda records: records.image(inspection_id))
    if data is None:
        raise ProblemError(
            "not_found",
            f"no picture of inspection {inspection_id!r}: not to be kept (INSPECT_RECORD_IMAGES), not written (the log "
            "says why), or over the disk budget (INSPECT_RECORD_IMAGES_MB)",
        )
    return Response(data, media_type="application/octet-stream")


async def _look(request: Request, question: Callable[[Records], T]) -> T:
    """What the records say; one look at a time, for inspections need the threads. Raises ProblemError."""
    station = station_of(request)
    station.access.require(request, "inspect")
    if station.records is None:
        raise ProblemError("not_found", "this service keeps no records: set INSPECT_RECORDS_DIR")
    records = station.records
    async with station.looking:
        try:
            return await asyncio.to_thread(question, records)
        except RecordsError as error:
            raise ProblemError("records_unavailable", str(error), retry_after_s=5.0) from error
