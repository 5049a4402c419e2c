"""Curves and samples of a run for TensorBoard: `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
_SAMPLES = 4


class Curves:
    """Event files in `run/tensorboard`; `step` is where the run begins or goes on: later events of it are dropped."""

    def __init__(self, run: Path, step: int) -> None:
        self._writer = SummaryWriter(run / FOLDER, purge_step=step)

    def losses(self, step: int, lr: float, losses: dict[str, float]) -> None:
        for name, value in {**{f"loss/{name}": value for name, value in losses.items()}, "lr": lr}.items():
            self._writer.add_scalar(name, value, step)

    def samples(self, step: int, columns: Sequence[Tensor]) -> None:
        """Images `(N, 1 or 3, H, W)` in [0, 1] beside each other, one row a sample."""
        wide = torch.cat([column[:_SAMPLES].expand(-1, 3, -1, -1) for column in columns], dim=3)
        self._writer.add_image("samples", torch.cat(list(wide), dim=1), step)

    def close(self) -> None:
        # On a full disk the writer's own thread has died already; the checkpoint tells of it, by name.
        with suppress(OSError):
            self._writer.close()
