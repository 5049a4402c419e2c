"""Images that came with the version in service: its golden images, and its mask of what counts."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from service.bundle.folder import Bundle
from service.bundle.manifest import BundleError
from service.http.context import choose_recipe, station_of
from service.http.problems import openapi_responses
from service.station.problem import ProblemError

router = APIRouter(responses=openapi_responses())


@router.get("/recipes/{recipe}/golden/{index}.png", response_class=Response)
async def golden_image(request: Request, recipe: str, index: int) -> Response:
    """A golden image of the recipe: something to try it on."""
    station = station_of(request)
    station.access.require(request, "inspect")
    bundle = choose_recipe(station, recipe).bundle
    if not 0 <= index < len(bundle.manifest.golden):
        raise ProblemError("not_found", f"recipe {recipe!r} has golden images 0 to {len(bundle.manifest.golden) - 1}")
    return await _file(bundle, bundle.manifest.golden[index].image)


@router.get("/recipes/{recipe}/keep.png", response_class=Response)
async def keep_mask(request: Request, recipe: str) -> Response:
    """Where anomalies count (white) and where they are ignored (black), at the network's size; 404 where all counts."""
    station = station_of(request)
    station.access.require(request, "inspect")
    bundle = choose_recipe(station, recipe).bundle
    if bundle.manifest.keep_mask is None:
        raise ProblemError("not_found", f"recipe {recipe!r} ignores nothing")
    return await _file(bundle, bundle.manifest.keep_mask)


async def _file(bundle: Bundle, name: str) -> Response:
    """An image of the bundle, as its manifest knows it."""
    try:
        return Response(await asyncio.to_thread(bundle.read, name), media_type="image/png")
    except (BundleError, OSError) as error:
        raise ProblemError("not_found", f"{name} is not what the manifest lists any more: {error}") from error
