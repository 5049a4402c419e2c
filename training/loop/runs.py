"""A run's folder: whose it is, what its checkpoint holds, and how it is continued exactly."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from service.bundle.files import replace_file
from training.data.folders import find_images, listing
from training.errors import UserError
from training.loop import distributed
from training.loop.memory import PeakMemory

CHECKPOINT = "checkpoint.pt"
STATS = "stats.jsonl"
RESULTS = "results.json"  # marks a run as finished
_HELD = {"step", "seconds", "peak", "network", "optimizer", "scaler", "generators"}
_START_AGAIN = "remove it to start again"
_EARLIER, _LOCK = "earlier", "lock"
_LOCKS: dict[Path, int] = {}  # descriptors, open for as long as the process lives


class TrainingError(UserError):
    """Training cannot go on; the message says what happened and what to do."""


class InterruptedRunError(TrainingError):
    """Stopped by a signal after saving a checkpoint."""


@dataclass(frozen=True)
class Run:
    """Where a method trains and how: `compiled` runs the network through torch.compile, `start` is the folder of a
    finished run whose weights it begins with.
    """

    folder: Path
    compiled: bool = False
    start: Path | None = None
    checkpoint_s: float = 60.0


@dataclass(frozen=True)
class State:
    """How far a run is: steps done, seconds spent, memory needed."""

    step: int = 0
    seconds: float = 0.0
    peak: PeakMemory = field(default_factory=PeakMemory)


@dataclass(frozen=True)
class Learner:
    """All that changes while a network learns: what a checkpoint holds beside the run's state."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    generator: torch.Generator


def claim_run(
    run: Path,
    settings: Mapping[str, Any],
    photos: list[Path],
    textures: Path | None,
    *,
    without_effect: Collection[str] = ("score",),
    flag: str = "--run",
) -> None:
    """Begin a run in folder `run`, or go on with one of the same settings, photos and textures.

    A finished run of others is put aside, in `run/earlier`, and a new one begins; an unfinished one is left alone and
    TrainingError raised.

    Settings `without_effect` on what is trained may differ: the score is made of the finished network's map.

    The folder is this process's own from then on: another one that asks for it gets TrainingError. `flag` is the one
    that names the folder.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        hold(run, flag)
    except OSError as error:
        raise TrainingError(f"{run}: no run can be kept there ({error.strerror}): choose another {flag}") from error
    claimed = _claimed(run, settings, photos, textures)
    if (run / CHECKPOINT).exists() and (difference := _difference(claimed, without_effect)):
        if not (run / RESULTS).exists():
            raise TrainingError(
                f"{run}: holds a run with other {difference} that is not finished: finish it with the command "
                f"of before, choose another {flag}, or remove the folder to give that run up"
            )
        tqdm.write(f"other {difference}: the finished run is kept in {_put_aside(run)}", file=sys.stderr)
    # What has no effect on the training may be new.
    for file, text in claimed.values():
        with disk_full_named(file):
            replace_file(file, text)


def other_settings(run: Path, settings: Mapping[str, Any]) -> str | None:
    """The first setting that the run in folder `run` was begun with otherwise; None where there is none."""
    return _difference({"settings": _settings(run, settings)}, ())


def other_material(run: Path, photos: list[Path], textures: Path | None) -> str | None:
    """The first photo or texture that the run in folder `run` was begun with and that is not of these, or is new."""
    return _difference(_material(run, photos, textures), ())


def put_aside(run: Path, bundle: Path) -> Path:
    """Where the bundle that this run made lies now: in the run's `earlier`, called by when it was made."""
    made = datetime.fromtimestamp(bundle.stat().st_mtime, UTC).strftime("%Y%m%d-%H%M%S")
    kept = _unused(run / _EARLIER, f"{bundle.name}-{made}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    return bundle.rename(kept)


def _claimed(
    run: Path, settings: Mapping[str, Any], photos: list[Path], textures: Path | None
) -> dict[str, tuple[Path, str]]:
    """What tells one run from another: the file of each in the run's folder, and the text that it should have."""
    return {"settings": _settings(run, settings), **_material(run, photos, textures)}


def _settings(run: Path, settings: Mapping[str, Any]) -> tuple[Path, str]:
    return run / "config.json", json.dumps(settings, indent=2, sort_keys=True) + "\n"


def _material(run: Path, photos: list[Path], textures: Path | None) -> dict[str, tuple[Path, str]]:
    return {
        "photos": (run / "photos.txt", listing(photos)),
        "textures": (run / "textures.txt", listing(find_images(textures)) if textures else "none\n"),
    }


def _difference(claimed: Mapping[str, tuple[Path, str]], without_effect: Collection[str]) -> str | None:
    """The first difference between what the run's files say and what they should say, with its kind."""
    for what, (file, text) in claimed.items():
        before = file.read_text() if file.exists() else ""
        found = _other_setting(before, text, without_effect) if what == "settings" else _first_difference(before, text)
        if found:
            return f"{what} ({found})"
    return None


def _put_aside(run: Path) -> Path:
    """Where a finished run lies now: a folder of its own in `earlier`, called by when it was finished."""
    finished = datetime.fromtimestamp((run / RESULTS).stat().st_mtime, UTC).strftime("%Y%m%d-%H%M%S")
    kept = _unused(run / _EARLIER, finished)
    kept.mkdir(parents=True)
    # The checkpoint first: without it a run has not begun, so whatever stops this leaves a folder that can be used.
    for name in sorted((path.name for path in run.iterdir()), key=lambda name: name != CHECKPOINT):
        if name not in {_EARLIER, _LOCK}:
            (run / name).rename(kept / name)
    return kept


def _unused(place: Path, name: str) -> Path:
    names = (f"{name}-{number}" if number else name for number in count())
    return next(folder for folder in (place / name for name in names) if not folder.exists())


def _first_difference(before: str, now: str) -> str | None:
    pairs = zip_longest(before.splitlines(), now.splitlines(), fillvalue="nothing")
    return next((f"{a} before, {b} now" for a, b in pairs if a != b), None)


def _other_setting(before: str, now: str, without_effect: Collection[str]) -> str | None:
    """The first setting that a run of `before` has not or has otherwise."""
    try:
        old, new = _flat(json.loads(before)), _flat(json.loads(now))
    except ValueError:
        return "none that can be read before"
    # A run that names no method is one of the time when there was one; its settings tell.
    old.setdefault("method", new["method"])
    names = [name for name in sorted(old.keys() | new.keys()) if name not in without_effect]
    return next(
        (
            f"{name} {old.get(name, 'nothing')} before, {new.get(name, 'nothing')} now"
            for name in names
            if old.get(name) != new.get(name)
        ),
        None,
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def hold(run: Path, flag: str) -> None:
    """Keep the folder for this process until it ends, however it ends; TrainingError where another one has it."""
    if run.resolve() in _LOCKS:
        return
    file = os.open(run / _LOCK, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise TrainingError(f"{run}: another process trains here: wait for it, or choose another {flag}") from None
    except OSError:  # a file system without locks
        os.close(file)
        return
    _LOCKS[run.resolve()] = file


def training_minutes(run: Path) -> float:
    """Time that the training loop of this run has taken, over all its sessions."""
    return float(_read(run / CHECKPOINT)["seconds"]) / 60


def peak_memory(run: Path) -> PeakMemory:
    """Most memory that the training loop of this run has held, over all its sessions, of the first process."""
    return PeakMemory(**_read(run / CHECKPOINT)["peak"])


def losses_of(run: Path) -> list[dict[str, float]]:
    """The lines of the run's statistics; none of a run without a loop."""
    file = run / STATS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@contextmanager
def disk_full_named(what: Path) -> Iterator[None]:
    """Errors of a full disk do not tell which file was written: raise TrainingError with `what` and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        raise TrainingError(
            f"{what}: cannot be written ({error.strerror}): make room, then run the same command again; "
            "it continues from the last checkpoint"
        ) from error


def write_checkpoint(run: Path, state: State, learner: Learner) -> None:
    """Write the checkpoint, in one step; called by every process, written by the first."""
    generators = distributed.collect(learner.generator.get_state())
    if distributed.rank() > 0:
        return
    contents = {
        **asdict(state),
        "inputs": _inputs(run),
        "network": learner.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "generators": generators,
    }
    temporary = run / f".{CHECKPOINT}.new"
    try:
        with temporary.open("wb") as stream:
            torch.save(contents, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(run / CHECKPOINT)
    except (OSError, RuntimeError) as error:  # torch turns some failed writes into a RuntimeError
        with suppress(OSError):
            temporary.unlink()
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise TrainingError(
            f"{run / CHECKPOINT}: cannot be written ({reason}): the last one is kept; make room, then run the same "
            "command again to continue from it"
        ) from error


def _read(file: Path) -> dict[str, Any]:
    """What a checkpoint holds; raises TrainingError for one that is damaged, or of something else."""
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"{file}: no checkpoint there") from None
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise TrainingError(f"{file}: not a readable checkpoint ({reason}): {_START_AGAIN}") from error
    if not isinstance(state, dict) or not state.keys() >= _HELD:
        raise TrainingError(f"{file}: not a checkpoint of this program: {_START_AGAIN}")
    for name, weights in state["network"].items():
        if weights.is_floating_point() and not weights.isfinite().all():
            raise TrainingError(f"{file}: {name} has weights that are not finite: {_START_AGAIN}")
    return state


def _inputs(run: Path) -> str:
    """What a run's checkpoint is of: its photos and textures, as they were claimed."""
    listed = (run / name for name in ("photos.txt", "textures.txt"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in listed if file.exists())).hexdigest()


def begin_with(run: Path, network: nn.Module) -> None:
    """Give `network` the weights of another run; raises TrainingError where they are of another network."""
    try:
        network.load_state_dict(_read(run / CHECKPOINT)["network"])
    except RuntimeError as error:
        raise TrainingError(
            f"{run}: of another network: continue it with the --preset and the settings that it was trained with "
            f"({str(error).splitlines()[-1].strip()})"
        ) from error


def resume(run: Path, learner: Learner) -> State:
    """Bring `learner` where the run's checkpoint is; the start of the run where there is none."""
    stats = run / STATS
    if not (run / CHECKPOINT).exists():
        if distributed.rank() == 0:
            stats.unlink(missing_ok=True)
        return State()
    state = _read(run / CHECKPOINT)
    if len(state["generators"]) != distributed.world():
        raise TrainingError(
            f"{run / CHECKPOINT}: a run of {len(state['generators'])} processes, not {distributed.world()}: "
            f"continue it with torchrun --nproc-per-node {len(state['generators'])}"
        )
    # Checkpoints of earlier versions do not say it.
    if state.get("inputs", of := _inputs(run)) != of:
        raise TrainingError(
            f"{run / CHECKPOINT}: of a run with other photos or textures: bring back its own, or {_START_AGAIN}"
        )
    try:
        learner.network.load_state_dict(state["network"])
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.scaler.load_state_dict(state["scaler"])
        learner.generator.set_state(state["generators"][distributed.rank()])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{run / CHECKPOINT}: of another network or optimizer than this run's: {_START_AGAIN} "
            f"({str(error).splitlines()[-1].strip()})"
        ) from error
    step = int(state["step"])
    if distributed.rank() == 0:
        # Lines written after the checkpoint will be written again.
        lines = stats.read_text().splitlines(keepends=True) if stats.exists() else []
        with disk_full_named(stats):
            replace_file(stats, "".join(lines[:step]))
    return State(step, float(state["seconds"]), PeakMemory(**state["peak"]))
