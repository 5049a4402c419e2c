"""What computes: the queue in front of the device, the trials of new models, the pool that decodes images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2

from service.assembly.models import model_opener
from service.assembly.parts import Parts
from service.assembly.trust import Trust
from service.backends.machine import usable_cores
from service.backends.trial import Trials
from service.settings import Settings
from service.station.batching import Batcher
from service.station.decode_pool import Codec
from service.station.monitoring import Metrics
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
        threads = settings.threads or usable_cores()
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
                plan=settings.cpu_plan,
                max_batch=settings.max_batch,
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
            model_opener(settings, parts, self.trials, self.threads),
            default=settings.default_recipe,
            check_bundle=trust.check_bundle,
            on_refused=on_refused,
            on_endless=self.trials.remember_endless,
            decisions=trust.decisions,
            forbid_older=settings.forbid_older,
            serve_unfit=settings.serve_unfit,
        )
