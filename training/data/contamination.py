"""Photos in the training folder that may show a defect: a defect that DRÆM was shown as good is a defect missed.

Before training, each photo is rebuilt from the principal components of the others; what cannot be rebuilt, compared
with what cannot be rebuilt at the same place on other photos, is unusual. No network and no weights are needed. After
training, photos that the network scores far above the others are named. Both only say which photos to look at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

LIMIT = 3.5  # robust standard deviations, after Iglewicz and Hoaglin (1993)
FEWEST = 8  # photos, below which nothing can be said
_SIDE = 128  # pixels across, at which photos are compared
_GROUP = 400  # photos compared with each other at once, which bounds the memory


@dataclass(frozen=True)
class Unusual:
    """Photo `index`, how far it is from the others in robust standard deviations, and where: x, y in [0, 1]."""

    index: int
    deviations: float
    x: float
    y: float


def unusual_photos(photos: Tensor) -> list[Unusual]:
    """Which of the photos, uint8 `(N, 3, S, S)`, differ from the others, the most unusual first."""
    groups = -(-len(photos) // _GROUP)
    found = [one for group in range(groups) for one in _unusual(photos, torch.arange(group, len(photos), groups))]
    return sorted(found, key=lambda one: -one.deviations)


def _unusual(photos: Tensor, chosen: Tensor) -> list[Unusual]:
    if len(chosen) < FEWEST:
        return []
    pixels = _centred(photos[chosen])
    residual = _relative(_left_out(pixels))
    strength = residual.flatten(1).topk(5, dim=1).values.mean(dim=1)
    deviations = robust_deviations(strength.log().numpy())
    found = [i for i, deviation in enumerate(deviations) if deviation > LIMIT]
    usual = [i for i in range(len(chosen)) if i not in found]
    # Where, by the components of the usual photos alone: an unusual one shapes a component and then fits itself.
    images = _components(pixels[usual]).T @ pixels[usual]
    images /= images.norm(dim=1, keepdim=True)
    places = _relative(pixels - pixels @ images.T @ images).flatten(1).argmax(dim=1).tolist()
    return [
        Unusual(int(chosen[i]), float(deviations[i]), places[i] % _SIDE / _SIDE, places[i] // _SIDE / _SIDE)
        for i in found
    ]


def _centred(photos: Tensor) -> Tensor:
    """Small photos less their median, `(N, 3 S S)`."""
    small = [
        functional.interpolate(part.float() / 255, (_SIDE, _SIDE), mode="area") for part in torch.split(photos, 32)
    ]
    pixels = torch.cat(small).flatten(1)
    return pixels - pixels.median(dim=0).values


def _components(pixels: Tensor) -> Tensor:
    """Each photo's share in the principal components, orthonormal `(N, K)`."""
    vectors: Tensor = torch.linalg.eigh(pixels @ pixels.T).eigenvectors
    return vectors[:, -min(20, max(2, len(pixels) // 10)) :]


def _left_out(pixels: Tensor) -> Tensor:
    """What the components of the other photos leave of each photo.

    The residual of a fit without photo i is the residual with it over 1 - h_i: the leverage of least squares.
    """
    components = _components(pixels)
    leverage = components.square().sum(dim=1, keepdim=True).clamp(max=0.999)
    return (pixels - components @ (components.T @ pixels)) / (1 - leverage)


def _relative(residual: Tensor) -> Tensor:
    """Residual over what is common at the same place on other photos, `(N, S, S)`."""
    images = residual.view(-1, 3, _SIDE, _SIDE)
    smooth = functional.avg_pool2d(images, 3, stride=1, padding=1).abs().amax(dim=1)
    common = smooth.kthvalue(max(1, int(0.9 * len(smooth))), dim=0).values
    # Nowhere is so constant that sensor noise would count.
    return smooth / (torch.maximum(common, common.median() / 2) + 1e-3)


def outlying_scores(scores: NDArray[np.float32]) -> list[int]:
    """Indices of anomaly scores far above the others, the highest first."""
    if len(scores) < FEWEST:
        return []
    deviations = robust_deviations(np.log(np.maximum(scores, 1e-6)))
    return [int(i) for i in np.argsort(-scores, kind="stable") if deviations[i] > LIMIT]


def robust_deviations(logarithms: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance of each value from the median, in standard deviations estimated from the median absolute deviation.

    One is taken to be 10 % at least: among values that hardly differ, every difference would be an outlier.
    """
    centred = logarithms - np.median(logarithms)
    return np.asarray(centred / max(1.4826 * float(np.median(np.abs(centred))), 0.1), np.float64)
