"""`auto` on a CPU: which runtime and precision is fastest here, measured once and kept.

    <cache>/fastest/<sha256 of the models>-<backend>-<precision asked for>.json    Choice below

What misses a golden image does not come into question, however fast. The measurement is short; who needs a certain
runtime or precision asks for it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from service.backends.base import Backend, BackendError, Candidate, score_images
from service.backends.cpu_runtimes import open_on_cpu
from service.backends.golden import GoldenError, require_golden
from service.backends.kept import keep, read_kept
from service.backends.machine import cpu_name, runtime_versions
from service.backends.planning import open_planned
from service.backends.plans import Plan, PlanChoice
from service.backends.timing import seconds_alone
from service.bundle.folder import Bundle
from service.bundle.manifest import Precision

log = logging.getLogger("draem_inspect")


class ChoiceKey(BaseModel):
    """What a measurement depends on; one made under other circumstances is made again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    onnx_sha256: dict[Precision, str]
    candidates: list[str]
    versions: dict[str, str]
    cpu: str
    threads: int


class Measured(BaseModel):
    """Milliseconds for one image, or why this candidate does not come into question."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidate: str
    ms: float | None = None
    refused: str | None = None


class Choice(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    key: ChoiceKey
    chosen: str
    measured: list[Measured]
    created: datetime


def open_fastest(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    *,
    threads: int,
    cache: Path,
    plan: PlanChoice | None = None,
    max_batch: int = 8,
    measure_plans: bool = True,
    opener: Callable[..., Backend] = open_on_cpu,
) -> Backend:
    """The fastest of `candidates` that reproduces the golden images: the one in the cache, else measured now.

    Each is opened by `opener`, the fastest by `plan` and what follows it (service.backends.planning). Raises
    BackendError where none does; the message has every reason.
    """
    chosen = candidates[0] if len(candidates) == 1 else _fastest(bundle, candidates, threads, cache, opener)
    return open_planned(
        bundle,
        chosen,
        threads=threads,
        cache=cache,
        plan=plan,
        max_batch=max_batch,
        measure=measure_plans,
        opener=opener,
    )


def _fastest(
    bundle: Bundle, candidates: Sequence[Candidate], threads: int, cache: Path, opener: Callable[..., Backend]
) -> Candidate:
    key = _key(bundle, candidates, threads)
    path = cache / "fastest" / f"{_digest(key)}.json"
    choice = read_kept(path, Choice)
    if choice is None or choice.key != key:
        choice = _measure(bundle, candidates, key, opener)
        keep(path, choice)
    log.info("auto: %s of %s", choice.chosen, _told(choice.measured))
    return next(candidate for candidate in candidates if str(candidate) == choice.chosen)


def _measure(bundle: Bundle, candidates: Sequence[Candidate], key: ChoiceKey, opener: Callable[..., Backend]) -> Choice:
    measured = [_try(bundle, candidate, key.threads, opener) for candidate in candidates]
    passed = {one.candidate: one.ms for one in measured if one.ms is not None}
    if not passed:
        raise BackendError(f"no backend reproduces the golden images: {_told(measured)}")
    return Choice(key=key, chosen=min(passed, key=passed.__getitem__), measured=measured, created=datetime.now(UTC))


def _try(bundle: Bundle, candidate: Candidate, threads: int, opener: Callable[..., Backend]) -> Measured:
    try:
        backend = opener(bundle, candidate, threads=threads, plan=Plan.by_rule(threads))
    except BackendError as error:
        return Measured(candidate=str(candidate), refused=str(error))
    try:
        require_golden(bundle, backend.precision, lambda image: score_images(backend, [image]))
        return Measured(candidate=str(candidate), ms=round(1000 * seconds_alone(bundle, backend), 3))
    except (BackendError, GoldenError) as error:
        return Measured(candidate=str(candidate), refused=str(error))
    finally:
        backend.close()


def _told(measured: Sequence[Measured]) -> str:
    return ", ".join(
        f"{one.candidate} {one.ms:.1f} ms" if one.ms is not None else f"{one.candidate} refused ({one.refused})"
        for one in measured
    )


def _key(bundle: Bundle, candidates: Sequence[Candidate], threads: int) -> ChoiceKey:
    return ChoiceKey(
        onnx_sha256={candidate.precision: bundle.model_sha256(candidate.precision) for candidate in candidates},
        candidates=[str(candidate) for candidate in candidates],
        versions=runtime_versions(),
        cpu=cpu_name(),
        threads=threads,
    )


def _digest(key: ChoiceKey) -> str:
    """Names the file by what was asked; what it was measured with is compared when it is read."""
    asked = ChoiceKey(
        onnx_sha256=key.onnx_sha256, candidates=key.candidates, versions={}, cpu="", threads=0
    ).model_dump_json()
    return hashlib.sha256(asked.encode()).hexdigest()[:16]
