"""What computes: the queue in front of the device, the trials of new models, the pool that decodes images."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2

from service import memory
from service.assembly.parts import Parts
from service.assembly.trust import Trust
from service.backends.base import Backend
from service.backends.trial import Trials
from service.bundle.folder import Bundle
from service.settings import Settings
from service.station.batching import Batcher
from service.station.decode_pool import Codec
from service.station.monitoring import Metrics
from service.station.priority import yield_to_requests
from service.station.recipes import RecipeStore


@dataclass(frozen=True)
class Devices:
    batcher: Batcher
    trials: Trials
    codec: Codec
    threads: int

    @classmethod
    def of(cls, settings: Settings, parts: Parts, metrics: Metrics) -> Devices:
        # One image is too small to share among threads; the pool decodes several at once instead.
        cv2.setNumThreads(1)
        threads = settings.threads or _available_cores()
        return cls(
            Batcher(
                max_batch=settings.max_batch,
                queue_size=settings.queue_size,
                idle_tick_s=settings.idle_tick_s,
                hung_s=parts.hung_s,
                on_batch=metrics.batch_size.observe,
            ),
            Trials(
                settings.backend,
                threads=threads,
                precision=settings.precision,
                cache=settings.cache_dir,
                run_s=parts.trial_run_s,
            ),
            Codec(settings.codec_threads),
            threads,
        )

    def recipes(
        self, settings: Settings, parts: Parts, trust: Trust, *, on_refused: Callable[[str], None]
    ) -> RecipeStore:
        return RecipeStore(
            settings.models_dir,
            self.batcher,
            lambda bundle: self._open(bundle, settings, parts),
            default=settings.default_recipe,
            check_bundle=trust.check_bundle,
            on_refused=on_refused,
            on_endless=self.trials.remember_endless,
            decisions=trust.decisions,
            forbid_older=settings.forbid_older,
            serve_unfit=settings.serve_unfit,
        )

    def _open(self, bundle: Bundle, settings: Settings, parts: Parts) -> Backend:
        """Open a backend in a thread that gives way to requests: the threads that the runtime starts then do so too."""
        self.trials.require_harmless(bundle)
        # What the model before the last one had.
        memory.give_back()
        with ThreadPoolExecutor(1, initializer=yield_to_requests) as thread:
            return thread.submit(
                parts.open_backend,
                bundle,
                settings.backend,
                threads=self.threads,
                precision=settings.precision,
                max_batch=settings.max_batch,
                cache=settings.cache_dir,
                engine_policy=settings.engine_policy,
            ).result()


def _available_cores() -> int:
    """Cores that this process may use: its affinity, less where a container's CPU quota (cgroup v2) is smaller."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    return cores
