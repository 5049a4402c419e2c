"""Flaws of the surface itself, from just visible to strong: lines, reliefs, specks and clouds, all from Perlin noise.

None hides the surface as a texture or a patch does: most real flaws of a material change its light and little more.
Each is an image and where it lies, of a good photo `(3, S, S)` in [0, 1].
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from training.simulation.labels import box
from training.simulation.perlin import perlin_noise

_JAGGED = 0.5  # of the lines
_BRANCHING = 0.4
_FOREIGN = 0.25  # of lines and specks: they have a colour of their own


class SurfaceFlaws:
    """Draws from `rng` and `generator`; on photos without colour (`grey`) no flaw has any."""

    def __init__(self, size: int, grey: bool, rng: np.random.Generator, generator: torch.Generator) -> None:
        self.size = size
        self.grey = grey
        self.rng = rng
        self.generator = generator

    def line(self, good: Tensor) -> tuple[Tensor, Tensor]:
        """A curve or a crack, down to a quarter of a pixel wide."""
        mask = self._level_line()
        if self.rng.random() < _BRANCHING:
            mask = torch.maximum(mask, self._level_line())
        mask = mask * ((self.noise(0, 3) - self._drawn(0.1, 0.45)) / 0.05).clamp(0, 1)
        return torch.lerp(good, self._colour(good), mask * self._drawn(0.6, 1)), (mask > 0.3).float()

    def relief(self, good: Tensor) -> tuple[Tensor, Tensor]:
        """Dents or bumps: bright on the side towards a light, dark on the other."""
        raised = (self.noise(2, 5) > self._drawn(0.4, 0.6)) & (self.noise(0, 3) > self._drawn(0, 0.4))
        height = _blurred(_blurred(raised.float(), self._one_of(3, 5, 9, 13)), self._one_of(3, 5, 7))
        down, right = torch.gradient(height)
        light = self._drawn(0, 2 * math.pi)
        slope = math.cos(light) * down + math.sin(light) * right
        slope = slope / slope.abs().max().clamp(min=1e-4)
        return (good + self._strength(0.08, 0.6) * slope).clamp(0, 1), (height > 0.15 * height.max()).float()

    def specks(self, good: Tensor) -> tuple[Tensor, Tensor]:
        spots = (self.noise(5, 5) > self._drawn(0.4, 0.65)) & (self.noise(0, 3) > self._drawn(0.1, 0.5))
        mask = _blurred(spots.float(), self._one_of(1, 3))
        return torch.lerp(good, self._colour(good), mask), (mask > 0.3).float()

    def cloud(self, good: Tensor) -> tuple[Tensor, Tensor]:
        """A large faint stain with soft edges."""
        inside = ((self.noise(0, 1) - self._drawn(0.2, 0.5)) / self._drawn(0.15, 0.5)).clamp(0, 1)
        mask = inside * inside * (3 - 2 * inside)
        tint = torch.full((3, 1, 1), 1 + float(self.rng.choice([-1, 1])) * self._strength(0.05, 0.25))
        if not self.grey and self.rng.random() < 0.5:
            tint = tint + 0.03 * torch.randn((3, 1, 1), generator=self.generator)
        return torch.lerp(good, (good * tint).clamp(0, 1), mask), (mask > 0.3).float()

    def noise(self, lowest: int, highest: int) -> Tensor:
        """Perlin noise `(S, S)` of lattices 2^lowest to 2^highest."""
        exponents = torch.randint(lowest, highest + 1, (1, 2), generator=self.generator)
        return perlin_noise(2**exponents, self.size, self.generator, torch.device("cpu"))[0]

    def _level_line(self) -> Tensor:
        """Coverage of a level line of noise; with finer noise on top the line is jagged."""
        height = self.noise(1, 3)
        if self.rng.random() < _JAGGED:
            height = height + self._drawn(0.05, 0.3) * self.noise(4, 5)
        height = height - self._drawn(-0.25, 0.25)
        down, right = torch.gradient(height)
        slope = (down.square() + right.square()).sqrt().clamp(min=1e-3)
        return 1 - (height.abs() / slope - self._strength(0.25, 2.2) / 2).clamp(0, 1)

    def _colour(self, good: Tensor) -> Tensor:
        """Of a line or a speck, at every pixel: darker more often than brighter."""
        look, by = self.rng.random(), self._strength(0.05, 0.6)
        if look < _FOREIGN:
            return torch.rand((1 if self.grey else 3, 1, 1), generator=self.generator).expand_as(good)
        if look < 0.7:
            return good * (1 - by) if self.rng.random() < 0.5 else (good - by).clamp(min=0)
        return (good + by).clamp(max=1)

    def _strength(self, least: float, most: float) -> float:
        """As often in any octave between them."""
        return math.exp(self._drawn(math.log(least), math.log(most)))

    def _drawn(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def _one_of(self, *sides: int) -> int:
        return int(self.rng.choice(sides))


def _blurred(mask: Tensor, side: int) -> Tensor:
    return box(mask[None, None], side)[0, 0]
