"""The network of Božič, Tabernik and Skočaj (Computers in Industry, 2021): segmentation at an eighth, and a decision.

Written from its description. Convolutions have no bias and are followed by a normalisation of each channel of each
image and a ReLU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 8  # of the segmentation


class SegmentationDecision(nn.Module):
    """RGB `(N, 3, H, W)` in [0, 1] -> logits of the segmentation `(N, 1, H/8, W/8)`, of the decision `(N,)`, and how
    many batches it has learned from, `()`.
    """

    learned: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.volume = nn.Sequential(
            _block(3, w, 5),
            nn.MaxPool2d(2),
            _block(w, 2 * w, 5),
            _block(2 * w, 2 * w, 5),
            _block(2 * w, 2 * w, 5),
            nn.MaxPool2d(2),
            _block(2 * w, 2 * w, 5),
            _block(2 * w, 2 * w, 5),
            _block(2 * w, 2 * w, 5),
            _block(2 * w, 2 * w, 5),
            nn.MaxPool2d(2),
            _block(2 * w, 32 * w, 15),
        )
        self.segmentation = nn.Sequential(nn.Conv2d(32 * w, 1, 1, bias=False), FeatureNorm(1, shifts=False))
        halve = nn.MaxPool2d(2, ceil_mode=True)
        self.decision = nn.Sequential(
            halve, _block(32 * w + 1, 8, 5), halve, _block(8, 16, 5), halve, _block(16, 32, 5)
        )
        self.verdict = nn.Linear(66, 1)
        self.register_buffer("learned", torch.zeros(()))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_normal_(module.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.training:
            self.learned += 1
        volume = self.volume(x)
        segmented: Tensor = self.segmentation(volume)
        # The decision teaches nothing to what it reads.
        features = self.decision(torch.cat((volume.detach(), segmented.detach()), dim=1))
        seen = [features.amax(dim=(2, 3)), features.mean(dim=(2, 3))]
        seen += [segmented.detach().amax(dim=(2, 3)), segmented.detach().mean(dim=(2, 3))]
        decided: Tensor = self.verdict(torch.cat(seen, dim=1))
        return segmented, decided[:, 0], self.learned


class FeatureNorm(nn.Module):
    """Every channel of every image by itself: (x - mean) / sqrt(deviation + 0.001), then a learned scale and shift."""

    def __init__(self, channels: int, *, shifts: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1)) if shifts else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        centred = x - x.mean(dim=(2, 3), keepdim=True)
        # The root of 0 has no gradient to learn from.
        deviation = (centred.square().mean(dim=(2, 3), keepdim=True) + 1e-12).sqrt()
        out = self.scale * centred / (deviation + 0.001).sqrt()
        return out if self.shift is None else out + self.shift


class BozicMap(nn.Module):
    """RGB `(N, 3, H, W)` in [0, 1] -> map `(N, H, W)` in [0, 1]: the enlarged segmentation times the decision.

    The product because a bundle has one score, of its map, and the paper's detection is the decision's.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        segmented, decided, _ = self.network(x)
        enlarged = functional.interpolate(torch.sigmoid(segmented), size=x.shape[2:], mode="bilinear")
        return enlarged[:, 0] * torch.sigmoid(decided).view(-1, 1, 1)


def _block(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, FeatureNorm(c_out), nn.ReLU(inplace=True))
