"""The station: everything a request needs, made and closed by the app's lifespan."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from fastapi import Request

from service.http.foundation import Foundation
from service.station.batching import Batcher
from service.station.counters import Counters
from service.station.decisions import Decisions
from service.station.feed import Feed
from service.station.inspector import Inspector
from service.station.loading import Recipe
from service.station.problem import ProblemError
from service.station.recipes import RecipeNotReadyError, RecipeStore, UnknownRecipeError
from service.station.refusals import Refusals
from service.station.sampling import Sample
from service.station.triggers import Triggers


@dataclass(kw_only=True)
class Station(Foundation):
    """What the routes need; made and closed by the app's lifespan."""

    batcher: Batcher
    recipes: RecipeStore
    decisions: Decisions
    inspector: Inspector
    triggers: Triggers
    refusals: Refusals
    counters: Counters
    feed: Feed
    sample: Sample
    # Inspections need the threads that these use: a change of a recipe, or a look through the records, takes one.
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    comparing: asyncio.Lock = field(default_factory=asyncio.Lock)


def station_of(request: Request) -> Station:
    station: Station = request.state.station
    return station


def why_not_ready(station: Station) -> str | None:
    if station.drain.begun:
        return "draining: the service is shutting down"
    return _why_hung(station) or station.recipes.why_not_ready()


def why_not_alive(station: Station) -> str | None:
    """What a new process may cure and this one cannot. Waits for no lock."""
    return _why_hung(station) or _why_lost(station) or station.recipes.why_not_alive()


def troubles(station: Station) -> list[str]:
    """What is wrong and does not keep images from being inspected."""
    unchecked = [f"recipe {name}: {reason}" for name, reason in list(station.recipes.unchecked.items())]
    lost = [why] if (why := _why_lost(station)) else []
    return [*lost, *unchecked, *(station.records.troubles() if station.records else [])]


def shift_reply(station: Station) -> dict[str, object]:
    """The figures of the shift, and how many parts wait for a review."""
    waiting = 0 if station.records is None else station.records.open_reviews
    return station.counters.shift_totals() | {"open_reviews": waiting}


def reason_for(request: Request, reason: str | None) -> str | None:
    """The reason as this client may know it: those of recipes name folders and what is wrong in them."""
    station = station_of(request)
    general = reason is None or station.drain.begun or not station.recipes.loaded
    if general or station.access.may(request, "view"):
        return reason
    return "shown with an API key alone; the log has it too"


def _why_hung(station: Station) -> str | None:
    if hung := station.batcher.hung_s():
        return f"the device has been at one batch for {hung:.0f} s: restart the service"
    return None


def _why_lost(station: Station) -> str | None:
    if lost := station.batcher.lost:
        return f"{lost} runs never came back and go on computing: restart the service"
    return None


def counted_as(store: RecipeStore, name: str | None) -> str:
    """The name that a request's recipe is counted under; empty for one that is not known: names must not pile up."""
    with suppress(UnknownRecipeError):
        name = name or store.default_name()
    return name if name in store.ready or name in store.failed else ""


def is_collecting(station: Station, name: str) -> bool:
    """Whether a recipe has no model and collects photos for its first training: known once all were looked for."""
    store = station.recipes
    return store.loaded and name in store.collecting.names and name not in store.ready and name not in store.failed


def choose_recipe(station: Station, name: str | None, version: str | None = None) -> Recipe:
    """The recipe of this name, or the default one, in this `version` where one is asked for; raises ProblemError."""
    # One that is ready need not wait for the others.
    if not station.recipes.loaded and name not in station.recipes.ready:
        raise ProblemError("starting", "recipes are being loaded and checked", retry_after_s=1.0)
    try:
        recipe = station.recipes.get(name)
    except UnknownRecipeError as error:
        raise ProblemError("unknown_recipe", str(error)) from error
    except RecipeNotReadyError as error:
        raise ProblemError("recipe_not_ready", str(error)) from error
    if version not in {None, recipe.version}:
        raise ProblemError("unknown_recipe", f"version {version!r} of {name!r} is not in service: {recipe.version} is")
    return recipe
