"""Labels of simulated anomalies: whole pieces, and only where there is something to be seen."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

_AROUND = 7  # pixels across


def visible(before: Tensor, after: Tensor, mask: Tensor, least: float) -> Tensor:
    """The part of masks `(N, 1, H, W)` where the mean change around a pixel is at least `least` of 1.

    Images `(N, 3, H, W)`. Pixel by pixel a surface under a piece of another one meets its own colour in many places:
    the label would be speckles, and a network would learn that holes in a defect are good.
    """
    change = (after - before).abs().amax(dim=1, keepdim=True)
    mean = box(change * mask, _AROUND) / box(mask, _AROUND).clamp(min=1 / _AROUND**2)
    return mask * (mean >= least)


def box(images: Tensor, side: int) -> Tensor:
    """The mean of the square of `side` pixels around each, `(N, C, H, W)`."""
    return functional.avg_pool2d(images, side, 1, side // 2)
