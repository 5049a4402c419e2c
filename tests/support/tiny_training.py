"""The smallest training there is: four photos, four textures, six steps."""

import torch
from torch import Tensor

from training.methods.draem.config import preset

CPU = torch.device("cpu")
TINY = preset("quick", size=64, reconstructive_width=4, discriminative_width=4, steps=6, batch=2, bf16=False)


def photos() -> Tensor:
    return torch.randint(90, 110, (4, 3, 64, 64), generator=torch.Generator().manual_seed(1)).byte()


def textures() -> Tensor:
    return torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(2)).byte()
