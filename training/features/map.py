"""A map made of one distance, as exported: what methods without a step of training have in common."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.features.embedding import Standardised, embed
from training.features.trunk import Trunk

_HALF_AT = 0.999  # of the good pixels lie below the middle of the map's range


class DistanceMap(nn.Module):
    """RGB `(N, 3, H, W)` in [0, 1] -> `1 - exp(-d / s)` of the smoothed distance d, `(N, H, W)` in [0, 1].

    `distance` takes embeddings `(N, h, w, C)` to `(N, h, w)`; `s` is such that nearly all of the `good` distances, of
    photos left out of what it was fitted on, give less than one half.
    """

    def __init__(self, trunk: Trunk, standardised: Standardised, distance: nn.Module, good: Tensor) -> None:
        super().__init__()
        self.trunk = trunk
        self.standardised = standardised
        self.distance = distance
        typical = torch.quantile(_smooth(good).flatten()[:1_000_000], _HALF_AT)
        self.scale = float(typical.clamp(min=1e-6)) / math.log(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.of_distances(self.distance(embed(self.standardised(self.trunk(x)))), (x.shape[2], x.shape[3]))

    def of_distances(self, distances: Tensor, size: tuple[int, int]) -> Tensor:
        """The map of `size` that distances `(N, h, w)` give."""
        smooth = _smooth(distances)[:, None]
        smooth = functional.interpolate(smooth, size=size, mode="bilinear", align_corners=False)[:, 0]
        return 1 - torch.exp(-smooth / self.scale)


def _smooth(distances: Tensor) -> Tensor:
    """The mean of each patch and its eight neighbours: PaDiM's Gaussian of 4 pixels on a grid of 8."""
    return functional.avg_pool2d(distances[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
