"""A model's first runs, in a process that can be killed.

A graph may never end, take the memory or crash the runtime, and nothing ends a run in this process: its thread would
be lost, and every recipe with it. So a child opens a bundle first and runs its golden images, and is killed where that
takes too long or too much. What it survived is kept in the cache:

    <cache>/trials/<sha256 of the bundle's files and of what runs them>
    <cache>/trials/<sha256 of the same, whatever the CPU>.endless           when an image did not come back later

Nothing is decided here but that the bundle is harmless: what else is wrong with it is found when it is loaded. GPUs
have one owner, and no trial.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from service.backends.base import Backend, BackendChoice, BackendError, Candidate, PrecisionChoice
from service.backends.cpu_runtimes import cpu_candidates, open_on_cpu
from service.backends.fastest import open_fastest
from service.backends.golden import golden_images
from service.backends.machine import cpu_name, runtime_versions
from service.backends.plans import Plan, PlanChoice
from service.bundle.folder import Bundle, read_bundle

# Most seconds of a run, as in service.station.batching, and of opening a model, which may compile it.
RUN_S, OPEN_S = 15.0, 60.0
# Seconds of work after which a child that lost its parent ends by itself.
_ORPHAN_S = 600
# Times as long it may take where it does not compute.
_STUCK = 8
# Share of the memory that is free now, and seconds between two looks at what the child has.
_MEMORY, _LOOK_S = 0.5, 0.05


class Trials:
    """Tries bundles one after the other, in a child that starts when it is needed and ends with `rest`."""

    def __init__(
        self,
        choice: BackendChoice,
        *,
        threads: int,
        precision: PrecisionChoice,
        plan: PlanChoice = "auto",
        max_batch: int = 8,
        cache: Path,
        run_s: float = RUN_S,
        open_s: float = OPEN_S,
        memory_bytes: Callable[[], int] | None = None,
    ) -> None:
        self._asked = {
            "choice": choice,
            "precision": precision,
            "threads": threads,
            "plan": plan,
            "max_batch": max_batch,
            "cache": str(cache),
        }
        self._cache = cache / "trials"
        self._on_cpu = choice in ("auto", "ort-cpu", "openvino")
        self._most_s = {"start": open_s, "open": open_s, "run": run_s}
        self._memory_bytes = memory_bytes or _memory_to_spare
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    def require_harmless(self, bundle: Bundle) -> None:
        """Raises BackendError where opening or running the bundle ended a process, or had to be ended."""
        if not self._on_cpu:
            return
        with suppress(OSError):
            endless = self._endless(bundle)
            raise BackendError(
                f"{bundle.path}: an image never came back from this model ({endless.read_text()}): activate another "
                f"version, or remove {endless} to have it tried again"
            )
        if (known := self._cache / self._key(bundle)).exists():
            return
        with self._lock:
            if self._closed:
                raise BackendError("the service is shutting down")
            try:
                self._try_out(bundle)
            except _FatalError as error:
                self._end()
                raise BackendError(
                    f"{bundle.path}: {error}: the model is not loaded (tried in a process of its own; where another "
                    "INSPECT_BACKEND or INSPECT_PRECISION runs it, ask for that)"
                ) from error
        with suppress(OSError):
            known.parent.mkdir(parents=True, exist_ok=True)
            known.touch()

    def _try_out(self, bundle: Bundle) -> None:
        asked = {**self._asked, "bundle": str(bundle.path.absolute())}
        # Measuring plans holds a second backend for a while: where only that is too large, the rule's plan serves.
        plans = [asked["plan"], None] if asked["plan"] == "auto" else [asked["plan"]]
        for plan in plans:
            if self._child is None:
                self._child = _Child()
            try:
                self._child.try_out({**asked, "plan": plan}, self._most_s, self._memory_bytes())
                return
            except _TooLargeError:
                self._end()
                if plan is plans[-1]:
                    raise

    def remember_endless(self, bundle: Bundle) -> None:
        """Have the bundle refused from now on, in other processes too: what ended none of its golden images still
        took a core for ever, and a station that restarts would meet the same image again.
        """
        if self._on_cpu:
            with suppress(OSError):
                self._cache.mkdir(parents=True, exist_ok=True)
                self._endless(bundle).write_text(datetime.now(UTC).isoformat(timespec="seconds"))

    def rest(self) -> None:
        """End the child, unless it is at work."""
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def close(self) -> None:
        """End the child, and with it the trial that is under way; there is no other after it."""
        self._closed = True
        if child := self._child:
            child.kill()

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _key(self, bundle: Bundle) -> str:
        asked = [self._asked[name] for name in ("threads", "plan", "max_batch")]
        return _hashed([*self._what(bundle), *asked, cpu_name()])

    def _endless(self, bundle: Bundle) -> Path:
        return self._cache / f"{_hashed(self._what(bundle))}.endless"

    def _what(self, bundle: Bundle) -> list[object]:
        return [
            sorted((name, entry.sha256) for name, entry in bundle.manifest.files.items()),
            bundle.manifest.models,
            bundle.manifest.input.model_dump(mode="json"),
            [self._asked["choice"], self._asked["precision"]],
            runtime_versions(),
        ]


def _hashed(what: list[object]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


class _FatalError(Exception):
    """What the child did not survive."""


class _TooLargeError(_FatalError):
    """More memory than it may have."""


class _Child:
    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 as long as the child
        root = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "service.backends.trial"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))},
        )
        self._orders = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)

    def try_out(self, asked: dict[str, Any], most_s: dict[str, float], memory_bytes: int) -> None:
        """Raises _FatalError where the child ends, takes longer than `most_s` for a stage, or more memory."""
        with suppress(BrokenPipeError):
            self._orders.write(json.dumps(asked).encode() + b"\n")
            self._orders.flush()
        stage, told = "start", b""
        since, computed = time.monotonic(), self._computed_s()
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while stage != "done":
                if not selector.select(_LOOK_S):
                    taken = time.monotonic() - since, self._computed_s() - computed
                    self._require_modest(stage, taken, most_s[stage], memory_bytes)
                    continue
                if not (more := os.read(self._answers.fileno(), 4096)):
                    raise _FatalError(self._how_it_ended())
                *stages, told = (told + more).split(b"\n")
                if stages:
                    stage = stages[-1].decode()
                    since, computed = time.monotonic(), self._computed_s()

    def _computed_s(self) -> float:
        """Seconds that the child has had a core: one that others leave none to does not hang."""
        with suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def _require_modest(self, stage: str, taken: tuple[float, float], most_s: float, memory_bytes: int) -> None:
        wall_s, computed_s = taken
        if min(wall_s, computed_s) > most_s or wall_s > _STUCK * most_s:
            raise _FatalError("one run took too long" if stage == "run" else "opening the model took too long")
        with suppress(OSError):
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
            if pages * resource.getpagesize() > memory_bytes:
                raise _TooLargeError(f"it took more than {memory_bytes / 1e6:.0f} MB, half of what is free")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._orders, self._answers, self._errors):
            with suppress(OSError):
                stream.close()

    def _how_it_ended(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        how = f"the runtime ended with {f'signal {-status}' if status < 0 else f'status {status}'}"
        return f"{how} ({lines[0][-300:]})" if lines else how


class _Watched:
    """A backend that says when a run begins."""

    def __init__(self, backend: Backend, tell: Callable[[str], None]) -> None:
        self._backend, self._tell = backend, tell
        self.name, self.provider, self.precision = backend.name, backend.provider, backend.precision
        self.max_batch_size, self.lanes = backend.max_batch_size, backend.lanes
        self.replaceable = backend.replaceable

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self._tell("run")
        return self._backend.run(images)

    def rest(self) -> None:
        self._tell("run")
        self._backend.rest()

    def close(self) -> None:
        self._backend.close()


def _open(
    tell: Callable[[str], None],
    opener: Callable[..., Backend],
    bundle: Bundle,
    candidate: Candidate,
    *,
    threads: int,
    plan: Plan,
) -> Backend:
    tell("open")
    return _Watched(opener(bundle, candidate, threads=threads, plan=plan), tell)


def _try(asked: dict[str, Any], tell: Callable[[str], None]) -> None:
    bundle = read_bundle(Path(asked["bundle"]))
    candidates = cpu_candidates(bundle, asked["choice"], asked["precision"])
    opener = partial(_open, tell, open_on_cpu)
    backend = open_fastest(
        bundle,
        candidates,
        threads=asked["threads"],
        cache=Path(asked["cache"]),
        plan=asked["plan"],
        max_batch=asked["max_batch"],
        opener=opener,
    )
    images = golden_images(bundle)
    # A runtime may run the graph on no image for that.
    backend.rest()
    for image in images:
        backend.run(image[None])
    if backend.max_batch_size > 1:
        backend.run(np.stack([images[i % len(images)] for i in range(backend.max_batch_size)]))


def _serve() -> None:
    """Answer each line of stdin, one bundle, with a line for every stage that begins and one for the end."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    # Whatever libraries print.
    os.dup2(2, 1)
    os.nice(5)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        resource.setrlimit(resource.RLIMIT_CPU, (_cpu_used() + _ORPHAN_S, resource.RLIM_INFINITY))
        # What is refused here is refused again, with its reason, where it is loaded.
        with suppress(Exception):
            _try(json.loads(line), lambda stage: _tell(answers, stage))
        _tell(answers, "done")


def _tell(answers: IO[bytes], stage: str) -> None:
    answers.write(stage.encode() + b"\n")


def _cpu_used() -> int:
    return int(time.process_time()) + 1


def _memory_to_spare() -> int:
    """Bytes that a child may take, of what the machine and its container have free."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024 * int(fields["MemAvailable"].split()[0])
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, taken = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        free = min(free, int(most) - int(taken))
    return int(_MEMORY * free)


if __name__ == "__main__":
    _serve()
