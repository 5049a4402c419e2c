"""The routes that show recipes and change which version serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service import memory
from service.backends.base import BackendError
from service.backends.golden import GoldenError
from service.backends.opening import open_backend
from service.bundle.folder import Bundle, read_manifest
from service.bundle.manifest import BundleError
from service.bundle.versions import Shelf
from service.comparing.page import to_html
from service.http.context import Station, choose_recipe, is_collecting, station_of
from service.http.problems import openapi_responses
from service.http.replies import CollectingReply, RecipeReply, recipe_reply
from service.http.uploads import read_model
from service.station.collecting import collected, why_collecting
from service.station.comparing import compare_versions
from service.station.database import RecordsError
from service.station.limits import LimitsChange, LimitsError
from service.station.loading import Recipe
from service.station.priority import yield_to_requests
from service.station.problem import ProblemError
from service.station.recipes import ActivationError, RecipeNotReadyError, RecipeStore, UnknownRecipeError

log = logging.getLogger("draem_inspect")

_REPORT = "report.html"
# It may show what is in it, run nothing, and ask for nothing; the page puts it into a frame.
_REPORT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; "
    "base-uri 'none'; sandbox",
    "X-Frame-Options": "SAMEORIGIN",
}

router = APIRouter(responses=openapi_responses())


@router.get("/recipes")
async def recipes(request: Request) -> list[RecipeReply]:
    """Every recipe found, ready or not, with all that is in its folder now."""
    station = station_of(request)
    station.access.require(request, "view")
    store = station.recipes
    shelves = await asyncio.to_thread(store.shelves)
    replies = {name: RecipeReply(recipe=name, ready=False, reason=reason) for name, reason in store.failed.items()}
    replies |= {name: recipe_reply(recipe) for name, recipe in store.ready.items()}
    for name in shelves.keys() - replies.keys():
        if shelves[name].versions:
            replies[name] = RecipeReply(recipe=name, ready=False, reason="it appeared just now")
    for name in store.collecting.names:
        if is_collecting(station, name):
            replies[name] = RecipeReply(
                recipe=name, ready=False, reason=why_collecting(name), collecting=await _collecting(station, name)
            )
    try:
        default: str | None = store.default_name()
    except UnknownRecipeError:
        default = None
    shadows = {name: recipe.version for name, recipe in list(store.shadows.items())}
    return [
        _with_folder(replies[name], shelves.get(name, Shelf([], {}))).model_copy(
            update={"default": name == default, "shadow": shadows.get(name)}
        )
        for name in sorted(replies)
    ]


async def _collecting(station: Station, name: str) -> CollectingReply:
    photos, choice = None, station.recipes.collecting.names[name]
    if station.records is not None:
        with suppress(RecordsError):
            photos = await asyncio.to_thread(station.records.ask, partial(collected, recipe=name))
    return CollectingReply(photos=photos, since=choice.since, by=choice.by)


def _with_folder(reply: RecipeReply, shelf: Shelf) -> RecipeReply:
    found = {"versions": shelf.names, "faulty": shelf.faults, "ignored": shelf.ignored}
    newer = shelf.newer_than(reply.version) if reply.version else []
    return reply.model_copy(update={**found, "newer": newer})


@router.post("/recipes/{recipe}/activate")
async def activate(request: Request, recipe: str, version: str) -> RecipeReply:
    """Load a version beside the one in service, check it on its golden images, then serve it."""
    return await _change_recipe(request, lambda store, by: store.activate(recipe, version, by))


@router.post("/recipes/{recipe}/rollback")
async def rollback(request: Request, recipe: str) -> RecipeReply:
    """Serve the version that served before."""
    return await _change_recipe(request, lambda store, by: store.rollback(recipe, by))


@router.post("/recipes/{recipe}/default")
async def make_default(request: Request, recipe: str) -> RecipeReply:
    """Let requests that name no recipe be for this one; kept over restarts, whatever recipes come beside it."""
    return await _change_recipe(request, lambda store, by: store.make_default(recipe, by))


@router.post("/recipes/{recipe}/shadow")
async def shadow(
    request: Request,
    recipe: str,
    version: Annotated[str | None, Query(description="left out: no shadow any more")] = None,
) -> RecipeReply:
    """Let a version see what the one in service sees, without a say; `inspect_shadow_verdicts_total` compares them."""

    def change(store: RecipeStore, by: str) -> Recipe:
        store.shadow(recipe, version)
        return store.get(recipe)

    return await _change_recipe(request, change)


@router.post("/recipes/{recipe}/verify")
async def verify(request: Request, recipe: str) -> RecipeReply:
    """Run the golden gate again on what is in service; a recipe that fails it stops serving."""
    return await _change_recipe(request, lambda store, by: store.verify(recipe))


@router.patch(
    "/recipes/{recipe}/limits",
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": LimitsChange.model_json_schema()}}}
    },
)
async def change_limits(request: Request, recipe: str) -> RecipeReply:
    """Judge by other thresholds or quality limits from now on, without a new version; kept over restarts.

    null takes the value of the manifest again. The change belongs to the version in service.
    """
    station_of(request).access.require(request, "admin")
    # Read here, and not as a parameter: those are read and parsed before anybody asks who sends them.
    change = await read_model(request, LimitsChange)

    def changed(store: RecipeStore, by: str) -> Recipe:
        found = store.change_limits(recipe, change, by)
        log.warning(
            "limits of recipe %s version %s changed by %s: %s",
            *(found.name, found.version, by, change.model_dump_json(exclude_unset=True)),
        )
        return found

    return await _change_recipe(request, changed)


@router.post("/recipes/{recipe}/limits/reset")
async def reset_limits(request: Request, recipe: str) -> RecipeReply:
    """Go back to the limits of the manifest."""

    def reset(store: RecipeStore, by: str) -> Recipe:
        found = store.reset_limits(recipe, by)
        log.warning("limits of recipe %s version %s set back to the manifest's by %s", found.name, found.version, by)
        return found

    return await _change_recipe(request, reset)


@router.get("/recipes/{recipe}/versions")
async def versions(request: Request, recipe: str) -> list[dict[str, Any]]:
    """The versions in the recipe's folder, oldest first: which one serves, which are newer, and what is wrong."""
    station = station_of(request)
    station.access.require(request, "view")
    shelf = await _shelf(request, recipe)
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
    if version not in (await _shelf(request, recipe)).names:
        raise ProblemError("not_found", f"recipe {recipe!r} has no version {version!r}")
    folder = station.settings.models_dir / recipe / version
    try:
        bundle = Bundle(folder, await asyncio.to_thread(read_manifest, folder))
        if _REPORT not in bundle.manifest.files:
            raise ProblemError("not_found", f"version {version!r} of recipe {recipe!r} came without a report")
        page = await asyncio.to_thread(bundle.read, _REPORT)
    except (BundleError, OSError) as error:
        raise ProblemError("not_found", f"the report cannot be shown: {error}") from error
    return Response(page, media_type="text/html", headers=_REPORT_HEADERS)


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
    if version not in (await _shelf(request, recipe)).names:
        raise ProblemError("not_found", f"recipe {recipe!r} has no version {version!r}")
    compared = partial(
        compare_versions,
        station.settings.models_dir / recipe,
        (serving, version),
        station.records,
        partial(open_backend, choice="ort-cpu", threads=1, precision="fp32", cache=station.settings.cache_dir),
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
    return Response(to_html(found, f"{version} before it serves"), media_type="text/html", headers=_REPORT_HEADERS)


async def _shelf(request: Request, recipe: str) -> Shelf:
    shelves = await asyncio.to_thread(station_of(request).recipes.shelves)
    if recipe not in shelves:
        raise ProblemError("unknown_recipe", f"no recipe {recipe!r}")
    return shelves[recipe]


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


async def _change_recipe(request: Request, change: Callable[[RecipeStore, str], Recipe]) -> RecipeReply:
    station = station_of(request)
    by = station.access.require(request, "admin")
    if not station.recipes.loaded:
        raise ProblemError("starting", "recipes are being loaded and checked", retry_after_s=1.0)
    try:
        async with station.changing:
            recipe = await asyncio.to_thread(change, station.recipes, by)
    except UnknownRecipeError as error:
        raise ProblemError("unknown_recipe", str(error)) from error
    except (RecipeNotReadyError, GoldenError) as error:
        raise ProblemError("recipe_not_ready", str(error)) from error
    except BackendError as error:
        raise ProblemError("backend_failed", str(error), retry_after_s=5.0) from error
    except LimitsError as error:
        raise ProblemError("limits_refused", str(error)) from error
    except ActivationError as error:
        raise ProblemError("activation_failed", str(error)) from error
    log.info("recipe %s: version %s is in service, checked %s", recipe.name, recipe.version, recipe.checked)
    return recipe_reply(recipe)
