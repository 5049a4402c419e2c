"""Ground truth at the size of the network: the authors' formula, without the defects that it loses."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.images.resizing import resize_area


def resize_mask(mask: NDArray[Any], size: int) -> NDArray[np.bool_]:
    """A mask `(H, W)`, 255 where the defect is full, at `(size, size)`.

    As in the authors' evaluation, a bilinear resize after which only full pixels count: it takes their rim off all
    defects, and those of a few pixels whole. A defect of which nothing would be left is all that it touches instead.
    What touches after the resize is one defect.
    """
    full = np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_LINEAR) == 255)
    # Not in bytes: one pixel of many would be rounded to none.
    touched = resize_area((mask > 127).astype(np.float32), size, size) > 0
    _, labels = cv2.connectedComponents(touched.astype(np.uint8), connectivity=8)
    left = np.unique(labels[full])
    return full | (touched & ~np.isin(labels, left))
