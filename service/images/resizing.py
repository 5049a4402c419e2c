"""The one resize of training, evaluation and service: pixels to the size of the network, aspect not kept.

`area` is the mean over the exact area that an output pixel covers, fractions of pixels by their share: every pixel of
a large picture counts. An axis that grows is interpolated linearly, after the other one has shrunk.

The reduced decoding of libjpeg-turbo is no part of it, though it is faster: with it the same picture as JPEG and as PNG
would give two maps (service/RESULTS.md).

`linear` is OpenCV's INTER_LINEAR, what the authors' data loader does. It reads two pixels an axis for one of the
output and skips those between them. Only bundles made before `area` have it, and a picture of more than twice their
size in an axis is refused: a defect could lie where nobody looks.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import InputSpec, Kernel
from service.images.decoding import Pixels
from service.images.headers import ImageError

# Up to here each pixel is one of the two that a pixel of the output is made of.
_LINEAR_SEES = 2


def fit(pixels: Pixels, spec: InputSpec) -> Pixels:
    """The picture `(H, W, 3)` at the size and with the kernel of a recipe; raises ImageError as `resize` does."""
    return resize(pixels, spec.height, spec.width, spec.interpolation)


def resize(pixels: Pixels, height: int, width: int, kernel: Kernel = "area") -> Pixels:
    """The picture at `(height, width, 3)`; raises ImageError where `linear` would not see all of it."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if kernel == "area":
        return resize_area(pixels, height, width).astype(np.uint8, copy=False)
    if pixels.shape[0] > _LINEAR_SEES * height or pixels.shape[1] > _LINEAR_SEES * width:
        raise ImageError(
            "image_too_large",
            f"the recipe was made with the kernel 'linear', which skips pixels of a picture of {pixels.shape[1]}x"
            f"{pixels.shape[0]}: send at most {_LINEAR_SEES * width}x{_LINEAR_SEES * height}, or train the recipe "
            "again, which makes it with 'area'",
        )
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def resize_area(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """`area` for `(H, W)` or `(H, W, C)` of uint8 or float32, kept."""
    # OpenCV has the mean over an area where no axis grows; where one does, its INTER_AREA skips pixels of the other.
    shrunk = min(array.shape[0], height), min(array.shape[1], width)
    if shrunk != array.shape[:2]:
        array = cv2.resize(array, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != (height, width):
        array = cv2.resize(array, (width, height), interpolation=cv2.INTER_LINEAR)
    return array
