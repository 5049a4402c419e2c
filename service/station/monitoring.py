"""Prometheus metrics of one station, on a registry of its own. Labels are recipes, stages, verdicts, codes: no ids."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, Summary

from service.station.recipes import RecipeStore
from service.station.verdicts import Verdict

STAGES = ("read", "decode", "quality", "queue", "model", "postprocess", "total")
SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SCORES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Series of which the way to them is kept.
_REMEMBERED = 1024


class Metrics:
    """All families; `registry` is what /metrics shows."""

    def __init__(self, problem_codes: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        # CPU time, memory, open files, start of this process, under the names that every dashboard knows.
        ProcessCollector(registry=self.registry)
        self.seconds = Histogram(
            "inspect_stage_seconds",
            "Time of an inspection by stage; quality is measured beside queue and model, total is from the request's "
            "first byte to the finished result",
            ["recipe", "stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.verdicts = Counter(
            "inspect_verdicts", "Inspections by verdict", ["recipe", "verdict"], registry=self.registry
        )
        self.faults = Counter(
            "inspect_picture_faults",
            "Images that failed the quality gate, by kind",
            ["recipe", "fault"],
            registry=self.registry,
        )
        self.errors = Counter("inspect_errors", "Requests that ended in a problem", ["code"], registry=self.registry)
        # A series that begins with its first event hides that event from rate() and increase().
        for code in problem_codes:
            self.errors.labels(code)
        self.not_inspected = Counter(
            "inspect_not_inspected",
            "Parts without inspection, by the code of the problem or the kind of the image's first fault; an empty "
            "recipe: none that is known",
            ["recipe", "code"],
            registry=self.registry,
        )
        self.deadline_used = Histogram(
            "inspect_deadline_used_ratio",
            "Share of its deadline that a finished inspection took; one that needs more is an error, not here",
            ["recipe"],
            buckets=RATIOS,
            registry=self.registry,
        )
        self.brightness = Summary(
            "inspect_picture_brightness_ratio",
            "Brightness of images within the recipe's limits: 0 at the darkest allowed, 1 at the brightest",
            ["recipe"],
            registry=self.registry,
        )
        self.refusal_seconds = Histogram(
            "inspect_refusal_seconds",
            "Time from the start of a request to its refusal for overload",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.scores = Histogram(
            "inspect_score", "Anomaly score of inspected images", ["recipe"], buckets=SCORES, registry=self.registry
        )
        self.batch_size = Histogram(
            "inspect_batch_size",
            "Images in one run of the backend",
            buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32, 64),
            registry=self.registry,
        )
        self.shadow = Counter(
            "inspect_shadow_verdicts",
            "Verdicts of a shadow version beside those of the version in service",
            ["recipe", "verdict", "shadow_verdict"],
            registry=self.registry,
        )
        self.records_lost = Counter(
            "inspect_records_lost", "Inspections that could not be recorded", registry=self.registry
        )
        self.record_images_lost = Counter(
            "inspect_record_images_lost",
            "Images that could not be kept with their recorded inspection",
            registry=self.registry,
        )
        self.log_lines_lost = Counter(
            "inspect_log_lines_lost", "Log lines that nobody read in time", registry=self.registry
        )
        self.connections_evicted = Counter(
            "inspect_connections_evicted", "Connections that gave way to new ones", registry=self.registry
        )
        self.drift = Gauge(
            "inspect_score_drift",
            "Kolmogorov-Smirnov distance of the newest scores from calibration's good parts, 0 to 1",
            ["recipe"],
            registry=self.registry,
        )
        self.queue_depth = Gauge("inspect_queue_depth", "Images waiting for the backend", registry=self.registry)
        self.in_flight = Gauge("inspect_in_flight", "Inspections being worked on", registry=self.registry)
        self.ready = Gauge("inspect_ready", "1 when /readyz answers 200", registry=self.registry)
        self._recipe_ready = Gauge(
            "inspect_recipe_ready",
            "1 for a recipe that can inspect, 0 for one that was refused or whose backend fails",
            ["recipe"],
            registry=self.registry,
        )
        self._versions = Gauge(
            "inspect_recipe_versions",
            "Versions in a recipe's folder at the last look: newer than the one that serves, or faulty",
            ["recipe", "state"],
            registry=self.registry,
        )
        self._model = Gauge(
            "inspect_model_info",
            "1 for the recipe version in service, with what runs it",
            ["recipe", "version", "backend", "provider", "precision", "model_sha256"],
            registry=self.registry,
        )
        # Looking a series up costs more than counting.
        self.of_stage = lru_cache(_REMEMBERED)(self.seconds.labels)
        self.of_verdict = lru_cache(_REMEMBERED)(self.verdicts.labels)
        self.of_scores = lru_cache(_REMEMBERED)(self.scores.labels)
        self.of_deadline = lru_cache(_REMEMBERED)(self.deadline_used.labels)
        self.of_brightness = lru_cache(_REMEMBERED)(self.brightness.labels)

    def show_recipes(self, store: RecipeStore) -> None:
        """Make the families of recipes tell of exactly those in `store`."""
        self._model.clear()
        self._recipe_ready.clear()
        self._versions.clear()
        self.drift.clear()
        serving = {name: recipe.version for name, recipe in list(store.ready.items())}
        for name, (newer, faulty) in store.folder.versions_beside(serving).items():
            self._versions.labels(name, "newer").set(newer)
            self._versions.labels(name, "faulty").set(faulty)
        for name in list(store.failed):
            self._recipe_ready.labels(name).set(0)
        for name, recipe in list(store.ready.items()):
            backend = recipe.model.backend
            self._recipe_ready.labels(name).set(not recipe.model.failures)
            self._model.labels(
                name, recipe.version, backend.name, backend.provider, backend.precision, recipe.model_sha256
            ).set(1)
            for verdict in Verdict:
                self.verdicts.labels(name, verdict)
