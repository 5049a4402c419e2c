"""The smallest training there is: four photos, four textures, six steps."""

from pathlib import Path

import torch
from torch import Tensor, nn

from training.loop.runs import Run
from training.methods.draem.config import TrainConfig, preset
from training.methods.draem.lesson import train_networks
from training.methods.draem.method import DRAEM
from training.methods.protocol import TrainingSet

CPU = torch.device("cpu")
TINY = preset("quick", size=64, reconstructive_width=4, discriminative_width=4, steps=6, batch=2, bf16=False)
CLAIMED = DRAEM.claimed(TINY)


def photos() -> Tensor:
    return torch.randint(90, 110, (4, 3, 64, 64), generator=torch.Generator().manual_seed(1)).byte()


def textures() -> Tensor:
    return torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(2)).byte()


def train(config: TrainConfig, folder: Path, *, checkpoint_s: float = 60.0) -> nn.Module:
    """DRÆM's networks, trained on these in a run's folder that is there."""
    return train_networks(config, TrainingSet(photos(), textures()), Run(folder, checkpoint_s=checkpoint_s), CPU)
