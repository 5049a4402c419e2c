"""RIAD's in-painting network and its map (Zavrtanik et al. 2021, Pattern Recognition 112)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from training.losses import msgms_distance, prewitt_kernels

SQUARES = (2, 4, 8, 16)  # pixels of their sides


class InpaintingNetwork(nn.Module):
    """U-Net with skips: RGB in [0, 1] `(N, 3, H, W)`, parts of it hidden -> `(N, 3, H, W)` in [0, 1].

    Inside, values lie in [-1, 1] and the last layer is a tanh, as in the paper.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        stages = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.first = _double(3, width)
        pairs = list(pairwise(stages))
        self.downs = nn.ModuleList(_Down(a, b) for a, b in pairs)
        self.ups = nn.ModuleList(_Up(b, a) for a, b in reversed(pairs))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(2 * x - 1)
        skips = []
        for down in self.downs:
            skips.append(x)
            x = down(x)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return (torch.tanh(self.last(x)) + 1) / 2


class RiadMap(nn.Module):
    """RGB `(N, 3, H, W)` in [0, 1] -> map `(N, H, W)` in [0, 1].

    For each size of squares every part is hidden in turn and in-painted from the others, and what was in-painted is put
    together; the map is the smoothed MSGMS distance of that to the image, averaged over the sizes. All hidden images,
    12 in the paper, go through the network as one batch. Which square is in which part is drawn once, with the seed.
    """

    hidden: Tensor
    prewitt: Tensor

    def __init__(self, network: nn.Module, size: int, parts: int, seed: int) -> None:
        super().__init__()
        self.network = network
        self.parts = parts
        generator = torch.Generator().manual_seed(seed)
        hidden = torch.cat([hidden_parts(size, side, parts, generator) for side in SQUARES])
        self.register_buffer("hidden", hidden, persistent=False)  # (4 parts, 1, H, W)
        self.register_buffer("prewitt", prewitt_kernels(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        passes, size = len(self.hidden), x.shape[2:]
        seen = (x.unsqueeze(1) * (1 - self.hidden)).flatten(0, 1)
        painted = self.network(seen).view(-1, passes, 3, *size) * self.hidden
        whole = painted.view(-1, len(SQUARES), self.parts, 3, *size).sum(dim=2).flatten(0, 1)
        image = x.unsqueeze(1).expand(-1, len(SQUARES), -1, -1, -1).flatten(0, 1)
        distance = msgms_distance(whole, image, self.prewitt)
        anomaly_map: Tensor = distance.view(-1, len(SQUARES), *size).mean(dim=1).clamp(0, 1)
        return anomaly_map


def hidden_parts(size: int, side: int, parts: int, generator: torch.Generator) -> Tensor:
    """Masks `(parts, 1, size, size)`: each square of `side` pixels is 1 in one of them, drawn at random.

    As far as they divide, equally many are 1 in each.
    """
    count = size // side
    part = torch.randperm(count * count, generator=generator).remainder(parts).view(count, count)
    masks = (part == torch.arange(parts).view(-1, 1, 1)).float()
    return masks.repeat_interleave(side, 1).repeat_interleave(side, 2).unsqueeze(1)


def _double(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_out, c_out, 3, padding=1),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


class _Down(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.halve = nn.Sequential(
            nn.Conv2d(c_in, c_out, 4, stride=2, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
        )
        self.mix = _double(c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mix(self.halve(x))
        return out


class _Up(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
        )
        self.mix = _double(2 * c_out, c_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.mix(torch.cat((self.enlarge(x), skip), dim=1))
        return out
