"""Who decided what about the recipes, and when."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from service.http.context import station_of
from service.http.problems import openapi_responses
from service.station.problem import ProblemError

router = APIRouter(responses=openapi_responses())


@router.get("/decisions", tags=["recipes"])
async def decisions(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
    """Versions that were activated, thresholds that were changed, defaults: by whom and when, newest first."""
    station = station_of(request)
    station.access.require(request, "view")
    try:
        found = await asyncio.to_thread(station.decisions.history)
    except OSError as error:
        raise ProblemError("records_unavailable", str(error), retry_after_s=5.0) from error
    return [asdict(one) for one in found[:limit]]
