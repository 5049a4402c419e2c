"""Simulated anomalies of five kinds, drawn one image at a time: what one kind cannot look like another may.

- textures under a Perlin mask, as DRÆM has them;
- patches of good photos where they do not belong (`training/simulation/patches.py`);
- structure: blocks of the photo itself in another order under a Perlin mask (none by default);
- shades: the surface itself, darker, brighter or tinted under a mask with soft edges;
- curves: thin level lines of Perlin noise, dark, bright or of a colour of their own.

Up to three of them may meet on an image. A label holds whole pieces: a pixel counts where the change around it is
visible, not where it alone happens to be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from training.settings import require_ranges, setting
from training.simulation.labels import box, visible
from training.simulation.patches import PatchPaster, shuffled
from training.simulation.perlin import perlin_noise
from training.simulation.real_defects import RealDefects
from training.simulation.simulator import AnomalySimulator, SimulatorConfig

_VISIBLE = 0.03  # mean change around a pixel, of 1
_FEWEST_PIXELS = 12
_TRIES = 8
_THREE = 0.25  # of the images where kinds meet
# Of the patches. More of them that grow in from other photos look like good parts, and good parts then like defects.
_OTHERS = 0.5
_GROWN = 0.3
_PERLIN = SimulatorConfig(anomaly_probability=1.0, match_grey=True, mask_combination=True, rotate_probability=0.0)


@dataclass(frozen=True)
class AnomalyShares:
    """How often each kind is drawn, in relation to the others."""

    normal_share: float = setting(0.25, "share of the samples without an anomaly", 0.0, 0.9)
    texture_share: float = setting(0.45, "textures under a Perlin mask", 0.0)
    patch_share: float = setting(0.30, "patches of good photos in another place", 0.0)
    structure_share: float = setting(0.0, "blocks of the photo itself in another order", 0.0)
    shade_share: float = setting(0.10, "the surface darker, brighter or tinted", 0.0)
    curve_share: float = setting(0.15, "thin lines", 0.0)
    real_share: float = setting(0.30, "defects that people confirmed at a station, where there are any", 0.0)
    mixed_share: float = setting(0.0, "share of the anomalies on which two or three kinds meet", 0.0, 1.0)

    def __post_init__(self) -> None:
        require_ranges(self)
        if not any((self.texture_share, self.patch_share, self.structure_share, self.shade_share, self.curve_share)):
            raise ValueError("the shares of all kinds of anomalies are 0: one kind of anomaly is needed")


class Anomaly(NamedTuple):
    """An image `(3, S, S)` in [0, 1], its mask `(S, S)` of 0 and 1, and the index of the good photo it was made of."""

    image: Tensor
    mask: Tensor
    photo: int


class AnomalyMixture:
    """Draws samples from good photos and textures, both uint8 `(N, 3, S, S)` on the CPU."""

    def __init__(
        self,
        good: Tensor,
        textures: Tensor,
        shares: AnomalyShares,
        seed: int,
        defects: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """`defects`: photos and masks of real ones."""
        self.good = good
        self.size = good.shape[-1]
        self.shares = shares
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.simulator = AnomalySimulator(good, textures, _PERLIN, self.generator)
        self.grey = self.simulator.grey
        self.paster = PatchPaster(good, self.generator, others=_OTHERS, grown=_GROWN)
        self.real = None if defects is None else RealDefects(*defects, self.generator)
        kinds: dict[Callable[[Tensor, int], tuple[Tensor, Tensor]], float] = {
            self._texture: shares.texture_share,
            self._patch: shares.patch_share,
            self._structure: shares.structure_share,
            self._shade: shares.shade_share,
            self._curve: shares.curve_share,
        }
        if self.real is not None:
            kinds[self._real] = shares.real_share
        self._kinds = tuple(kinds)
        weights = np.array(list(kinds.values()))
        self._weights = weights / weights.sum()

    def draw(self) -> Anomaly:
        photo = int(self.rng.integers(len(self.good)))
        good = self._seen_again(self.good[photo].float() / 255)
        image, mask = good, torch.zeros(self.size, self.size)
        if self.rng.random() >= self.shares.normal_share:
            for _ in range(self._how_many()):
                image, added = self._added(image, photo)
                mask = torch.maximum(mask, added)
        return Anomaly(image, mask, photo)

    def _how_many(self) -> int:
        """Kinds that meet on an image."""
        if self.rng.random() >= self.shares.mixed_share:
            return 1
        return 3 if self.rng.random() < _THREE else 2

    def _added(self, image: Tensor, photo: int) -> tuple[Tensor, Tensor]:
        """One more anomaly, of one kind, on `image`; where it is seen."""
        make = self._kinds[int(self.rng.choice(len(self._kinds), p=self._weights))]
        for _ in range(_TRIES):
            after, mask = make(image, photo)
            mask = visible(image[None], after[None], mask[None, None], _VISIBLE)[0, 0]
            if mask.sum() >= _FEWEST_PIXELS:
                return after, mask
        return image, torch.zeros(self.size, self.size)

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

    def _texture(self, good: Tensor, photo: int) -> tuple[Tensor, Tensor]:
        mask = self.simulator.masks(1)[0, 0]
        if self.rng.random() < 0.3:
            mask = _blurred(mask, 5)
        image = torch.lerp(good, self.simulator.textures_for(1)[0], mask * self.simulator.opacities(1)[0])
        return image, (mask > 0.25).float()

    def _real(self, good: Tensor, photo: int) -> tuple[Tensor, Tensor]:
        return (good, torch.zeros(self.size, self.size)) if self.real is None else self.real.paste(good)

    def _shade(self, good: Tensor, photo: int) -> tuple[Tensor, Tensor]:
        mask = self.simulator.masks(1)[0, 0] if self.rng.random() < 0.5 else (self._noise(0, 2) > 0.4).float()
        mask = _blurred(mask, int(self.rng.choice([1, 5, 9, 15])))
        change = 1 + float(self.rng.choice([-1, 1])) * float(self.rng.uniform(0.12, 0.6))
        tint = torch.full((3, 1, 1), change)
        if not self.grey and self.rng.random() < 0.5:
            tint = tint * (1 + 0.15 * torch.randn((3, 1, 1), generator=self.generator))
        return torch.lerp(good, (good * tint).clamp(0, 1), mask), (mask > 0.35).float()

    def _curve(self, good: Tensor, photo: int) -> tuple[Tensor, Tensor]:
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

    def _patch(self, good: Tensor, photo: int) -> tuple[Tensor, Tensor]:
        return self.paster.paste(good, photo)

    def _structure(self, good: Tensor, photo: int) -> tuple[Tensor, Tensor]:
        mask = self.simulator.masks(1)[0, 0]
        light = float(self.rng.uniform(0.8, 1.2))
        blocks = (light * shuffled(good, self.generator)).clamp(0, 1)
        return torch.lerp(good, blocks, mask * float(self.rng.uniform(0.4, 1))), mask

    def _noise(self, lowest: int, highest: int) -> Tensor:
        """Perlin noise `(S, S)` of lattices 2^lowest to 2^highest."""
        exponents = torch.randint(lowest, highest + 1, (1, 2), generator=self.generator)
        return perlin_noise(2**exponents, self.size, self.generator, torch.device("cpu"))[0]


def _blurred(mask: Tensor, side: int) -> Tensor:
    return box(mask[None, None], side)[0, 0]
