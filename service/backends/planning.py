"""`auto` for the plan of a CPU: which of service.backends.plans is best here, measured once and kept.

    <cache>/plans/<sha256 of model, runtime and threads>.json    Planned below

It is measured in the trial of a new bundle (service.backends.trial), before the first image, and costs a later start
nothing. Networks below 10 ms, where the service's own work for an image decides and no measurement beside it tells
(service/RESULTS.md), or so long that a second image beside them is not worth their memory keep the rule's plan.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from service.backends.base import Backend, BackendError, Candidate, Scored, score_images
from service.backends.cpu_runtimes import open_on_cpu
from service.backends.golden import GoldenError, require_golden, require_golden_batches
from service.backends.kept import keep, read_kept
from service.backends.machine import cpu_name, runtime_versions, usable_cores
from service.backends.plans import Plan, PlanChoice, Timed, choose, others
from service.backends.timing import images_per_s, seconds_alone
from service.bundle.folder import Bundle
from service.images.decoding import Pixels

# Seconds of one image between which plans are measured.
_SHORT_S, _LONG_S = 0.01, 0.1

log = logging.getLogger("draem_inspect")


class PlanKey(BaseModel):
    """What a measurement depends on; one made under other circumstances is made again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    onnx_sha256: str
    candidate: str
    versions: dict[str, str]
    cpu: str
    cores: int
    threads: int
    max_batch: int


class Planned(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    key: PlanKey
    chosen: Plan
    alone_ms: float
    timed: list[Timed]
    created: datetime

    def __str__(self) -> str:
        why = ", ".join(map(str, self.timed)) or "the rule"
        return f"{self.chosen} of {why}; one image alone {self.alone_ms:.1f} ms"


def open_planned(
    bundle: Bundle,
    candidate: Candidate,
    *,
    threads: int,
    cache: Path,
    plan: PlanChoice | None,
    max_batch: int,
    measure: bool = True,
    opener: Callable[..., Backend] = open_on_cpu,
) -> Backend:
    """`candidate` by `plan`: None is the rule's, `auto` the one in the cache, else measured now, or the rule's where
    nothing is to be measured. No batch is larger than `max_batch`, by which the service will run it.
    """
    rule = Plan.by_rule(threads)
    if plan != "auto":
        return opener(bundle, candidate, threads=threads, plan=Plan.read(plan) if plan else rule)
    key = PlanKey(
        onnx_sha256=bundle.model_sha256(candidate.precision),
        candidate=str(candidate),
        versions=runtime_versions(),
        cpu=cpu_name(),
        cores=usable_cores(),
        threads=threads,
        max_batch=max_batch,
    )
    named = hashlib.sha256(f"{key.onnx_sha256} {key.candidate} {threads}".encode()).hexdigest()[:16]
    path = cache / "plans" / f"{named}.json"
    planned = read_kept(path, Planned)
    if planned is None or planned.key != key:
        if not measure:
            log.info("plan: %s, the rule's: none was measured for this machine", rule)
            return opener(bundle, candidate, threads=threads, plan=rule)
        backend = opener(bundle, candidate, threads=threads, plan=rule)
        try:
            planned = _measured(bundle, candidate, key, backend, opener)
        except BaseException:
            backend.close()
            raise
        keep(path, planned)
        if planned.chosen == rule:
            log.info("plan: %s", planned)
            return backend
        backend.close()
    log.info("plan: %s", planned)
    return opener(bundle, candidate, threads=threads, plan=planned.chosen)


def _measured(
    bundle: Bundle, candidate: Candidate, key: PlanKey, by_rule: Backend, opener: Callable[..., Backend]
) -> Planned:
    rule = Plan.by_rule(key.threads)
    alone_s = seconds_alone(bundle, by_rule)
    timed: list[Timed] = []
    if _SHORT_S <= alone_s <= _LONG_S:
        before = images_per_s(bundle, by_rule, rule.batch, alone_s)
        tried = [
            one
            for plans in others(key.threads, key.max_batch)
            for one in _try(bundle, candidate, key, plans, alone_s, opener)
        ]
        # Again: a machine that was slow for a while must not decide, and what is chosen is kept.
        per_s = max(before, images_per_s(bundle, by_rule, rule.batch, alone_s))
        timed = [Timed(plan=rule, per_s=round(per_s, 2)), *tried]
    return Planned(
        key=key,
        chosen=choose(timed[0], timed[1:], alone_s) if timed else rule,
        alone_ms=round(1000 * alone_s, 3),
        timed=timed,
        created=datetime.now(UTC),
    )


def _try(
    bundle: Bundle,
    candidate: Candidate,
    key: PlanKey,
    plans: list[Plan],
    alone_s: float,
    opener: Callable[..., Backend],
) -> list[Timed]:
    """Plans that one backend can run, opened for the last of them."""
    try:
        backend = opener(bundle, candidate, threads=key.threads, plan=plans[-1])
    except BackendError as error:
        return [Timed(plan=plan, refused=str(error)) for plan in plans]
    try:
        _require_golden(bundle, backend)
        return [Timed(plan=plan, per_s=round(images_per_s(bundle, backend, plan.batch, alone_s), 2)) for plan in plans]
    except (BackendError, GoldenError) as error:
        return [Timed(plan=plan, refused=str(error)) for plan in plans]
    finally:
        backend.close()


def _require_golden(bundle: Bundle, backend: Backend) -> None:
    """The golden gate, as it will be once the plan serves: from each run side by side, and in each batch."""

    def side_by_side(image: Pixels) -> list[Scored]:
        with ThreadPoolExecutor(backend.lanes) as lanes:
            found = lanes.map(lambda _: score_images(backend, [image])[0], range(backend.lanes))
            return list(found)

    def together(images: list[Pixels]) -> list[Scored]:
        maps, scores = backend.run(np.stack(images))
        return [Scored(anomaly_map, float(score)) for anomaly_map, score in zip(maps, scores, strict=True)]

    require_golden(bundle, backend.precision, side_by_side)
    require_golden_batches(bundle, backend.precision, together, backend.max_batch_size)
