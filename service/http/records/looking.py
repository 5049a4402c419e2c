"""A look into the records for a request: who may, one at a time, and what is said where nothing is found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request

from service.http.access import Right
from service.http.context import station_of
from service.station.database import RecordsError
from service.station.problem import ProblemError
from service.station.records import Records

T = TypeVar("T")


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


async def require(request: Request, inspection_id: str) -> dict[str, Any]:
    """An inspection on record; raises ProblemError where there is none."""
    found = await look(request, lambda records: records.find(inspection_id))
    if found is None:
        raise ProblemError("not_found", f"no inspection {inspection_id!r} in the records")
    return found


def without_row(one: dict[str, Any]) -> dict[str, Any]:
    """What a client gets of an inspection: its row is the page's cursor."""
    return {name: value for name, value in one.items() if name != "row"}
