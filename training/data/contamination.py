"""Photos in the training folder that may show a defect: a defect that DRÆM was shown as good is a defect missed.

Before training, each photo is rebuilt from the principal components of the others; what cannot be rebuilt, compared
with what cannot be rebuilt at the same place on other photos, is unusual. No network and no weights are needed. After
training, photos that the network scores far above the others are named. Both only say which photos to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

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


def unusual_photos(*photos: Tensor, group: int = _GROUP) -> list[Unusual]:
    """Which of the photos, uint8 `(N, 3, S, S)`, differ from the others, the most unusual first.

    Photos may come in several tensors, which are numbered through. Memory does not grow with their number.
    """
    places = [(part, index) for part in photos for index in range(len(part))]
    groups = -(-len(places) // group)
    found: list[Unusual] = []
    with tqdm(total=len(places), desc="comparing photos", unit="img", leave=False) as progress:
        for first in range(groups):
            chosen = range(first, len(places), groups)
            found += _unusual(places[first::groups], chosen)
            progress.update(len(chosen))
    return sorted(found, key=lambda one: -one.deviations)


def _unusual(photos: Sequence[tuple[Tensor, int]], numbers: Sequence[int]) -> list[Unusual]:
    if len(photos) < FEWEST:
        return []
    pixels = _centred(photos)
    products = pixels @ pixels.T
    strength = _relative(_left_out(pixels, products)).flatten(1).topk(5, dim=1).values.mean(dim=1)
    deviations = robust_deviations(strength.log().numpy())
    found = [i for i, deviation in enumerate(deviations) if deviation > LIMIT]
    if not found:
        return []
    usual = torch.tensor([i for i in range(len(pixels)) if i not in found])
    # Where, by the components of the usual photos alone: an unusual one shapes a component and then fits itself.
    of_usual = _components(products[usual][:, usual])
    weights = torch.zeros(len(pixels), of_usual.shape[1])
    weights[usual] = of_usual
    images = weights.T @ pixels
    images /= images.norm(dim=1, keepdim=True)
    places = _relative(((pixels @ images.T) @ images).neg_().add_(pixels)).flatten(1).argmax(dim=1).tolist()
    return [
        Unusual(numbers[i], float(deviations[i]), places[i] % _SIDE / _SIDE, places[i] // _SIDE / _SIDE) for i in found
    ]


def _centred(photos: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Small photos less their median, `(N, 3 S S)`."""
    small = torch.empty(len(photos), 3, _SIDE, _SIDE)
    for out, (part, index) in zip(small, photos, strict=True):
        out.copy_(functional.interpolate(part[index : index + 1].float() / 255, (_SIDE, _SIDE), mode="area")[0])
    pixels = small.flatten(1)
    return pixels.sub_(pixels.median(dim=0).values)


def _components(products: Tensor) -> Tensor:
    """Each photo's share in the principal components, orthonormal `(N, K)`, of the products `(N, N)` of photos."""
    vectors: Tensor = torch.linalg.eigh(products).eigenvectors
    return vectors[:, -min(20, max(2, len(products) // 10)) :]


def _left_out(pixels: Tensor, products: Tensor) -> Tensor:
    """What the components of the other photos leave of each photo.

    The residual of a fit without photo i is the residual with it over 1 - h_i: the leverage of least squares.
    """
    components = _components(products)
    leverage = components.square().sum(dim=1, keepdim=True).clamp(max=0.999)
    return (components @ (components.T @ pixels)).neg_().add_(pixels).div_(1 - leverage)


def _relative(residual: Tensor) -> Tensor:
    """Residual over what is common at the same place on other photos, `(N, S, S)`."""
    images = residual.view(-1, 3, _SIDE, _SIDE)
    smooth = functional.avg_pool2d(images, 3, stride=1, padding=1).abs_().amax(dim=1)
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
