"""Batched 2-D Perlin noise as two matrix products.

In a lattice cell the noise is a separable blend of four corner ramps, so the whole image is
`A_y G_y B_x^T + B_y G_x A_x^T`: G are the gradients' components, B holds the fade weights of each pixel's two lattice
lines, and A the same weights times the pixel's distance to that line. No gather over pixels, any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_RESOLUTION = 32


def perlin_noise(resolutions: Tensor, size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Noise `(N, size, size)` in about [-1, 1] for lattice resolutions `(N, 2)` (rows, columns), each in 1..32.

    `value = sqrt(2) * lerp(lerp(n00, n10, f(u)), lerp(n01, n11, f(u)), f(v))`, `f(t) = 6t^5 - 15t^4 + 10t^3`, unit
    gradients at uniform angles, one octave, as in the authors' generator. The draws come from `generator` (CPU).
    """
    lines = MAX_RESOLUTION + 1
    angles = torch.rand((len(resolutions), lines, lines), generator=generator) * (2 * math.pi)
    angles = angles.to(device)
    weights, ramps = _lattice(size, device)
    rows, columns = (resolutions - 1).to(device).unbind(dim=1)
    noise = ramps[rows] @ (angles.cos() @ weights[columns].mT)
    return torch.baddbmm(noise, weights[rows], angles.sin() @ ramps[columns].mT).mul_(math.sqrt(2))


_LATTICES: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}


def _lattice(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Fade weights and ramps, both `(32, size, 33)`: [resolution - 1, pixel, lattice line]."""
    if (size, device) not in _LATTICES:
        resolution = torch.arange(1, MAX_RESOLUTION + 1, dtype=torch.float64).view(-1, 1, 1)
        position = torch.arange(size, dtype=torch.float64).view(1, -1, 1) * resolution / size
        line = torch.arange(MAX_RESOLUTION + 1, dtype=torch.float64).view(1, 1, -1)
        offset = position - line
        t = offset.abs().clamp(max=1)
        weights = 1 - t**3 * (t * (6 * t - 15) + 10)
        _LATTICES[size, device] = (weights.float().to(device), (weights * offset).float().to(device))
    return _LATTICES[size, device]
