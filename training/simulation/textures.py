"""Texture images and their augmentation: where unseen appearance comes from (Zavrtanik et al. 2021, sec. 3.2).

Ten augmenters, of which each texture gets three different ones in random order: the authors' list, with the parameter
ranges of the library they used. Pixels are RGB float32 in [0, 255]. One difference: brightness is changed in luma or
in value (HSV) rather than in one of six colour spaces.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from training.data.folders import find_images
from training.data.reading import load_images

# An augmenter takes (3, H, W) and uniform draws in [0, 1) and gives (3, H, W); it may leave [0, 255].
Augmenter = Callable[[Tensor, Tensor], Tensor]

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # of R, G, B (BT.601)


def load_textures(folder: Path | None, size: int, *, limit: int, seed: int) -> Tensor:
    """Textures uint8 `(N, 3, size, size)`: at most `limit` (0: all) images below `folder`, else procedural ones.

    Files that cannot be read are left out: any texture will do.
    """
    generator = torch.Generator().manual_seed(seed)
    if folder is None:
        return procedural_textures(limit or 200, size, generator)
    paths = find_images(folder)
    if 0 < limit < len(paths):
        chosen = torch.randperm(len(paths), generator=generator)[:limit].sort().values
        paths = [paths[i] for i in chosen.tolist()]
    return load_images(paths, size, "textures", all_needed=False)


def procedural_textures(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Synthetic textures uint8 `(count, 3, size, size)`: random spectra, warped stripes and patches of two colours."""
    out = torch.empty((count, 3, size, size), dtype=torch.uint8)
    for i in range(count):
        field = _random_field(size, generator)
        kind = i % 4
        if kind == 1:
            field = torch.sin(field * (4 + 40 * _uniform(generator)))
        elif kind == 2:
            grid = torch.linspace(0, 1, size)
            angle, frequency = 6.283 * _uniform(generator), 20 + 200 * _uniform(generator)
            ramp = grid.view(-1, 1) * torch.sin(torch.tensor(angle)) + grid * torch.cos(torch.tensor(angle))
            field = torch.sin(ramp * frequency + 3 * _uniform(generator) * field)
        elif kind == 3:
            field = torch.round(field * (1 + 2 * _uniform(generator)))
        field = (field - field.min()) / (field.max() - field.min() + 1e-6)
        low, high = torch.rand((2, 3, 1, 1), generator=generator) * 255
        grain = torch.randn((3, size, size), generator=generator) * 20 * _uniform(generator)
        out[i] = (low + (high - low) * field + grain).clamp(0, 255).to(torch.uint8)
    return out


def _random_field(size: int, generator: torch.Generator) -> Tensor:
    """Gaussian field `(size, size)` with a power spectrum f^-a, a in [1, 3], zero mean and unit deviation."""
    noise = torch.fft.rfft2(torch.randn((size, size), generator=generator))
    fy = torch.fft.fftfreq(size).view(-1, 1) * (0.25 + 2 * _uniform(generator))
    fx = torch.fft.rfftfreq(size) * (0.25 + 2 * _uniform(generator))
    radius = (fy**2 + fx**2).sqrt()
    radius[0, 0] = 1
    field = torch.fft.irfft2(noise * radius ** -(1 + 2 * _uniform(generator)), s=(size, size))
    standardised: Tensor = (field - field.mean()) / field.std()
    return standardised


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def augment_textures(
    textures: Tensor, generator: torch.Generator, augmenters: tuple[Augmenter, ...] | None = None
) -> Tensor:
    """Three distinct random augmenters on each of `(N, 3, H, W)` float32 in [0, 255]; same shape and range."""
    augmenters = augmenters or AUGMENTERS
    count = len(textures)
    choices = torch.rand((count, len(augmenters)), generator=generator).argsort(dim=1)[:, :3].tolist()
    draws = torch.rand((count, 3, 6), generator=generator)
    out = torch.empty_like(textures)
    for i, chosen in enumerate(choices):
        image = textures[i]
        for slot, which in enumerate(chosen):
            # Rounded in between because the authors' augmenters pass uint8 to each other.
            image = augmenters[which](image, draws[i, slot]).clamp(0, 255).round_()
        out[i] = image
    return out


def _gamma(image: Tensor, draw: Tensor) -> Tensor:
    """Exponent U(0.5, 2), per channel."""
    exponent = (0.5 + 1.5 * draw[:3]).view(3, 1, 1).to(image.device)
    return 255 * (image / 255) ** exponent


def _brightness(image: Tensor, draw: Tensor) -> Tensor:
    """Multiply by U(0.8, 1.2) and add U(-30, 30), in random order, to luma or to value."""
    factor, shift, multiply_first, luma = 0.8 + 0.4 * draw[0], torch.round(60 * draw[1] - 30), draw[2] < 0.5, draw[3]
    level = (image * LUMA.to(image.device)).sum(0, keepdim=True) if luma < 0.5 else image.amax(0, keepdim=True)
    changed = (level * factor + shift) if multiply_first else (level + shift) * factor
    if luma < 0.5:
        return image + (changed - level)
    return image * (changed.clamp(0, 255) / level.clamp(min=1))


def _sharpness(image: Tensor, draw: Tensor) -> Tensor:
    """0 is the 3x3 smoothed image, 1 the image, 2 as much beyond: factor U(0, 2)."""
    rows = image[:, :-2] + image[:, 1:-1] + image[:, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = image[:, 1:-1, 1:-1]
    # The kernel is (1 1 1, 1 5 1, 1 1 1) / 13; the outermost pixels stay.
    sharper = image.clone()
    sharper[:, 1:-1, 1:-1] = torch.lerp((box + 4 * inner) / 13, inner, 2 * draw[0])
    return sharper


def _hue_and_saturation(image: Tensor, draw: Tensor) -> Tensor:
    """Add U(-50, 50) of 255 to hue (cyclic) and to saturation."""
    r, g, b = image
    value, low = torch.maximum(torch.maximum(r, g), b), torch.minimum(torch.minimum(r, g), b)
    chroma = (value - low).clamp_(min=1e-3)
    hue = torch.where(r == value, g - b, torch.where(g == value, b - r, r - g)).div_(chroma)
    hue += torch.where(r == value, 0.0, torch.where(g == value, 2.0, 4.0)) + (6 * (100 * draw[0].item() - 50) / 255)
    saturation = ((value - low) / value.clamp(min=1e-3)).add_((100 * draw[1].item() - 50) / 255).clamp_(0, 1)
    # HSV to RGB without branches: channel = v - v s max(0, min(k, 4 - k, 1)), k = (n + hue) mod 6, n = 5, 3, 1; here
    # 2 - |k - 2| for min(k, 4 - k), and floor for the modulus, which is slow.
    k = hue + torch.tensor([5.0, 3.0, 1.0], device=image.device).view(3, 1, 1)
    k -= 6 * torch.floor(k / 6)
    return value - value * saturation * (2 - (k - 2).abs_()).clamp_(0, 1)


def _solarize(image: Tensor, draw: Tensor) -> Tensor:
    """With probability 0.5 invert what is at or above a threshold U(32, 128)."""
    if draw[0] >= 0.5:
        return image
    return torch.where(image >= torch.floor(32 + 97 * draw[1]), 255 - image, image)


def _posterize(image: Tensor, draw: Tensor) -> Tensor:
    """Keep 1 to 8 bits: centres of 2^bits equal bins."""
    step = 2.0 ** (8 - (1 + int(8 * draw[0])))
    return torch.floor(image / step) * step + torch.floor(torch.tensor(step / 2))


def _invert(image: Tensor, draw: Tensor) -> Tensor:
    return 255 - image


def _autocontrast(image: Tensor, draw: Tensor) -> Tensor:
    """Stretch each channel to [0, 255] after cutting U(0, 20) % at both ends."""
    counts = _histograms(image.long().flatten(1))
    cut = torch.floor(21 * draw[0]).to(image.device) / 100 * counts[0].sum()
    low = (counts.cumsum(1) <= cut).sum(1).view(3, 1, 1)
    high = 255 - (counts.flip(1).cumsum(1) <= cut).sum(1).view(3, 1, 1)
    return torch.where(high > low, (image - low) * (255 / (high - low).clamp(min=1)), image)


def _equalize(image: Tensor, draw: Tensor) -> Tensor:
    """Histogram equalisation per channel."""
    levels = image.long().flatten(1)
    pixels = levels.shape[1]
    table = _histograms(levels).cumsum(1).float()
    table = (table - table[:, :1]) * (255 / (pixels - table[:, :1]).clamp(min=1))
    return table.gather(1, levels).view_as(image)


def _histograms(levels: Tensor) -> Tensor:
    return torch.stack([torch.bincount(channel, minlength=256) for channel in levels])


def _rotate(image: Tensor, draw: Tensor) -> Tensor:
    """Rotate by U(-45, 45) degrees, black corners."""
    return rotate(image.unsqueeze(0), (90 * draw[:1] - 45).to(image.device)).squeeze(0)


def rotate(images: Tensor, degrees: Tensor, fill: float = 0.0) -> Tensor:
    """Rotate `(N, C, H, W)` about the centre by `(N,)` degrees, bilinear, same size, `fill` outside."""
    radians = torch.deg2rad(degrees.to(images.dtype)).view(-1, 1, 1)
    cos, sin = radians.cos(), radians.sin()
    h, w = images.shape[-2:]
    y = (2 * torch.arange(h, device=images.device, dtype=images.dtype) + 1 - h).view(1, -1, 1)
    x = (2 * torch.arange(w, device=images.device, dtype=images.dtype) + 1 - w).view(1, 1, -1)
    # Sums of a row and a column, x and y in planes of their own: 3 times faster than affine_grid and grid_sample.
    grid = torch.stack((cos / w * x - sin / w * y, sin / h * x + cos / h * y), dim=1).permute(0, 2, 3, 1)
    return _sample(images, grid) if fill == 0 else _sample(images - fill, grid) + fill


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


AUGMENTERS: tuple[Augmenter, ...] = (
    _gamma,
    _brightness,
    _sharpness,
    _hue_and_saturation,
    _solarize,
    _posterize,
    _invert,
    _autocontrast,
    _equalize,
    _rotate,
)
# Those that the paper's text names; the authors' code has gamma, inversion and rotation as well.
TEXT_AUGMENTERS = (_posterize, _sharpness, _solarize, _equalize, _brightness, _hue_and_saturation, _autocontrast)
