"""The training loop, top to bottom: draw, forward, losses, step; checkpoint and resume exactly. It knows no method."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.loop import distributed
from training.loop.curves import Curves
from training.loop.muon import Muon
from training.loop.precision import half_type
from training.loop.runs import (
    STATS,
    InterruptedRunError,
    Learner,
    Run,
    State,
    TrainingError,
    begin_with,
    disk_full_named,
    resume,
    write_checkpoint,
)
from training.loop.settings import LoopSettings

Batch = TypeVar("Batch")
Outputs = TypeVar("Outputs")


class Lesson(Protocol[Batch, Outputs]):
    """What a network learns: all that the loop must be told by a method."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the named losses in their sum."""

    def network(self) -> nn.Module:
        """The network at its start, which comes from torch's global generator."""

    def draw(self, count: int) -> Batch:
        """A batch of so many samples, on the network's device; its draws come from the run's generator alone."""

    def forward(self, network: nn.Module, batch: Batch) -> Outputs:
        """Run the network, in half precision where the settings ask for it."""

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Named, unweighted losses, in float32."""

    def columns(self, outputs: Outputs, batch: Batch) -> list[Tensor]:
        """Images `(N, 1 or 3, H, W)` in [0, 1] that stand beside each other in TensorBoard, a row a sample."""


def train(
    config: LoopSettings,
    lesson: Lesson[Batch, Outputs],
    generator: torch.Generator,
    run: Run,
    *,
    photos: int,
    device: torch.device,
) -> nn.Module:
    """Train the network of `lesson`, which draws from `generator`; returns it in eval mode.

    An epoch has as many samples as there are `photos`.
    Where several processes have joined (`distributed`), all of them call this, each takes an equal share of the
    batch, and the first writes the files.

    Continues from the run's checkpoint where there is one: the same losses as without the interruption, to the bit on
    the same machine and thread count; a run without one begins with the weights of `run.start`, if any. SIGTERM and
    SIGINT save a checkpoint, then raise InterruptedRunError.
    """
    steps = config.steps_for(photos)
    require_equal_shares(config.batch, distributed.world())
    if run.compiled and device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise TrainingError("--compile on the CPU needs a C++ compiler: install g++ or leave --compile out")
    torch.manual_seed(config.seed)
    network = lesson.network()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(config, network)
    half = half_type(device) if config.bf16 else None
    if config.bf16 and half is None and distributed.rank() == 0:
        tqdm.write("warning: this CPU has no bfloat16: it trains in float32, which takes longer", file=sys.stderr)
    scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
    learner = Learner(network, optimizer, scaler, generator)
    state = resume(run.folder, learner)
    if run.start and not state.step:
        begin_with(run.start, network)
    shared = distributed.share(network, device)
    if run.compiled:
        shared = torch.compile(shared)  # type: ignore[assignment]
    step, started, peak = state.step, time.monotonic() - state.seconds, state.peak
    saved_at = time.monotonic()
    leads = distributed.rank() == 0

    sample_every = max(1, steps // 10)

    log = run.folder / STATS if leads else Path(os.devnull)
    curves = Curves(run.folder, step) if leads else None
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
            batch = lesson.draw(config.batch // distributed.world())
            with torch.autocast(device.type, half, enabled=half is not None):
                outputs = lesson.forward(shared, batch)
            losses = lesson.losses(outputs, batch)
            weighted = (lesson.weights[name] * loss for name, loss in losses.items())
            total = sum(weighted, start=torch.zeros((), device=device))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(scaler.scale(total))
            scaler.step(optimizer)
            scaler.update()

            # One message tells every process the mean losses, and whether any was told to stop or is due to save.
            due = time.monotonic() - saved_at > run.checkpoint_s
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
                    curves.samples(step, lesson.columns(outputs, batch))
            progress.update()
            if stop or save or step + 1 == steps:
                stats.flush()
                peak = peak.or_more(device)
                state = State(step + 1, time.monotonic() - started, peak)
                write_checkpoint(run.folder, state, learner)
                distributed.wait()
                saved_at = time.monotonic()
            if stop and step + 1 < steps:
                raise InterruptedRunError(
                    f"stopped at step {step + 1} of {steps}: run the same command again to continue"
                )
    # Into a plain network, because the trained one may have SyncBatchNorm layers, which cannot be exported.
    trained = lesson.network().to(device)
    trained.load_state_dict(network.state_dict())
    return trained.eval()


def require_equal_shares(batch: int, processes: int) -> None:
    if batch % processes:
        raise TrainingError(f"--batch {batch} cannot be shared by {processes} processes")


def generator_of(seed: int) -> torch.Generator:
    """What a lesson draws from in this process."""
    return torch.Generator().manual_seed(seed_of(seed, distributed.rank()))


def seed_of(seed: int, rank: int) -> int:
    """Seed of one process's draws: `seed` itself for the first, so that a run alone does not depend on this."""
    return seed + 1_000_003 * rank


def learning_rate(config: LoopSettings, step: int, steps: int) -> float:
    """Rate at `step` of `steps`.

    multistep: x0.2 at 80 % and 90 % (authors' code); multistep-text: x0.1 at 4/7 and 6/7, epochs 400 and 600 of 700
    (paper's text); onecycle: linear warm-up and cosine to 0; constant: `lr` throughout.
    """
    if config.schedule == "constant":
        return config.lr
    done = step / steps
    if config.schedule == "multistep-text":
        return config.lr * 0.1 ** ((7 * step >= 4 * steps) + (7 * step >= 6 * steps))
    if config.schedule == "multistep":
        return config.lr * 0.2 ** ((done >= 0.8) + (done >= 0.9))
    if done < config.warmup:
        return config.lr * (step + 1) / (config.warmup * steps + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (done - config.warmup) / (1 - config.warmup)))


def _optimizer(config: LoopSettings, network: nn.Module) -> torch.optim.Optimizer:
    if config.optimizer == "muon":
        return Muon(network, config.lr, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), config.lr)
    return torch.optim.Adam(network.parameters(), config.lr, weight_decay=config.weight_decay)


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
