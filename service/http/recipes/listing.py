"""The recipes, ready or not, with what is in their folders."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from fastapi import APIRouter, Request

from service.bundle.versions import Shelf
from service.http.context import Station, is_collecting, station_of
from service.http.problems import openapi_responses
from service.http.replies import CollectingReply, RecipeReply, recipe_reply
from service.station.collecting import collected, why_collecting
from service.station.database import RecordsError
from service.station.recipes import UnknownRecipeError

router = APIRouter(responses=openapi_responses())


@router.get("/recipes")
async def recipes(request: Request) -> list[RecipeReply]:
    """Every recipe found, ready or not, with all that is in its folder now."""
    station = station_of(request)
    station.access.require(request, "view")
    store = station.recipes
    shelves = await asyncio.to_thread(store.folder.shelves_now)
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
