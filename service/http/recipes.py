"""The routes that show recipes and change which version serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from service.backends.base import BackendError
from service.backends.golden import GoldenError
from service.http.context import choose_recipe, station_of
from service.http.problems import openapi_responses
from service.http.replies import RecipeReply, recipe_reply
from service.http.uploads import read_model
from service.station.limits import LimitsChange, LimitsError
from service.station.problem import ProblemError
from service.station.recipes import ActivationError, Recipe, RecipeNotReadyError, RecipeStore, UnknownRecipeError

log = logging.getLogger("draem_inspect")

router = APIRouter(responses=openapi_responses())


@router.get("/recipes")
async def recipes(request: Request) -> list[RecipeReply]:
    """Every recipe found, ready or not, with all its versions on disk."""
    station = station_of(request)
    station.access.require(request, "view")
    store = station.recipes
    ready = [recipe_reply(recipe) for recipe in store.ready.values()]
    failed = [RecipeReply(recipe=name, ready=False, reason=reason) for name, reason in store.failed.items()]
    versions = await asyncio.to_thread(store.versions)
    replies = [reply.model_copy(update={"versions": versions.get(reply.recipe, [])}) for reply in ready + failed]
    return sorted(replies, key=lambda reply: reply.recipe)


@router.post("/recipes/{recipe}/activate")
async def activate(request: Request, recipe: str, version: str) -> RecipeReply:
    """Load a version beside the one in service, check it on its golden images, then serve it."""
    return await _change_recipe(request, lambda store: store.activate(recipe, version))


@router.post("/recipes/{recipe}/rollback")
async def rollback(request: Request, recipe: str) -> RecipeReply:
    """Serve the version that served before."""
    return await _change_recipe(request, lambda store: store.rollback(recipe))


@router.post("/recipes/{recipe}/shadow")
async def shadow(
    request: Request,
    recipe: str,
    version: Annotated[str | None, Query(description="left out: no shadow any more")] = None,
) -> RecipeReply:
    """Let a version see what the one in service sees, without a say; `inspect_shadow_verdicts_total` compares them."""

    def change(store: RecipeStore) -> Recipe:
        store.shadow(recipe, version)
        return store.get(recipe)

    return await _change_recipe(request, change)


@router.post("/recipes/{recipe}/verify")
async def verify(request: Request, recipe: str) -> RecipeReply:
    """Run the golden gate again on what is in service; a recipe that fails it stops serving."""
    return await _change_recipe(request, lambda store: store.verify(recipe))


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
    by = station_of(request).access.require(request, "admin")
    # Read here, and not as a parameter: those are read and parsed before anybody asks who sends them.
    change = await read_model(request, LimitsChange)
    reply = await _change_recipe(request, lambda store: store.change_limits(recipe, change, by))
    log.warning(
        "limits of recipe %s version %s changed by %s: %s",
        *(reply.recipe, reply.version, by, change.model_dump_json(exclude_unset=True)),
    )
    return reply


@router.post("/recipes/{recipe}/limits/reset")
async def reset_limits(request: Request, recipe: str) -> RecipeReply:
    """Go back to the limits of the manifest."""
    by = station_of(request).access.require(request, "admin")
    reply = await _change_recipe(request, lambda store: store.reset_limits(recipe))
    log.warning("limits of recipe %s version %s set back to the manifest's by %s", reply.recipe, reply.version, by)
    return reply


@router.get("/recipes/{recipe}/golden/{index}.png", response_class=FileResponse)
async def golden_image(request: Request, recipe: str, index: int) -> FileResponse:
    """A golden image of the recipe: something to try it on."""
    station = station_of(request)
    station.access.require(request, "inspect")
    bundle = choose_recipe(station, recipe).bundle
    if not 0 <= index < len(bundle.manifest.golden):
        raise ProblemError("not_found", f"recipe {recipe!r} has golden images 0 to {len(bundle.manifest.golden) - 1}")
    return FileResponse(bundle.file(bundle.manifest.golden[index].image), media_type="image/png")


@router.get("/recipes/{recipe}/keep.png", response_class=FileResponse)
async def keep_mask(request: Request, recipe: str) -> FileResponse:
    """Where anomalies count (white) and where they are ignored (black), at the network's size; 404 where all counts."""
    station = station_of(request)
    station.access.require(request, "inspect")
    bundle = choose_recipe(station, recipe).bundle
    if bundle.manifest.keep_mask is None:
        raise ProblemError("not_found", f"recipe {recipe!r} ignores nothing")
    return FileResponse(bundle.file(bundle.manifest.keep_mask), media_type="image/png")


async def _change_recipe(request: Request, change: Callable[[RecipeStore], Recipe]) -> RecipeReply:
    station = station_of(request)
    station.access.require(request, "admin")
    if not station.recipes.loaded:
        raise ProblemError("starting", "recipes are being loaded and checked", retry_after_s=1.0)
    try:
        async with station.changing:
            recipe = await asyncio.to_thread(change, station.recipes)
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
