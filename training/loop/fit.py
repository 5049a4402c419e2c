"""The training loop, top to bottom: simulate, reconstruct, discriminate, step; checkpoint and resume exactly."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import math
import os
import platform
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from service.bundle.folder import replace_file
from training.data.folders import find_images, listing
from training.loop import distributed
from training.loop.curves import Curves
from training.loop.muon import Muon
from training.methods.draem.config import TrainConfig
from training.methods.draem.losses import draem_losses
from training.methods.draem.simulator import AnomalySimulator
from training.methods.draem.variants import build_network

CHECKPOINT = "checkpoint.pt"
STATS = "stats.jsonl"
_LOCKS: dict[Path, int] = {}  # descriptors, open for as long as the process lives


class TrainingError(Exception):
    """Training cannot go on; the message says what happened and what to do."""


class InterruptedRunError(TrainingError):
    """Stopped by a signal after saving a checkpoint."""


@dataclass(frozen=True)
class PeakMemory:
    """MiB: resident memory of the process, and what torch had allocated on its GPU (0 without one)."""

    resident: int = 0
    gpu: int = 0

    def or_more(self, device: torch.device) -> PeakMemory:
        """This, or what the process has needed so far where that is more."""
        # Kibibytes on Linux, bytes on macOS.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
        gpu = torch.cuda.max_memory_allocated(device) // 2**20 if device.type == "cuda" else 0
        return PeakMemory(max(self.resident, resident), max(self.gpu, gpu))


@dataclass(frozen=True)
class _State:
    """Where a run is: steps done, seconds spent, memory needed."""

    step: int = 0
    seconds: float = 0.0
    peak: PeakMemory = field(default_factory=PeakMemory)


def train(
    config: TrainConfig,
    good: Tensor,
    textures: Tensor,
    run: Path,
    *,
    device: torch.device,
    compiled: bool = False,
    checkpoint_s: float = 60.0,
) -> nn.Module:
    """Train on good photos and textures, both uint8 `(N, 3, S, S)`; returns the network in eval mode.

    `compiled` runs the network through torch.compile. Where several processes have joined (`distributed`), all
    of them call this, each takes an equal share of the batch, and the first writes the files.

    Continues from `run/checkpoint.pt` where there is one: the same losses as without the interruption, to the bit on
    the same machine and thread count. SIGTERM and SIGINT save a checkpoint, then raise InterruptedRunError.
    """
    steps = config.steps or config.epochs * math.ceil(len(good) / config.batch)
    if config.batch % distributed.world():
        raise TrainingError(f"--batch {config.batch} cannot be shared by {distributed.world()} processes")
    if compiled and device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise TrainingError("--compile on the CPU needs a C++ compiler: install g++ or leave --compile out")
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(simulator_seed(config.seed, distributed.rank()))
    network = build_network(config)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(config, network)
    half = half_type(device) if config.bf16 else None
    scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
    simulator = AnomalySimulator(good.to(device), textures.to(device), config.simulator, generator)
    state = _resume(run, network, optimizer, scaler, generator)
    forward = distributed.share(network, device)
    if compiled:
        forward = torch.compile(forward)  # type: ignore[assignment]
    step, started, peak = state.step, time.monotonic() - state.seconds, state.peak
    weights = {"l2": config.l2_weight, "ssim": config.ssim_weight, "focal": config.focal_weight}
    saved_at = time.monotonic()
    leads = distributed.rank() == 0

    sample_every = max(1, steps // 10)

    log = run / STATS if leads else Path(os.devnull)
    curves = Curves(run, step) if leads else None
    with (
        _stop_requests() as stopped,
        disk_full_named(log),
        log.open("a") as stats,
        closing(curves) if curves else nullcontext(),
        tqdm(initial=step, total=steps, desc="training", unit="step", disable=not leads) as progress,
    ):
        for step in range(step, steps):  # noqa: B020
            lr = learning_rate(config, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            batch = simulator.batch(config.batch // distributed.world())
            with torch.autocast(device.type, half, enabled=half is not None):
                reconstruction, logits = forward(batch.augmented.contiguous(memory_format=torch.channels_last))
            losses = draem_losses(reconstruction, logits, batch.clean, batch.mask)
            total = sum((weights[name] * loss for name, loss in losses.items()), start=torch.zeros((), device=device))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(scaler.scale(total))
            scaler.step(optimizer)
            scaler.update()

            # One message tells every process the mean losses, and whether any was told to stop or is due to save.
            due = time.monotonic() - saved_at > checkpoint_s
            flags = torch.tensor([float(bool(stopped)), float(due)], device=device)
            news = distributed.mean(torch.cat((torch.stack(list(losses.values())).detach(), flags))).tolist()
            values = dict(zip(losses, news, strict=False))
            stop, save = news[-2] > 0, news[-1] > 0
            if not all(math.isfinite(value) for value in values.values()):
                raise TrainingError(f"step {step}: loss is not finite {values}: lower --lr or train without --bf16")
            stats.write(json.dumps({"step": step, "lr": lr, **values}) + "\n")
            if curves:
                curves.losses(step, lr, values)
                if step % sample_every == 0 or step + 1 == steps:
                    curves.samples(step, batch, reconstruction, logits)
            progress.update()
            if stop or save or step + 1 == steps:
                stats.flush()
                peak = peak.or_more(device)
                state = _State(step + 1, time.monotonic() - started, peak)
                _save(run, state, network, optimizer, scaler, generator)
                distributed.wait()
                saved_at = time.monotonic()
            if stop and step + 1 < steps:
                raise InterruptedRunError(
                    f"stopped at step {step + 1} of {steps}: run the same command again to continue"
                )
    # Into a plain network, because the trained one may have SyncBatchNorm layers, which cannot be exported.
    trained = build_network(config).to(device)
    trained.load_state_dict(network.state_dict())
    return trained.eval()


def simulator_seed(seed: int, rank: int) -> int:
    """Seed of one process's simulator: `seed` itself for the first, so that a run alone does not depend on this."""
    return seed + 1_000_003 * rank


def claim_run(run: Path, config: TrainConfig, photos: list[Path], textures: Path | None) -> None:
    """Begin a run in folder `run`, or go on with one of the same settings, photos and textures; else TrainingError.

    The folder is this process's own from then on: another one that asks for it gets TrainingError.
    """
    run.mkdir(parents=True, exist_ok=True)
    _lock(run)
    inputs = {
        "settings": (run / "config.json", json.dumps(asdict(config), indent=2) + "\n"),
        "photos": (run / "photos.txt", listing(photos)),
        "textures": (run / "textures.txt", listing(find_images(textures, recursive=True)) if textures else "none\n"),
    }
    if not (run / CHECKPOINT).exists():
        for file, text in inputs.values():
            with disk_full_named(file):
                replace_file(file, text)
        return
    for what, (file, text) in inputs.items():
        difference = _first_difference(file.read_text() if file.exists() else "", text)
        if difference:
            raise TrainingError(
                f"{run}: holds a run with other {what} ({difference}): remove it or choose another --run"
            )


def _first_difference(before: str, now: str) -> str | None:
    # The score is made of the finished network's map: another one needs no other run.
    old, new = ([line for line in text.splitlines() if '"score":' not in line] for text in (before, now))
    pairs = zip_longest(old, new, fillvalue="nothing")
    return next((f"{a.strip(' ,')} before, {b.strip(' ,')} now" for a, b in pairs if a != b), None)


def _lock(run: Path) -> None:
    """Hold the folder until this process ends, however it ends."""
    if run.resolve() in _LOCKS:
        return
    file = os.open(run / "lock", os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise TrainingError(f"{run}: another process trains here: wait for it, or choose another --run") from None
    except OSError:  # a file system without locks
        os.close(file)
        return
    _LOCKS[run.resolve()] = file


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Rate at `step` of `steps`.

    multistep: x0.2 at 80 % and 90 % (authors' code); multistep-text: x0.1 at 4/7 and 6/7, epochs 400 and 600 of 700
    (paper's text); onecycle: linear warm-up and cosine to 0.
    """
    done = step / steps
    if config.schedule == "multistep-text":
        return config.lr * 0.1 ** ((7 * step >= 4 * steps) + (7 * step >= 6 * steps))
    if config.schedule == "multistep":
        return config.lr * 0.2 ** ((done >= 0.8) + (done >= 0.9))
    if done < config.warmup:
        return config.lr * (step + 1) / (config.warmup * steps + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (done - config.warmup) / (1 - config.warmup)))


def training_minutes(run: Path) -> float:
    """Time that the training loop of this run has taken, over all its sessions."""
    return float(_read(run / CHECKPOINT)["seconds"]) / 60


def peak_memory(run: Path) -> PeakMemory:
    """Most memory that the training loop of this run has held, over all its sessions, of the first process."""
    return PeakMemory(**_read(run / CHECKPOINT)["peak"])


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


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of returning them: activations are re-mapped every step otherwise.

    Measured with widths 32/16, batch 8, bf16 on 2 cores: 1.57 times faster steps.
    """
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def _optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    if config.optimizer == "muon":
        return Muon(network, config.lr, config.weight_decay)
    return torch.optim.Adam(network.parameters(), config.lr)


def half_type(device: torch.device) -> torch.dtype | None:
    """What `bf16` computes in on this device: bfloat16; float16 on GPUs that only emulate it; None on CPUs without it.

    There bfloat16 is emulated: a convolution of 16 channels, forward and backward, took 10 times as long as in float32
    where oneDNN was held to AVX2, and 1.8 times where it was held to AVX-512 without bfloat16.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else None


def _save(
    run: Path,
    state: _State,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    generator: torch.Generator,
) -> None:
    generators = distributed.collect(generator.get_state())
    if distributed.rank() > 0:
        return
    contents = {
        **asdict(state),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
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
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"{file}: no checkpoint there") from None
    except Exception as error:
        raise TrainingError(f"{file}: not a readable checkpoint ({error}): remove it to start again") from error
    return state


def _resume(
    run: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    generator: torch.Generator,
) -> _State:
    stats = run / STATS
    if not (run / CHECKPOINT).exists():
        if distributed.rank() == 0:
            stats.unlink(missing_ok=True)
        return _State()
    state = _read(run / CHECKPOINT)
    if len(state["generators"]) != distributed.world():
        raise TrainingError(
            f"{run / CHECKPOINT}: a run of {len(state['generators'])} processes, not {distributed.world()}: "
            f"continue it with torchrun --nproc-per-node {len(state['generators'])}"
        )
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    generator.set_state(state["generators"][distributed.rank()])
    step = int(state["step"])
    if distributed.rank() == 0:
        # Lines written after the checkpoint will be written again.
        lines = stats.read_text().splitlines(keepends=True)
        with disk_full_named(stats):
            replace_file(stats, "".join(lines[:step]))
    return _State(step, float(state["seconds"]), PeakMemory(**state["peak"]))


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that fills when SIGTERM or SIGINT arrives; the previous handlers come back afterwards."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
