"""The FastAPI application: resources, middleware, error handlers."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType

import cv2
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from service import memory
from service.backends.base import Backend, BackendError
from service.backends.golden import GoldenError
from service.backends.opening import open_backend
from service.backends.trial import Trials
from service.bundle.folder import Bundle
from service.http import health, inspect, live, open_inference
from service.http import recipes as recipe_routes
from service.http import records as record_routes
from service.http import statistics as statistics_routes
from service.http.access import Access
from service.http.addresses import Addresses
from service.http.context import Station, counted_as
from service.http.docs import add_docs
from service.http.draining import Drain
from service.http.failures import Failures
from service.http.middleware import RequestContext
from service.http.parameters import PlainFiles, refuse_unread
from service.http.problems import PROBLEMS, ProblemBody
from service.http.shortcut import Shortcut
from service.http.uploads import LARGEST_TOGETHER, Bodies
from service.settings import NO_HOST, Settings
from service.station.batching import Batcher
from service.station.counters import Counters
from service.station.database import RecordsError
from service.station.decisions import LEDGER, Decisions, read_key
from service.station.decode_pool import Codec
from service.station.feed import Feed
from service.station.inspection import Inspector
from service.station.monitoring import Metrics
from service.station.priority import yield_to_requests
from service.station.recipes import RecipeNotReadyError, RecipeStore
from service.station.records import Records
from service.station.refusals import Refusals
from service.station.sampling import Sample
from service.station.shifts import read_shifts
from service.station.tallies import counted, counted_since
from service.station.tracing import telemetry
from service.station.triggers import Triggers

log = logging.getLogger("draem_inspect")

# Seconds between two looks at which golden checks are due.
_CHECK_EVERY_S = 5.0
# Such looks after a change of version in which memory is given back.
_LOOKS_AFTER_SWAP = 6
# Seconds between two looks at runs that hang.
_LOOK_EVERY_S = 1.0


def create_app(settings: Settings) -> FastAPI:
    """The service for `settings`; recipes load in the background once it runs. Raises KeyFileError,
    RecordsError, and OSError or ValueError for a bad key to trust. `app.state.drain` is how its server says goodbye.
    """
    prefix = _prefix(settings)
    metrics = Metrics(PROBLEMS)
    access = Access(settings.api_keys_file, local_admin=settings.local_admin, open_views=settings.open_views)
    records = _open_records(settings, metrics)
    drain = Drain()
    lifespan = partial(
        _lifespan, settings, metrics, access, records, drain, _signature_check(settings), _decisions(settings)
    )
    app = FastAPI(
        title="draem-inspect",
        version="0.1.0",
        lifespan=lifespan,
        # `add_docs` serves both.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(refuse_unread)],
        servers=[{"url": prefix}] if prefix else None,
        telemetry=telemetry(),
    )
    app.state.drain = drain
    app.state.metrics = metrics
    for routes in (inspect, recipe_routes, record_routes, statistics_routes, health, live, open_inference):
        app.include_router(routes.router)
    app.mount("/web", PlainFiles(directory=Path(__file__).parent / "web"))
    add_docs(app, prefix)
    bodies = Bodies(LARGEST_TOGETHER * settings.max_upload_bytes)
    failures = Failures(metrics)
    app.add_middleware(Shortcut, routes=_api_routes(inspect), on_problem=failures.answer)
    app.add_middleware(RequestContext, metrics=metrics, drain=drain, bodies=bodies)
    app.add_middleware(Addresses, prefix=prefix, is_route=partial(_is_route, app))
    failures.handle_in(app)
    # Named in the table of problems, used by no route's signature.
    original = app.openapi

    def openapi() -> dict[str, object]:
        schema = original()
        schema.setdefault("components", {}).setdefault("schemas", {})["ProblemBody"] = ProblemBody.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _prefix(settings: Settings) -> str:
    """The prefix of all addresses; ValueError where it could be taken for a page."""
    begins = {"docs", "openapi.json", "web"} | {
        route.path.split("/")[1]
        for routes in (inspect, recipe_routes, record_routes, health, open_inference)
        for route in _api_routes(routes)
        if "GET" in (route.methods or ())
    }
    prefix = settings.root_path
    if prefix and prefix.split("/")[1] in begins:
        raise ValueError(f"INSPECT_ROOT_PATH {prefix} begins like an address of the service: choose another")
    return prefix


def _api_routes(routes: ModuleType) -> list[APIRoute]:
    return [route for route in routes.router.routes if isinstance(route, APIRoute)]


def _is_route(app: FastAPI, scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in app.router.routes)


@asynccontextmanager
async def _lifespan(
    settings: Settings,
    metrics: Metrics,
    access: Access,
    records: Records | None,
    drain: Drain,
    check_bundle: Callable[[Bundle], None],
    decisions: Decisions,
    app: FastAPI,
) -> AsyncIterator[dict[str, Station]]:
    # One image is too small to share among threads; the pool decodes several at once instead.
    cv2.setNumThreads(1)
    threads = settings.threads or _available_cores()
    codec = Codec(settings.codec_threads)
    batcher = Batcher(
        max_batch=settings.max_batch,
        queue_size=settings.queue_size,
        idle_tick_s=settings.idle_tick_s,
        on_batch=metrics.batch_size.observe,
    )
    trials = Trials(settings.backend, threads=threads, precision=settings.precision, cache=settings.cache_dir)
    triggers = Triggers(records, hours=settings.trigger_hours)
    store = RecipeStore(
        settings.models_dir,
        batcher,
        lambda bundle: _open_giving_way(bundle, settings, threads, trials),
        default=settings.default_recipe,
        check_bundle=check_bundle,
        on_refused=triggers.distrust,
        decisions=decisions,
        forbid_older=settings.forbid_older,
        serve_unfit=settings.serve_unfit,
    )
    counters = Counters(
        lambda recipe, code: metrics.not_inspected.labels(recipe, code).inc(), begins=read_shifts(settings.shifts)
    )
    if records is not None:
        # Without what was counted before, where the records cannot be read now.
        with suppress(RecordsError):
            counters.restore(records.ask(counted), records.ask(partial(counted_since, since=counters.shift.since)))
    feed = Feed()
    refusals = Refusals(records, counters, partial(counted_as, store), publish=feed.publish)
    sample = Sample(settings.sample_ok)
    inspector = Inspector(batcher, codec, metrics, counters, store.shadows)
    station = Station(
        settings, metrics, batcher, store, inspector, access, records, triggers, refusals, counters, drain, feed, sample
    )
    loading = asyncio.create_task(_load(station, trials))
    checking = [asyncio.create_task(task) for task in (_keep_checking(station, trials), _keep_device(station))]
    try:
        yield {"station": station}
    finally:
        drain.begin()
        for task in checking:
            task.cancel()
        refusals.sum_up()
        trials.close()
        # Requests are over; a device that hangs must not take the time that the records need.
        if records:
            await asyncio.to_thread(records.close)
        # Before the recipes have loaded: ends that too, also where the device hangs in a golden image.
        await asyncio.to_thread(batcher.close)
        await loading
        codec.close()
        store.close()


def _open_records(settings: Settings, metrics: Metrics) -> Records | None:
    if settings.records_dir is None:
        return None
    return Records(
        settings.records_dir,
        image_budget_bytes=settings.record_images_mb * 1_000_000,
        days=settings.records_days,
        on_lost=metrics.records_lost.inc,
        on_image_lost=metrics.record_images_lost.inc,
        key=None if settings.seal_key is None else read_key(settings.seal_key),
    )


def _open_giving_way(bundle: Bundle, settings: Settings, threads: int, trials: Trials) -> Backend:
    """Open a backend in a thread that gives way to requests: the threads that the runtime starts then do so too."""
    trials.require_harmless(bundle)
    # What the model before the last one had.
    memory.give_back()
    with ThreadPoolExecutor(1, initializer=yield_to_requests) as thread:
        return thread.submit(
            open_backend,
            bundle,
            settings.backend,
            threads=threads,
            precision=settings.precision,
            max_batch=settings.max_batch,
            cache=settings.cache_dir,
            engine_policy=settings.engine_policy,
        ).result()


def _signature_check(settings: Settings) -> Callable[[Bundle], None]:
    if settings.trusted_key is None:
        return lambda bundle: None
    # Only needed where signatures are required.
    from service.bundle.signing import load_public_key, require_signature

    key = load_public_key(settings.trusted_key)
    return lambda bundle: require_signature(bundle, key)


def _decisions(settings: Settings) -> Decisions:
    """What is believed of the files that say which version serves, and by which limits."""
    key = None if settings.seal_key is None else read_key(settings.seal_key)
    ledger = None if settings.records_dir is None else settings.records_dir / LEDGER
    return Decisions(key=key, closed=settings.trusted_key is not None, ledger=ledger)


def _available_cores() -> int:
    """Cores that this process may use: its affinity, less where a container's CPU quota (cgroup v2) is smaller."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    return cores


async def _load(station: Station, trials: Trials) -> None:
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
        await asyncio.to_thread(sys.stderr.write, _banner(station))


async def _keep_checking(station: Station, trials: Trials) -> None:
    """Repeat the golden check of recipes that are due, and of those whose backend failed: they may have recovered."""
    period_s = 3600 * station.settings.golden_check_hours
    serving: set[int] = set()
    looks = 0
    while True:
        await asyncio.sleep(_CHECK_EVERY_S)
        await _follow(station)
        before, serving = serving, {id(recipe.model) for recipe in list(station.recipes.ready.values())}
        looks = 0 if serving != before else looks + 1
        if station.recipes.loaded and looks:
            trials.rest()
        # Pictures under way may keep a model that was replaced for a while.
        if looks < _LOOKS_AFTER_SWAP:
            await asyncio.to_thread(memory.give_back)
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


async def _keep_device(station: Station) -> None:
    """Take the device from runs that hang, and their recipes out of service."""
    lost = 0
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
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


def _banner(station: Station) -> str:
    """Where the station is and what to try: lines to copy, so no log lines."""
    store, settings = station.recipes, station.settings
    recipe = store.ready.get(settings.default_recipe or "") or next(iter(store.ready.values()))
    golden = recipe.bundle.manifest.golden
    image = recipe.bundle.file(golden[min(1, len(golden) - 1)].image)
    host = "localhost" if settings.host in {"127.0.0.1", "0.0.0.0", "::"} else settings.host  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    address = f"{'http' if settings.tls_cert is None else 'https'}://{host}:{settings.port}{settings.root_path}"
    curl = f"curl -s -F image=@{image}"
    if settings.host == NO_HOST:
        return f"\n  {curl} --unix-socket {settings.unix_socket} 'http://localhost/inspect?recipe={recipe.name}'\n\n"
    return (
        f"\nopen {address} in a browser, or try:\n\n"
        f"  {curl} '{address}/inspect?recipe={recipe.name}'\n"
        f"  {curl} -H 'Accept: image/png' -o heatmap.png '{address}/inspect?recipe={recipe.name}'\n\n"
    )
