"""The discriminative network: reads features, distances and the image, and says where a simulated anomaly is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.features.trunk import Features

_DISTANCES = 3
_COARSE = 48
_IMAGE = 8
_DROPPED = 0.15  # of the features' channels while learning: no defect may hang on one of them


class DiscriminativeHead(nn.Module):
    """Features standardised, distances `(N, 3, H/8, W/8)`, image `(N, 3, H, W)` -> logits `(N, 1, H/2, W/2)`.

    A decoder from stride 16 to 2. Distances say what no simulated anomaly could teach, so all of its stages read them;
    the image itself shows scratches that the trunk's stride of 4 has lost.
    """

    def __init__(self, channels: tuple[int, int, int], width: int, anomaly_prior: float) -> None:
        """`channels` of the features, finest first."""
        super().__init__()
        fine, middle, coarse = channels
        self.drop = nn.Dropout2d(_DROPPED)
        wide, narrow = width * 3 // 2, width // 2
        self.coarse = nn.Sequential(_stage(coarse, _COARSE, 1), _stage(_COARSE, _COARSE))
        self.middle = nn.Sequential(_stage(_COARSE + middle + _DISTANCES, wide), _stage(wide, wide))
        self.to_fine = _stage(wide, _COARSE, 1)
        self.fine = nn.Sequential(_stage(_COARSE + fine + _DISTANCES, width), _stage(width, width))
        self.to_image = _stage(width, narrow, 1)
        self.image = nn.Sequential(_stage(3, _IMAGE, stride=2), _stage(_IMAGE, _IMAGE))
        self.last = _stage(narrow + _IMAGE + _DISTANCES, narrow)
        self.logits = nn.Conv2d(narrow, 1, 1)
        nn.init.constant_(self.logits.bias, float(torch.logit(torch.tensor(anomaly_prior))))  # type: ignore[arg-type]

    def forward(self, features: Features, distances: Tensor, image: Tensor) -> Tensor:
        fine, middle, coarse = map(self.drop, features)
        distances = 2 * torch.log(distances.clamp(min=1e-3))
        x = self.middle(torch.cat((_like(self.coarse(coarse), middle), middle, distances), dim=1))
        x = self.fine(torch.cat((_like(self.to_fine(x), fine), fine, _like(distances, fine)), dim=1))
        detail = self.image(image - 0.5)
        x = self.last(torch.cat((_like(self.to_image(x), detail), detail, _like(distances, detail)), dim=1))
        logits: Tensor = self.logits(x)
        return logits


def _stage(channels: int, out: int, kernel: int = 3, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


def _like(x: Tensor, other: Tensor) -> Tensor:
    """`x` on the grid of `other`."""
    return functional.interpolate(x, size=(other.shape[2], other.shape[3]), mode="bilinear", align_corners=False)
