"""Times a training step as the authors write it against ours, side by side, from the same weights on the same batches.

`python -m training.benchmarks step` on rendered input. The plain step is float32 in NCHW with Adam, the 2-D window and
five convolutions of the authors' SSIM, and their focal loss, which builds its one-hot target on the CPU. Ours is what
`train` does: bfloat16 autocast, channels-last, separable SSIM, focal loss by gather, freed memory kept. glibc's memory
setting holds for a whole process, so the plain step and ours run in a process each, in turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.loop.memory import keep_freed_memory
from training.methods.draem.lesson import draem_losses
from training.networks.compact import CompactDraem
from training.networks.draem import Draem
from training.simulation.simulator import AnomalySimulator, Batch, SimulatorConfig
from training.simulation.textures import procedural_textures

KINDS = ("plain", "ours", "compiled")


class Steps(NamedTuple):
    """Seconds and total loss of every step."""

    seconds: list[float]
    losses: list[float]


def plain_losses(reconstruction: Tensor, logits: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
    """The sum of the three losses as the authors write them, with the dynamic range of SSIM fixed at 1."""
    x = torch.arange(-5, 6, dtype=torch.float32)
    line = torch.exp(-(x**2) / (2 * 1.5**2))
    line = line / line.sum()
    window = (line.view(-1, 1) * line).expand(3, 1, 11, 11).contiguous()

    def blur(images: Tensor) -> Tensor:
        return functional.conv2d(images, window, padding=5, groups=3)

    mu_p, mu_t = blur(reconstruction), blur(clean)
    variance_p = blur(reconstruction * reconstruction) - mu_p**2
    variance_t = blur(clean * clean) - mu_t**2
    covariance = blur(reconstruction * clean) - mu_p * mu_t
    c1, c2 = 0.01**2, 0.03**2
    ssim = ((2 * mu_p * mu_t + c1) * (2 * covariance + c2)) / (
        (mu_p**2 + mu_t**2 + c1) * (variance_p + variance_t + c2)
    )
    probability = torch.softmax(logits, dim=1).permute(0, 2, 3, 1).reshape(-1, 2)
    target = mask.reshape(-1, 1).long().cpu()
    one_hot = torch.zeros(len(target), 2).scatter_(1, target, 1).clamp(1e-5, 1 - 1e-5).to(logits.device)
    p = (one_hot * probability).sum(1) + 1e-5
    focal = (-((1 - p) ** 2) * p.log()).mean()
    return functional.mse_loss(reconstruction, clean) + (1 - ssim.mean()) + focal


def run_steps(kind: str, batches: list[Batch], network: nn.Module) -> Steps:
    """Train the network on `batches`, one step each."""
    ours = kind != "plain"
    if ours:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = torch.compile(network) if kind == "compiled" else network
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    steps = Steps([], [])
    for batch in batches:
        started = time.perf_counter()
        image = batch.augmented.contiguous(memory_format=torch.channels_last) if ours else batch.augmented
        with torch.autocast("cpu", torch.bfloat16, enabled=ours):
            reconstruction, logits = forward(image)
        if ours:
            losses = draem_losses(reconstruction, logits, batch.clean, batch.mask)
            total = sum(losses.values(), start=torch.zeros(()))
        else:
            total = plain_losses(reconstruction, logits, batch.clean, batch.mask)
        optimizer.zero_grad(set_to_none=ours)
        torch.autograd.backward(total)
        optimizer.step()
        steps.losses.append(total.item())
        steps.seconds.append(time.perf_counter() - started)
    return steps


def make_batches(count: int, size: int, batch: int, seed: int) -> list[Batch]:
    """Batches of the paper's simulator on procedural images: the same for every kind of step."""
    generator = torch.Generator().manual_seed(seed)
    good, textures = procedural_textures(4, size, generator), procedural_textures(16, size, generator)
    simulator = AnomalySimulator(good, textures, SimulatorConfig(), generator)
    return [simulator.batch(batch) for _ in range(count)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks step", description=__doc__)
    parser.add_argument("--widths", type=int, nargs=2, default=(8, 16), metavar=("RECONSTRUCTIVE", "DISCRIMINATIVE"))
    parser.add_argument("--compact", action="store_true", help="the networks of edge and quick in all kinds of step")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="steps in each round; the first of each is not counted")
    parser.add_argument("--rounds", type=int, default=3, help="how often the kinds of step take turns")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="also time ours through torch.compile")
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        torch.set_num_threads(options.threads)
        if options.one != "plain":
            keep_freed_memory()
        batches = make_batches(options.steps, options.size, options.batch, options.seed)
        torch.manual_seed(options.seed)
        network = (CompactDraem if options.compact else Draem)(*options.widths)
        print(json.dumps(run_steps(options.one, batches, network)))
        return
    kinds = KINDS if options.compile else KINDS[:2]
    rounds: dict[str, list[Steps]] = {kind: [] for kind in kinds}
    command = [sys.executable, "-m", "training.benchmarks", "step", *(arguments or sys.argv[2:])]
    for _ in range(options.rounds):
        for kind in kinds:
            output = subprocess.run([*command, "--one", kind], check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
            rounds[kind].append(Steps(*json.loads(output.stdout)))
    seconds = {kind: [s for steps in rounds[kind] for s in steps.seconds[1:]] for kind in kinds}
    plain = median(seconds["plain"])
    print(
        "| step | s, median | fastest | plain time over it | total loss, first and last step |\n|---|---|---|---|---|"
    )
    for kind in kinds:
        losses, middle = rounds[kind][0].losses, median(seconds[kind])
        print(
            f"| {kind} | {middle:.3f} | {min(seconds[kind]):.3f} | {plain / middle:.2f} "
            f"| {losses[0]:.4f}, {losses[-1]:.4f} |"
        )
