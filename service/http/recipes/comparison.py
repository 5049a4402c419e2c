"""A version beside the one in service, before it serves."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service import memory
from service.backends.base import BackendError
from service.bundle.manifest import BundleError
from service.comparing.page import to_html
from service.http.context import choose_recipe, station_of
from service.http.problems import openapi_responses
from service.http.recipes.versions import PAGE_HEADERS, shelf_of
from service.station.comparing import compare_versions, opener
from service.station.database import RecordsError
from service.station.limits import LimitsError
from service.station.priority import yield_to_requests
from service.station.problem import ProblemError

router = APIRouter(responses=openapi_responses())


@router.get("/recipes/{recipe}/versions/{version}/comparison.html", response_class=Response, tags=["comparing"])
async def comparison(
    request: Request,
    recipe: str,
    version: str,
    most: Annotated[int, Query(ge=1, le=2000, description="images, those that people reviewed first")] = 200,
) -> Response:
    """A version beside the one in service, on images that the records kept: what it would have said, before it serves.

    It takes as long as the images take twice on one core that inspections need less.
    """
    station = station_of(request)
    station.access.require(request, "admin")
    if station.records is None:
        raise ProblemError("not_found", "this service keeps no records: set INSPECT_RECORDS_DIR")
    serving = choose_recipe(station, recipe).version
    if version not in (await shelf_of(request, recipe)).names:
        raise ProblemError("not_found", f"recipe {recipe!r} has no version {version!r}")
    compared = partial(
        compare_versions,
        station.settings.models_dir / recipe,
        (serving, version),
        station.records,
        opener(station.settings.cache_dir),
        decisions=station.recipes.decisions,
        most=most,
        max_pixels=station.settings.max_pixels,
    )
    try:
        # One at a time, and in a thread that gives way to the line.
        async with station.comparing:
            with ThreadPoolExecutor(1, initializer=yield_to_requests) as thread:
                found = await asyncio.get_running_loop().run_in_executor(thread, compared)
    except (BundleError, LimitsError, ValueError, OSError) as error:
        raise ProblemError("not_found", f"the versions cannot be compared: {error}") from error
    except BackendError as error:
        raise ProblemError("backend_failed", str(error), retry_after_s=5.0) from error
    except RecordsError as error:
        raise ProblemError("records_unavailable", str(error), retry_after_s=5.0) from error
    finally:
        memory.give_back()
    return Response(
        to_html(found, f"{recipe}: version {version}, before it serves"), media_type="text/html", headers=PAGE_HEADERS
    )
