"""Simulated anomalies of four kinds, drawn one image at a time: what one kind cannot look like another may.

- textures under a Perlin mask, as DRÆM has them;
- patches of good photos where they do not belong, pasted, feathered or blended by Poisson's equation (NSA, Schlüter et
  al. 2022);
- shades: the surface itself, darker, brighter or tinted under a mask with soft edges;
- curves: thin level lines of Perlin noise, dark, bright or of a colour of their own.

A label holds whole pieces: a pixel counts where the change around it is visible, not where it alone happens to be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.settings import require_ranges, setting
from training.simulation.perlin import perlin_noise
from training.simulation.simulator import AnomalySimulator, SimulatorConfig

_VISIBLE = 0.03  # mean change around a pixel, of 1
_AROUND = 7  # pixels across
_FEWEST_PIXELS = 12
_TRIES = 8
_MOST_PATCHES = 4
_PERLIN = SimulatorConfig(anomaly_probability=1.0, match_grey=True, mask_combination=True, rotate_probability=0.0)


@dataclass(frozen=True)
class AnomalyShares:
    """How often each kind is drawn, in relation to the others."""

    normal_share: float = setting(0.25, "share of the samples without an anomaly", 0.0, 0.9)
    texture_share: float = setting(0.45, "textures under a Perlin mask", 0.0)
    patch_share: float = setting(0.30, "patches of good photos in another place", 0.0)
    shade_share: float = setting(0.10, "the surface darker, brighter or tinted", 0.0)
    curve_share: float = setting(0.15, "thin lines", 0.0)

    def __post_init__(self) -> None:
        require_ranges(self)
        if not self.texture_share + self.patch_share + self.shade_share + self.curve_share:
            raise ValueError("the shares of texture, patch, shade and curve are all 0: one kind of anomaly is needed")


class Anomaly(NamedTuple):
    """An image `(3, S, S)` in [0, 1], its mask `(S, S)` of 0 and 1, and the index of the good photo it was made of."""

    image: Tensor
    mask: Tensor
    photo: int


class AnomalyMixture:
    """Draws samples from good photos and textures, both uint8 `(N, 3, S, S)` on the CPU."""

    def __init__(self, good: Tensor, textures: Tensor, shares: AnomalyShares, seed: int) -> None:
        self.good = good
        self.size = good.shape[-1]
        self.shares = shares
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.simulator = AnomalySimulator(good, textures, _PERLIN, self.generator)
        self.grey = self.simulator.grey
        weights = np.array([shares.texture_share, shares.patch_share, shares.shade_share, shares.curve_share])
        self._kinds: tuple[Callable[[Tensor], tuple[Tensor, Tensor]], ...] = (
            self._texture,
            self._patches,
            self._shade,
            self._curve,
        )
        self._weights = weights / weights.sum()

    def draw(self) -> Anomaly:
        photo = int(self.rng.integers(len(self.good)))
        good = self._seen_again(self.good[photo].float() / 255)
        if self.rng.random() >= self.shares.normal_share:
            make = self._kinds[int(self.rng.choice(len(self._kinds), p=self._weights))]
            for _ in range(_TRIES):
                image, mask = make(good)
                mask = visible(good, image, mask)
                if mask.sum() >= _FEWEST_PIXELS:
                    return Anomaly(image, mask, photo)
        return Anomaly(good, torch.zeros(self.size, self.size), photo)

    def _seen_again(self, good: Tensor) -> Tensor:
        """The good photo as the camera might see it once more: light, contrast and place differ a little.

        Where photos are few, this is what keeps the head from taking every new good part for a defect.
        """
        if self.rng.random() < 0.5:
            middle = good.mean()
            good = (good - middle) * float(self.rng.uniform(0.9, 1.1)) + middle * float(self.rng.uniform(0.93, 1.07))
            if not self.grey:
                good = good * (1 + 0.015 * torch.randn((3, 1, 1), generator=self.generator))
        if self.rng.random() < 0.3:
            half = (self.size - 1) / 2
            turned = cv2.getRotationMatrix2D((half, half), self.rng.uniform(-2, 2), self.rng.uniform(0.98, 1.02))
            moved = np.asarray(turned, np.float64)
            moved[:, 2] += self.rng.uniform(-0.01, 0.01, 2) * self.size
            pixels = cv2.warpAffine(
                good.permute(1, 2, 0).numpy(), moved, (self.size, self.size), borderMode=cv2.BORDER_REFLECT_101
            )
            good = torch.from_numpy(pixels).permute(2, 0, 1)
        return good.clamp(0, 1)

    def _texture(self, good: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.simulator.masks(1)[0, 0]
        if self.rng.random() < 0.3:
            mask = _box(mask, 5)
        image = torch.lerp(good, self.simulator.textures_for(1)[0], mask * self.simulator.opacities(1)[0])
        return image, (mask > 0.25).float()

    def _shade(self, good: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.simulator.masks(1)[0, 0] if self.rng.random() < 0.5 else (self._noise(0, 2) > 0.4).float()
        mask = _box(mask, int(self.rng.choice([1, 5, 9, 15])))
        change = 1 + float(self.rng.choice([-1, 1])) * float(self.rng.uniform(0.12, 0.6))
        tint = torch.full((3, 1, 1), change)
        if not self.grey and self.rng.random() < 0.5:
            tint = tint * (1 + 0.15 * torch.randn((3, 1, 1), generator=self.generator))
        return torch.lerp(good, (good * tint).clamp(0, 1), mask), (mask > 0.35).float()

    def _curve(self, good: Tensor) -> tuple[Tensor, Tensor]:
        noise, where = self._noise(1, 3), self._noise(0, 3)
        down, right = torch.gradient(noise)
        slope = (down.square() + right.square()).sqrt().clamp(min=1e-3)
        width = float(self.rng.uniform(0.6, 2.2))
        mask = 1 - (noise.abs() / slope - width / 2).clamp(0, 1)
        mask = mask * (where > float(self.rng.uniform(0.1, 0.45)))
        look = self.rng.random()
        if look < 0.3:
            colour = good * float(self.rng.uniform(0.2, 0.8))
        elif look < 0.5:
            colour = good + float(self.rng.uniform(0.1, 0.5))
        else:
            colour = torch.rand((1 if self.grey else 3, 1, 1), generator=self.generator).expand_as(good)
        return torch.lerp(good, colour.clamp(0, 1), mask * float(self.rng.uniform(0.5, 1.0))), (mask > 0.3).float()

    def _patches(self, good: Tensor) -> tuple[Tensor, Tensor]:
        pixels = np.rint(255 * good.permute(1, 2, 0).numpy()).astype(np.uint8)
        changed = np.zeros((self.size, self.size), np.float32)
        for place in range(_MOST_PATCHES):
            if place and self.rng.random() < 0.5:
                continue
            source = pixels
            if self.rng.random() < 0.5:
                source = self.good[int(self.rng.integers(len(self.good)))].permute(1, 2, 0).numpy()
            patch = self._cut(source)
            shape = self._outline(*patch.shape[:2])
            row, column = (int(self.rng.integers(self.size + 1 - side)) for side in patch.shape[:2])
            pixels = self._paste(pixels, patch, shape, row, column)
            there = changed[row : row + len(shape), column : column + shape.shape[1]]
            np.maximum(there, shape, out=there)
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, torch.from_numpy(changed)

    def _cut(self, source: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A piece of `source`, resized, perhaps turned and with another light on it."""
        largest = int(0.8 * self.size)
        halves = np.clip(0.03 + self.rng.gamma(2, 0.05, 2), 0.03, 0.4)
        height, width = (min(largest, max(6, int(2 * half * self.size))) for half in halves)
        row, column = int(self.rng.integers(self.size + 1 - height)), int(self.rng.integers(self.size + 1 - width))
        factor = float(np.exp(self.rng.uniform(np.log(0.6), np.log(1.7))))
        resized = (min(largest, max(6, int(width * factor))), min(largest, max(6, int(height * factor))))
        patch = cv2.resize(source[row : row + height, column : column + width], resized).astype(np.uint8)
        if self.rng.random() < 0.5:
            patch = np.ascontiguousarray(np.rot90(patch, int(self.rng.integers(1, 4))))
        if self.rng.random() < 0.5:
            light = patch * self.rng.uniform(0.8, 1.2) + self.rng.uniform(-15, 15)
            patch = np.clip(light, 0, 255).astype(np.uint8)
        return patch

    def _outline(self, height: int, width: int) -> NDArray[np.float32]:
        if self.rng.random() < 0.4:
            return np.ones((height, width), np.float32)
        noise = np.asarray(cv2.resize(self._noise(1, 3).numpy(), (width, height)), np.float32)
        y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
        return np.asarray(1 - (x * x + y * y) + 0.8 * noise > 0.15, np.float32)

    def _paste(
        self, pixels: NDArray[np.uint8], patch: NDArray[np.uint8], shape: NDArray[np.float32], row: int, column: int
    ) -> NDArray[np.uint8]:
        how = self.rng.random()
        if how < 0.3:
            return self._poisson(pixels, patch, shape, row, column)
        opacity = shape if how < 0.6 else cv2.GaussianBlur(shape, (0, 0), 1.5)
        opacity = opacity * (1.0 if self.rng.random() < 0.6 else self.rng.uniform(0.5, 1.0))
        out = pixels.copy()
        there = out[row : row + len(patch), column : column + patch.shape[1]]
        there[:] = np.rint(there + opacity[..., None] * (patch - there.astype(np.float32)))
        return out

    def _poisson(
        self, pixels: NDArray[np.uint8], patch: NDArray[np.uint8], shape: NDArray[np.float32], row: int, column: int
    ) -> NDArray[np.uint8]:
        inside = np.zeros(shape.shape, np.uint8)
        inside[1:-1, 1:-1] = 255 * (shape[1:-1, 1:-1] > 0)
        rows, columns = np.nonzero(inside)
        if len(rows) < _FEWEST_PIXELS:
            return pixels
        # OpenCV puts the middle of the shape's box there.
        middle = (column + int(columns.min() + columns.max() + 1) // 2, row + int(rows.min() + rows.max() + 1) // 2)
        how = cv2.MIXED_CLONE if self.rng.random() < 0.5 else cv2.NORMAL_CLONE
        try:
            return np.asarray(cv2.seamlessClone(patch, pixels, inside, middle, how), np.uint8)
        except cv2.error:  # the shape touches the image's border
            return pixels

    def _noise(self, lowest: int, highest: int) -> Tensor:
        """Perlin noise `(S, S)` of lattices 2^lowest to 2^highest."""
        exponents = torch.randint(lowest, highest + 1, (1, 2), generator=self.generator)
        return perlin_noise(2**exponents, self.size, self.generator, torch.device("cpu"))[0]


def visible(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """The part of a mask `(S, S)` where the mean change around a pixel is seen, images `(3, S, S)`."""
    change = (after - before).abs().amax(dim=0)
    mean = _box(change * mask, _AROUND) / _box(mask, _AROUND).clamp(min=1 / _AROUND**2)
    return mask * (mean >= _VISIBLE)


def _box(image: Tensor, side: int) -> Tensor:
    """The mean of the square of `side` pixels around each, `(S, S)`."""
    return functional.avg_pool2d(image[None, None], side, 1, side // 2)[0, 0]
