"""The anomaly simulator of DRÆM: Perlin mask, augmented texture, random opacity (Zavrtanik et al. 2021, eq. 1).

Its own room beside the methods: others than DRÆM learn from simulated anomalies too.
Works on a whole batch on the device that holds the images. All draws come from one CPU generator, so a run can be
repeated and resumed exactly on any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.data.simulated_defects import foreground_mask
from training.settings import require_ranges, setting
from training.simulation.labels import visible
from training.simulation.patches import PatchPaster, shuffled
from training.simulation.perlin import perlin_noise
from training.simulation.real_defects import RealDefects
from training.simulation.textures import AUGMENTERS, LUMA, TEXT_AUGMENTERS, augment_textures, rotate

_GREY_NOISE = 3  # grey levels
_COLOURED_SHARE = 0.001  # of the pixels
_REAL_SHARE = 0.3  # of the anomalies, where there are real defects


@dataclass(frozen=True)
class SimulatorConfig:
    anomaly_probability: float = setting(0.5, "share of samples that get a mask at all (some come out empty)", 0.0, 1.0)
    perlin_max_exponent: int = setting(5, "lattice resolution per axis is 2^0 .. 2^this, drawn per axis", 0, 5)
    perlin_threshold: float = setting(0.5, "noise above it is anomalous", -1.0, 1.0)
    perlin_threshold_max: float = setting(
        0.0, "where larger, each mask's threshold is U(perlin-threshold, this)", -1.0, 1.0
    )
    mask_shape: Literal["perlin", "rectangles"] = setting(
        "perlin", "rectangles: 1 to 4, as much of the image as Perlin masks"
    )
    opacity_min: float = setting(0.2, "the texture's share of the blend is U(this, 1)", 0.0, 1.0)
    middling_opacity: bool = setting(
        False, "opacity N(0.5, 0.1) clipped to [0.2, 0.8] instead of uniform (GLASS, Chen et al. 2024)"
    )
    texture_augmentation: bool = setting(True, "three augmenters on each texture")
    augmenters: Literal["code", "text"] = setting(
        "code", "the ten of the authors' code or the seven of the paper's text"
    )
    plain_colours: bool = setting(False, "each texture is one random colour, no image")
    match_grey: bool = setting(
        False, "where the photos are grey the textures are too: colour would give anomalies away"
    )
    structure: float = setting(
        0.0, "share of anomalies whose texture is the photo itself, its blocks in another order (MemSeg)", 0.0, 1.0
    )
    patches: float = setting(
        0.0, "share of anomalies that are patches of other good photos, blended by Poisson's equation (NSA)", 0.0, 1.0
    )
    own_texture: float = setting(0.0, "share of anomalies whose texture is another good photo (0: the paper)", 0.0, 1.0)
    mask_combination: bool = setting(
        False, "union or intersection of two masks for a third each (GLASS, Chen et al. 2024)"
    )
    visible_min: float = setting(
        0.0, "masked pixels around which the mean change (largest channel, of 1) is less count as normal", 0.0, 1.0
    )
    rotate_probability: float = setting(
        0.3, "share of good photos that are rotated by U(-rotate-degrees, rotate-degrees)", 0.0, 1.0
    )
    rotate_degrees: float = setting(90.0, "largest rotation; 0 for parts that always lie the same way", 0.0, 180.0)
    rotate_fill: int = setting(
        0, "grey level of the corners that rotation brings in; 0: the paper, 114: DeSTSeg", 0, 255
    )
    foreground: bool = setting(False, "anomalies on the part only, where it stands out from a plain background (GLASS)")

    def __post_init__(self) -> None:
        require_ranges(self)


@dataclass(frozen=True)
class Batch:
    """What the network sees and must restore, `(N, 3, H, W)` in [0, 1], and the mask `(N, 1, H, W)` of 0 and 1."""

    augmented: Tensor
    clean: Tensor
    mask: Tensor


def are_grey(photos: Tensor) -> bool:
    """Whether `(N, 3, H, W)` uint8 RGB shows no colour: channels differ by more than rounding in few pixels."""
    spread = photos.amax(dim=1) - photos.amin(dim=1)
    return bool((spread > _GREY_NOISE).float().mean() < _COLOURED_SHARE)


class AnomalySimulator:
    """Draws batches with replacement from good photos and textures, both uint8 `(N, 3, S, S)` on one device."""

    def __init__(
        self,
        good: Tensor,
        textures: Tensor,
        config: SimulatorConfig,
        generator: torch.Generator,
        real: RealDefects | None = None,
    ) -> None:
        if good.shape[1:] != textures.shape[1:]:
            raise ValueError(f"good photos are {tuple(good.shape[1:])}, textures {tuple(textures.shape[1:])}")
        self.good = good
        self.textures = textures
        self.config = config
        self.generator = generator
        self.real = real
        self.part = self._part() if config.foreground else None
        self.paster = PatchPaster(good, generator) if config.patches else None
        self.grey = config.match_grey and are_grey(good[:32])
        self._augmenters = AUGMENTERS if config.augmenters == "code" else TEXT_AUGMENTERS

    def batch(self, count: int) -> Batch:
        index = torch.randint(0, len(self.good), (count,), generator=self.generator)
        clean, part = self._good_photos(index)
        anomalous = torch.rand(count, generator=self.generator) < self.config.anomaly_probability
        mask = torch.zeros((count, 1, *clean.shape[2:]), device=clean.device)
        augmented = clean.clone()
        chosen = anomalous.nonzero().flatten().to(clean.device)
        if count := len(chosen):
            masks = self.masks(count) if part is None else self._masks_on(part.index_select(0, chosen))
            before = clean.index_select(0, chosen)
            opacity = self.opacities(count).to(clean.device)
            textures = self.textures_for(count)
            for i in self._chance(count, self.config.structure):
                textures[i] = shuffled(before[i], self.generator)
            after = torch.lerp(before, textures, masks * opacity)
            if self.paster:
                for i in self._chance(count, self.config.patches):
                    after[i], masks[i, 0] = self.paster.paste(before[i], int(index[chosen[i]]))
            if self.config.visible_min > 0:
                masks = visible(before, after, masks, self.config.visible_min)
            mask[chosen], augmented[chosen] = masks, after
            if self.real is not None:
                for place in chosen[self._uniform(count).to(chosen.device) < _REAL_SHARE].tolist():
                    augmented[place], mask[place, 0] = self.real.paste(clean[place])
        return Batch(augmented, clean, mask)

    def _part(self) -> Tensor | None:
        photos = self.good[:32].permute(0, 2, 3, 1).cpu().numpy()
        part = foreground_mask(list(photos))
        return None if part is None else torch.from_numpy(part).to(self.good.device).float()[None, None]

    def _good_photos(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Photos `index`, some of them rotated, and where the part is on each, `(N, 1, H, W)`; None: anywhere."""
        count = len(index)
        photos = self.good.index_select(0, index.to(self.good.device)).float().div_(255)
        part = None if self.part is None else self.part.repeat(count, 1, 1, 1)
        turned = self._uniform(count) < self.config.rotate_probability
        degrees = (self.config.rotate_degrees * (2 * self._uniform(count) - 1))[turned].to(photos.device)
        chosen = turned.nonzero().flatten().to(photos.device)
        if self.config.rotate_degrees and len(chosen):
            photos[chosen] = rotate(photos.index_select(0, chosen), degrees, self.config.rotate_fill / 255)
            if part is not None:
                part[chosen] = rotate(part.index_select(0, chosen), degrees).round()
        return photos, part

    def _chance(self, count: int, share: float) -> list[int]:
        """Which of `count` are drawn; nothing is drawn for a share of 0, so that settings leave other draws alone."""
        return (self._uniform(count) < share).nonzero().flatten().tolist() if share else []

    def opacities(self, count: int) -> Tensor:
        if self.config.middling_opacity:
            return (0.5 + 0.1 * torch.randn((count, 1, 1, 1), generator=self.generator)).clamp(0.2, 0.8)
        return self.config.opacity_min + (1 - self.config.opacity_min) * self._uniform(count, 1, 1, 1)

    def _masks_on(self, part: Tensor) -> Tensor:
        """Masks within the part; one that misses it is drawn again, up to three times."""
        masks = self.masks(len(part)) * part
        for _ in range(3):
            missed = masks.amax(dim=(1, 2, 3)).eq(0).nonzero().flatten()
            if not len(missed):
                break
            masks[missed] = self.masks(len(missed)) * part.index_select(0, missed)
        return masks

    def masks(self, count: int) -> Tensor:
        masks = self._drawn_masks(count)
        if not self.config.mask_combination:
            return masks
        other = self._drawn_masks(count)
        how = self._uniform(count, 1, 1, 1).to(masks.device)
        union, intersection = torch.maximum(masks, other), masks * other
        # An empty intersection would teach nothing: it falls back to the union.
        intersection = torch.where(intersection.amax(dim=(1, 2, 3), keepdim=True) > 0, intersection, union)
        return torch.where(how < 1 / 3, masks, torch.where(how < 2 / 3, union, intersection))

    def _drawn_masks(self, count: int) -> Tensor:
        return self._rectangles(count) if self.config.mask_shape == "rectangles" else self._perlin_masks(count)

    def _rectangles(self, count: int) -> Tensor:
        size, device = self.good.shape[-1], self.good.device
        # Sides of 4 to 24 % of the image: 4.8 % of it is covered on average, as by Perlin masks.
        sides = 0.04 + 0.2 * self._uniform(count, 4, 2)
        starts = self._uniform(count, 4, 2) * (1 - sides)
        drawn = torch.arange(4) < torch.randint(1, 5, (count, 1), generator=self.generator)
        pixel = (torch.arange(size) + 0.5) / size
        inside = (pixel >= starts[..., None]) & (pixel < (starts + sides)[..., None])  # (count, 4, 2, size)
        rows, columns = inside.unbind(dim=2)
        rectangles = rows[..., :, None] & columns[..., None, :] & drawn[..., None, None]
        return rectangles.any(dim=1, keepdim=True).float().to(device)

    def _perlin_masks(self, count: int) -> Tensor:
        size, device = self.good.shape[-1], self.good.device
        exponents = torch.randint(0, self.config.perlin_max_exponent + 1, (count, 2), generator=self.generator)
        noise = perlin_noise(2**exponents, size, self.generator, device).unsqueeze(1)
        # Rotated before the threshold, so the corners that come in (0) are never anomalous.
        noise = rotate(noise, (180 * self._uniform(count) - 90).to(device))
        low, high = self.config.perlin_threshold, self.config.perlin_threshold_max
        threshold = low + (high - low) * self._uniform(count, 1, 1, 1).to(device) if high > low else low
        return noise.gt_(threshold)

    def textures_for(self, count: int) -> Tensor:
        if self.config.plain_colours:
            texture = (
                (255 * self._uniform(count, 3, 1, 1)).round().to(self.good.device).repeat(1, 1, *self.good.shape[2:])
            )
        else:
            texture = self._pick(self.textures, count)
        own = (self._uniform(count) < self.config.own_texture).nonzero().flatten().tolist()
        if own:
            shifts = torch.randint(0, texture.shape[-1], (len(own), 2), generator=self.generator).tolist()
            photos = self._pick(self.good, len(own))
            for i, photo, shift in zip(own, photos, shifts, strict=True):
                # Shifted, so that the photo's own structure lands where it does not belong.
                texture[i] = photo.roll(shift, dims=(1, 2))
        if self.config.texture_augmentation:
            foreign = sorted(set(range(count)) - set(own))
            texture[foreign] = augment_textures(texture[foreign], self.generator, self._augmenters)
        if self.grey:
            texture = (texture * LUMA.to(texture.device)).sum(dim=1, keepdim=True).expand_as(texture)
        return texture / 255

    def _pick(self, source: Tensor, count: int) -> Tensor:
        index = torch.randint(0, len(source), (count,), generator=self.generator)
        return source.index_select(0, index.to(source.device)).float()

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)
