"""A few patches that lie close to all others (Roth et al. 2022, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

_PROJECTED = 32  # dimensions


def farthest_points(patches: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices `(count,)` of patches `(N, C)`: each next one is the farthest from all before it."""
    chosen = [int(torch.randint(0, len(patches), (), generator=generator))]
    distances = (patches - patches[chosen[0]]).square().sum(dim=1)
    for _ in tqdm(range(1, min(count, len(patches))), desc="coreset", unit="patch", leave=False):
        chosen.append(int(distances.argmax()))
        distances = torch.minimum(distances, (patches - patches[chosen[-1]]).square().sum(dim=1))
    return torch.tensor(chosen, device=patches.device)


def projected(patches: Tensor, generator: torch.Generator) -> Tensor:
    """Patches `(N, C)` in few dimensions, about as far from each other (Achlioptas 2003): values are -1, 0 and 1."""
    draws = torch.randint(0, 6, (patches.shape[1], _PROJECTED), generator=generator)
    projection: Tensor = ((draws == 0).float() - (draws == 1).float()) * (3 / _PROJECTED) ** 0.5
    return patches @ projection.to(patches.device)
