"""Real defects that people confirmed, as anomalies to learn from: cut out, and pasted onto good photos."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NEARBY = 0.5  # share that lands near to the place where the defect was
_NEAR = 0.1  # of the image's side
_SOFT_EDGE = 1.0  # standard deviation, pixels


class RealDefects:
    """Photos uint8 `(M, 3, S, S)` and bool masks `(M, S, S)`, none of them empty; draws from `generator` alone."""

    def __init__(self, photos: Tensor, masks: Tensor, generator: torch.Generator) -> None:
        if not len(photos) or not masks.flatten(1).any(dim=1).all():
            raise ValueError("a defect without a mask cannot be cut out")
        self._photos = photos.cpu().permute(0, 2, 3, 1).numpy()
        self._masks = masks.cpu().numpy()
        self._generator = generator

    def paste(self, good: Tensor) -> tuple[Tensor, Tensor]:
        """A good photo `(3, S, S)` in [0, 1] with a defect that was cut out, and its mask `(S, S)` of 0 and 1."""
        which = self._below(len(self._photos))
        before = good.cpu().permute(1, 2, 0).numpy()
        pasted, where = self._paste(before, self._photos[which], self._masks[which])
        return torch.from_numpy(pasted).permute(2, 0, 1).to(good.device), torch.from_numpy(where).to(good.device)

    def _paste(
        self, good: NDArray[np.float32], photo: NDArray[np.uint8], mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        size = len(mask)
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        here = np.s_[y : y + height, x : x + width]
        scale = 0.8 + 0.45 * self._chance()
        sides = min(size, max(1, round(scale * width))), min(size, max(1, round(scale * height)))
        piece = np.asarray(cv2.resize(photo[here].astype(np.float32) / 255, sides), np.float32)
        shape = np.asarray(cv2.resize(mask[here].astype(np.float32), sides), np.float32)
        for axis in (0, 1):
            if self._chance() < 0.5:
                piece, shape = np.flip(piece, axis), np.flip(shape, axis)
        left, top = (self._place(start, side, size) for start, side in zip((x, y), sides, strict=True))
        here = np.s_[top : top + sides[1], left : left + sides[0]]
        where = np.zeros((size, size), np.float32)
        where[here] = shape > 0.5
        opacity = np.minimum(1, cv2.GaussianBlur(where, (0, 0), _SOFT_EDGE))[..., None] * np.float32(
            0.7 + 0.3 * self._chance()
        )
        filled = good.astype(np.float32)
        filled[here] = piece
        return (good + opacity * (filled - good)).astype(np.float32), where

    def _place(self, start: int, side: int, size: int) -> int:
        if self._chance() < _NEARBY:
            moved = start + round(_NEAR * size * (2 * self._chance() - 1))
            return min(max(0, moved), size - side)
        return self._below(size - side + 1)

    def _chance(self) -> float:
        return float(torch.rand((), generator=self._generator))

    def _below(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self._generator))
