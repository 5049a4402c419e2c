"""The report of a shift or of a lot, to be printed at its end."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from service.http.context import station_of
from service.http.identifiers import composed
from service.http.problems import openapi_responses
from service.http.records.looking import look
from service.station.reporting import Span, report
from service.station.shifts import read_shifts, shift_at

router = APIRouter(responses=openapi_responses())


@router.get("/report", tags=["quality"])
async def report_of(
    request: Request,
    shift: Annotated[Literal["now", "before"], Query(description="the one under way, or the one before")] = "now",
    lot: Annotated[str | None, Query(description="`X-Lot-Id`: of this lot, whatever the shift")] = None,
) -> dict[str, Any]:
    """Parts by recipe and verdict, why some were not inspected, and what people found; of a shift, or of a lot."""
    now = time.time()
    begins = read_shifts(station_of(request).settings.shifts)
    meant = shift_at(now, begins)
    if shift == "before":
        meant = shift_at(meant.since - 1, begins)
    span = Span(meant.since, min(meant.until, now)) if lot is None else Span(0.0, now, composed(lot))
    found = await look(request, lambda records: records.ask(partial(report, span=span)))
    about = {"shift": meant.name, "after": span.since, "before": span.until} if lot is None else {"lot": span.lot}
    return about | found
