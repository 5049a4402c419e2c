"""The routes that change which version serves, whether it may, and the limits that it judges by."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request

from service.backends.base import BackendError
from service.backends.golden import GoldenError
from service.http.context import station_of
from service.http.problems import openapi_responses
from service.http.replies import RecipeReply, recipe_reply
from service.http.uploads import read_model
from service.station.limits import LimitsChange, LimitsError
from service.station.loading import Recipe
from service.station.problem import ProblemError
from service.station.recipes import ActivationError, RecipeNotReadyError, RecipeStore, UnknownRecipeError

log = logging.getLogger("draem_inspect")

router = APIRouter(responses=openapi_responses())


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
