"""The versions in a recipe's folder, and the report that training wrote with each."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from service.bundle.folder import Bundle, read_manifest
from service.bundle.manifest import BundleError
from service.bundle.versions import Shelf
from service.http.context import station_of
from service.http.problems import openapi_responses
from service.station.problem import ProblemError

_REPORT = "report.html"
# It may show what is in it, run nothing, and ask for nothing; the page puts it into a frame.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; "
    "base-uri 'none'; sandbox",
    "X-Frame-Options": "SAMEORIGIN",
}

router = APIRouter(responses=openapi_responses())


@router.get("/recipes/{recipe}/versions")
async def versions(request: Request, recipe: str) -> list[dict[str, Any]]:
    """The versions in the recipe's folder, oldest first: which one serves, which are newer, and what is wrong."""
    station = station_of(request)
    station.access.require(request, "view")
    shelf = await shelf_of(request, recipe)
    active = station.recipes.ready[recipe].version if recipe in station.recipes.ready else None
    newer = shelf.newer_than(active) if active else []
    folder = station.settings.models_dir / recipe
    return [
        {
            "version": version.name,
            "created": None if version.created is None else version.created.isoformat(timespec="seconds"),
            "active": version.name == active,
            "newer": version.name in newer,
            "report": version.fault is None and (folder / version.name / _REPORT).is_file(),
            "fault": version.fault,
        }
        for version in shelf.versions
    ]


@router.get("/recipes/{recipe}/versions/{version}/report.html", response_class=Response)
async def report(request: Request, recipe: str, version: str) -> Response:
    """The report that training wrote with a version."""
    station = station_of(request)
    station.access.require(request, "inspect")
    if version not in (await shelf_of(request, recipe)).names:
        raise ProblemError("not_found", f"recipe {recipe!r} has no version {version!r}")
    folder = station.settings.models_dir / recipe / version
    try:
        bundle = Bundle(folder, await asyncio.to_thread(read_manifest, folder))
        if _REPORT not in bundle.manifest.files:
            raise ProblemError("not_found", f"version {version!r} of recipe {recipe!r} came without a report")
        page = await asyncio.to_thread(bundle.read, _REPORT)
    except (BundleError, OSError) as error:
        raise ProblemError("not_found", f"the report cannot be shown: {error}") from error
    return Response(page, media_type="text/html", headers=PAGE_HEADERS)


async def shelf_of(request: Request, recipe: str) -> Shelf:
    """What the folder of a recipe holds now; raises ProblemError where there is no such recipe."""
    shelves = await asyncio.to_thread(station_of(request).recipes.folder.shelves_now)
    if recipe not in shelves:
        raise ProblemError("unknown_recipe", f"no recipe {recipe!r}")
    return shelves[recipe]
