"""`auto` on a CPU: which runtime and precision is fastest here, measured once and kept.

    <cache>/fastest/<sha256 of the models>-<backend>-<precision asked for>.json    Choice below

What misses a golden image does not come into question, however fast. The measurement is short; who needs a certain
runtime or precision asks for it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from service.backends.base import Backend, BackendError, Candidate, score_images
from service.backends.cpu import held_to
from service.backends.cpu_runtimes import open_on_cpu
from service.backends.golden import GoldenError, golden_images, require_golden
from service.bundle.files import replace_file
from service.bundle.folder import Bundle
from service.bundle.manifest import Precision

_SECONDS = 0.5  # of each candidate
_MOST_RUNS = 15
_FEWEST_RUNS = 3

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
    opener: Callable[..., Backend] | None = None,
) -> Backend:
    """The fastest of `candidates` that reproduces the golden images: the one in the cache, else measured now.

    Each is opened by `opener`. Raises BackendError where none does; the message has every reason.
    """
    opener = opener or open_on_cpu
    if len(candidates) == 1:
        return opener(bundle, candidates[0], threads=threads)
    key = _key(bundle, candidates, threads)
    path = cache / "fastest" / f"{_digest(key)}.json"
    choice = _read(path, key)
    if choice is None:
        choice = _measure(bundle, candidates, key, opener)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, choice.model_dump_json(indent=2) + "\n")
        except OSError as error:
            log.warning("auto: not kept, the next start measures again: %s (INSPECT_CACHE_DIR)", error)
    log.info("auto: %s of %s", choice.chosen, _told(choice.measured))
    chosen = next(candidate for candidate in candidates if str(candidate) == choice.chosen)
    return opener(bundle, chosen, threads=threads)


def _measure(bundle: Bundle, candidates: Sequence[Candidate], key: ChoiceKey, opener: Callable[..., Backend]) -> Choice:
    measured = [_try(bundle, candidate, key.threads, opener) for candidate in candidates]
    passed = {one.candidate: one.ms for one in measured if one.ms is not None}
    if not passed:
        raise BackendError(f"no backend reproduces the golden images: {_told(measured)}")
    return Choice(key=key, chosen=min(passed, key=passed.__getitem__), measured=measured, created=datetime.now(UTC))


def _try(bundle: Bundle, candidate: Candidate, threads: int, opener: Callable[..., Backend]) -> Measured:
    try:
        backend = opener(bundle, candidate, threads=threads)
    except BackendError as error:
        return Measured(candidate=str(candidate), refused=str(error))
    try:
        require_golden(bundle, backend.precision, lambda image: score_images(backend, [image]))
        return Measured(candidate=str(candidate), ms=round(1000 * _seconds(bundle, backend), 3))
    except (BackendError, GoldenError) as error:
        return Measured(candidate=str(candidate), refused=str(error))
    finally:
        backend.close()


def _seconds(bundle: Bundle, backend: Backend) -> float:
    """Least time of an image: what else the machine does makes a run slower, never faster."""
    images = [image[None] for image in golden_images(bundle)]
    times: list[float] = []
    while len(times) < _FEWEST_RUNS or (sum(times) < _SECONDS and len(times) < _MOST_RUNS):
        started = time.perf_counter()
        backend.run(images[len(times) % len(images)])
        times.append(time.perf_counter() - started)
    return min(times)


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


def _read(path: Path, key: ChoiceKey) -> Choice | None:
    """The choice at `path` if it was made under the same circumstances."""
    try:
        choice = Choice.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.warning("%s: %s: measuring again", path, error.errors(include_url=False)[0]["msg"])
        return None
    return choice if choice.key == key else None


def runtime_versions() -> dict[str, str]:
    """Of those runtimes that are installed."""
    versions = {}
    for package in ("onnxruntime", "onnxruntime-gpu", "openvino"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def cpu_name() -> str:
    """Name and instructions of this CPU: a virtual machine's name alone does not tell what it can do."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return "unknown"
    fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    model = " ".join(named.get(name, "") for name in ("model name", "cpu family", "model", "stepping")).strip()
    flags = hashlib.sha256(named.get("flags", named.get("Features", "")).encode()).hexdigest()[:12]
    return f"{model}, flags {flags}, oneDNN held to {held_to()}"
