"""How a bundle's model is opened: after its trial, and in a thread that gives way to requests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from service import memory
from service.assembly.parts import Parts
from service.backends.base import Backend
from service.backends.trial import Trials
from service.bundle.folder import Bundle
from service.settings import Settings
from service.station.priority import yield_to_requests


def model_opener(settings: Settings, parts: Parts, trials: Trials, threads: int) -> Callable[[Bundle], Backend]:
    def opened(bundle: Bundle) -> Backend:
        trials.require_harmless(bundle)
        # What the model before the last one had.
        memory.give_back()
        # The threads that the runtime starts then give way too.
        with ThreadPoolExecutor(1, initializer=yield_to_requests) as thread:
            return thread.submit(
                parts.open_backend,
                bundle,
                settings.backend,
                threads=threads,
                precision=settings.precision,
                max_batch=settings.max_batch,
                cache=settings.cache_dir,
                engine_policy=settings.engine_policy,
                plan=settings.cpu_plan,
            ).result()

    return opened
