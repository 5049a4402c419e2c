"""What the station does beside requests: loading, golden checks, a look for new versions and for runs that hang."""

from __future__ import annotations

import asyncio
import logging
import sys
import time

from service import memory
from service.assembly.banner import banner
from service.assembly.parts import Parts
from service.backends.base import BackendError
from service.backends.golden import GoldenError
from service.backends.trial import Trials
from service.http.context import Station
from service.station.loading import let_rest
from service.station.recipes import RecipeNotReadyError

log = logging.getLogger("draem_inspect")

# Looks after a change of version in which memory is given back.
_LOOKS_AFTER_SWAP = 6


async def load(station: Station, trials: Trials) -> None:
    store = station.recipes
    try:
        await asyncio.to_thread(store.load)
    except Exception:
        log.exception("%s could not be searched for recipes", station.settings.models_dir)
    trials.rest()
    if station.drain.begun:
        return
    for failed, reason in store.failed.items():
        log.error("recipe %s is not ready: %s", failed, reason)
    for recipe in store.ready.values():
        backend = recipe.model.backend
        log.info(
            "recipe %s version %s is ready on %s %s; this version was %s",
            *(recipe.name, recipe.version, backend.name, backend.precision, recipe.why),
        )
    if why := store.why_not_ready():
        log.error("not ready: %s", why)
    elif station.settings.banner:
        # A terminal that nobody reads must not stop the station.
        await asyncio.to_thread(sys.stderr.write, banner(station))


async def keep_checking(station: Station, trials: Trials, parts: Parts) -> None:
    """Repeat the golden check of recipes that are due, and of those whose backend failed: they may have recovered."""
    period_s = 3600 * station.settings.golden_check_hours
    serving: set[int] = set()
    looks = 0
    while True:
        await asyncio.sleep(parts.check_every_s)
        await _follow(station)
        before, serving = serving, {id(recipe.model) for recipe in list(station.recipes.ready.values())}
        looks = 0 if serving != before else looks + 1
        if station.recipes.loaded and looks:
            trials.rest()
        # Images under way may keep a model that was replaced for a while.
        if looks < _LOOKS_AFTER_SWAP:
            await asyncio.to_thread(memory.give_back)
        await _let_idle_rest(station, parts.idle_s)
        for name, recipe in list(station.recipes.ready.items()):
            due = period_s and time.monotonic() - recipe.checked_at > period_s
            if not (due or recipe.model.failures):
                continue
            try:
                async with station.changing:
                    await asyncio.to_thread(station.recipes.verify, name)
            except (BackendError, RecipeNotReadyError):
                continue
            except GoldenError as error:
                log.error("recipe %s is out of service: %s", name, error)
            # A check that could not be made must not be the last one.
            except Exception:
                log.exception("recipe %s: the golden check ended early", name)


async def _let_idle_rest(station: Station, idle_s: float) -> None:
    """Of many recipes a line runs one: the others keep their weights, and no memory for runs."""
    for recipe in list(station.recipes.ready.values()):
        model = recipe.model
        if not model.rests and time.monotonic() - model.ran_at > idle_s:
            await asyncio.to_thread(let_rest, recipe)


async def keep_device(station: Station, parts: Parts) -> None:
    """Take the device from runs that hang, and their recipes out of service."""
    lost = 0
    while True:
        await asyncio.sleep(parts.look_every_s)
        station.batcher.give_up_hung()
        if station.batcher.lost > lost:
            await asyncio.to_thread(station.recipes.take_out_endless)
        lost = station.batcher.lost


async def _follow(station: Station) -> None:
    """Let the station know of recipes and versions that came, went or were repaired since."""
    store = station.recipes
    if not store.loaded:
        return
    try:
        async with station.changing:
            tried = await asyncio.to_thread(store.follow)
    except OSError as error:
        # Away for a moment: what serves is in memory.
        log.debug("%s cannot be looked at now: %s", station.settings.models_dir, error)
        return
    except Exception:
        log.exception("%s could not be searched for recipes", station.settings.models_dir)
        return
    for name in tried:
        if recipe := store.ready.get(name):
            log.warning("recipe %s version %s is ready now; this version was %s", name, recipe.version, recipe.why)
        else:
            log.error("recipe %s is not ready: %s", name, store.failed.get(name))
