"""Anomalies that are made of good photos: pieces where they do not belong.

`PatchPaster` takes small patches of other photos, resized, and lets them grow into the surface by Poisson's equation
(NSA, Schlüter et al. 2022). `shuffled` puts the blocks of a photo into another order (MemSeg, Yang et al. 2023).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.simulated_defects import foreground_mask
from training.simulation.perlin import perlin_noise

Pixels = NDArray[np.uint8]  # (H, W, 3)
_Coverage = NDArray[np.float32]  # (H, W) in [0, 1]

_MOST = 4
_SMALLEST = 6  # pixels
_BLOCKS = 8  # along a side
_LOOKED_AT = 8  # photos


class PatchPaster:
    """Draws from good photos uint8 `(N, 3, S, S)`; all that it draws follows from `generator`.

    A share of the patches comes from `others`, the rest from the photo itself, and a share is `grown` in by Poisson's
    equation, the rest has an edge, hard or feathered.
    """

    def __init__(self, good: Tensor, generator: torch.Generator, *, others: float = 1.0, grown: float = 1.0) -> None:
        self.good = good.cpu()
        self.others = others
        self.grown = grown
        self.generator = generator
        self.rng = np.random.default_rng(0)
        self.size = good.shape[-1]
        photos = self.good[:_LOOKED_AT].permute(0, 2, 3, 1).numpy()
        # On a free surface the stronger of both gradients stays, so that a patch is no flat spot; the edge of an object
        # would show through a patch that way.
        of_objects = any(foreground_mask([photo]) is not None for photo in photos)
        self._blend = cv2.NORMAL_CLONE if of_objects else cv2.MIXED_CLONE

    def paste(self, photo: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """`photo` `(3, S, S)` in [0, 1], number `index` of the good ones, with one to four patches; where they lie."""
        # A run that goes on after a stop has the generator's state and no other.
        self.rng = np.random.default_rng(int(torch.randint(2**62, (), generator=self.generator)))
        pixels = np.rint(255 * photo.permute(1, 2, 0).cpu().numpy()).astype(np.uint8)
        covered = np.zeros((self.size, self.size), np.float32)
        for place in range(_MOST):
            if place and self.rng.random() < 0.5:
                continue
            source = pixels
            if self.rng.random() < self.others:
                source = self._other(index).permute(1, 2, 0).numpy()
            patch = self._cut(source)
            shape = self._outline(*patch.shape[:2])
            row, column = (int(self.rng.integers(self.size + 1 - side)) for side in patch.shape[:2])
            pixels = self._put(pixels, patch, shape, row, column)
            there = covered[row : row + len(shape), column : column + shape.shape[1]]
            np.maximum(there, shape, out=there)
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, torch.from_numpy(covered)

    def _other(self, index: int) -> Tensor:
        if len(self.good) == 1:
            return self.good[0]
        return self.good[(index + int(self.rng.integers(1, len(self.good)))) % len(self.good)]

    def _cut(self, source: Pixels) -> Pixels:
        """A piece of `source`, resized, perhaps turned and with another light on it."""
        largest = int(0.8 * self.size)
        halves = np.clip(0.03 + self.rng.gamma(2, 0.05, 2), 0.03, 0.4)
        height, width = (min(largest, max(_SMALLEST, int(2 * half * self.size))) for half in halves)
        row, column = int(self.rng.integers(self.size + 1 - height)), int(self.rng.integers(self.size + 1 - width))
        factor = float(np.exp(self.rng.uniform(np.log(0.5), np.log(2))))
        resized = (
            min(largest, max(_SMALLEST, int(width * factor))),
            min(largest, max(_SMALLEST, int(height * factor))),
        )
        patch = cv2.resize(source[row : row + height, column : column + width], resized).astype(np.uint8)
        if self.rng.random() < 0.5:
            patch = np.ascontiguousarray(np.rot90(patch, int(self.rng.integers(1, 4))))
        if self.rng.random() < 0.5:
            light = patch * self.rng.uniform(0.8, 1.2) + self.rng.uniform(-15, 15)
            patch = np.clip(light, 0, 255).astype(np.uint8)
        return patch

    def _outline(self, height: int, width: int) -> _Coverage:
        if self.rng.random() < 0.4:
            return np.ones((height, width), np.float32)
        exponents = torch.randint(1, 4, (1, 2), generator=self.generator)
        noise = perlin_noise(2**exponents, self.size, self.generator, torch.device("cpu"))[0].numpy()
        noise = np.asarray(cv2.resize(noise, (width, height)), np.float32)
        y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
        return np.asarray(1 - (x * x + y * y) + 0.8 * noise > 0.15, np.float32)

    def _put(self, pixels: Pixels, patch: Pixels, shape: _Coverage, row: int, column: int) -> Pixels:
        if self.rng.random() < self.grown:
            return self._grown_in(pixels, patch, shape, row, column)
        opacity = shape if self.rng.random() < 0.5 else cv2.GaussianBlur(shape, (0, 0), 1.5)
        opacity = opacity * (1.0 if self.rng.random() < 0.6 else self.rng.uniform(0.5, 1.0))
        out = pixels.copy()
        there = out[row : row + len(patch), column : column + patch.shape[1]]
        there[:] = np.rint(there + opacity[..., None] * (patch - there.astype(np.float32)))
        return out

    def _grown_in(self, pixels: Pixels, patch: Pixels, shape: _Coverage, row: int, column: int) -> Pixels:
        inside = np.zeros(shape.shape, np.uint8)
        inside[1:-1, 1:-1] = 255 * (shape[1:-1, 1:-1] > 0)
        rows, columns = np.nonzero(inside)
        if not len(rows):
            return pixels
        # OpenCV puts the middle of the shape's box there.
        middle = (column + int(columns.min() + columns.max() + 1) // 2, row + int(rows.min() + rows.max() + 1) // 2)
        try:
            return np.asarray(cv2.seamlessClone(patch, pixels, inside, middle, self._blend), np.uint8)
        except cv2.error:  # the shape touches the image's border
            return pixels


def shuffled(photo: Tensor, generator: torch.Generator) -> Tensor:
    """The blocks of `photo` `(3, S, S)` in another order; what is left over of S stays where it is."""
    side = photo.shape[-1] // _BLOCKS
    inner = side * _BLOCKS
    blocks = photo[:, :inner, :inner].reshape(-1, _BLOCKS, side, _BLOCKS, side).permute(1, 3, 0, 2, 4).flatten(0, 1)
    order = torch.randperm(_BLOCKS**2, generator=generator).to(photo.device)
    mixed = blocks[order].view(_BLOCKS, _BLOCKS, -1, side, side).permute(2, 0, 3, 1, 4)
    out = photo.clone()
    out[:, :inner, :inner] = mixed.reshape(-1, inner, inner)
    return out
