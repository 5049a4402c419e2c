"""The smallest fusion there is: 64x64, eight photos of one part, a dozen samples, six steps."""

from pathlib import Path

import torch
from torch import Tensor, nn

from training.loop.runs import Run
from training.methods.fusion.config import PRESETS
from training.methods.fusion.lesson import fit
from training.methods.protocol import TrainingSet
from training.settings import changed

TINY = changed(
    PRESETS["station"],
    {"size": 64, "width": 8, "samples": 12, "channels": 16, "bank": 64, "steps": 6, "batch": 2},
)


def photos() -> Tensor:
    """One part with a little noise, uint8 `(8, 3, 64, 64)`."""
    generator = torch.Generator().manual_seed(1)
    part = torch.zeros(3, 64, 64)
    part[:, 16:48, 8:56] = torch.tensor([120.0, 90.0, 60.0]).view(3, 1, 1)
    return (60 + part + 4 * torch.randn((8, 3, 64, 64), generator=generator)).clamp(0, 255).byte()


def textures() -> Tensor:
    return torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(2)).byte()


def trained(folder: Path, **changes: int) -> nn.Module:
    data = TrainingSet(photos(), textures())
    return fit(changed(TINY, changes), data, Run(folder), torch.device("cpu"))
