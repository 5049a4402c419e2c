"""The one resize of training, evaluation and service: pixels to the size of the network, aspect not kept.

Of a recipe with a crop its part of the photo alone, cut out before anything is lost.

`area` is the mean over the exact area that an output pixel covers, fractions of pixels by their share: every pixel of
a large image counts. An axis that grows is interpolated linearly, after the other one has shrunk.

The reduced decoding of libjpeg-turbo is no part of it, though it is faster: with it the same image as JPEG and as PNG
would give two maps (service/RESULTS.md).

`linear` is OpenCV's INTER_LINEAR, what the authors' data loader does. It reads two pixels an axis for one of the
output and skips those between them. Only bundles made before `area` have it, and an image of more than twice their
size in an axis is refused: a defect could lie where nobody looks.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import InputSpec, Kernel
from service.images.cropping import cut
from service.images.decoding import Pixels
from service.images.headers import ImageError

# Up to here each pixel is one of the two that a pixel of the output is made of.
_LINEAR_SEES = 2
# From so many rows of the image for one of the output on, whole rows are worth adding up.
_ROWS = 6


def fit(pixels: Pixels, spec: InputSpec) -> Pixels:
    """What a recipe inspects of the photo `(H, W, 3)`, at its size; raises ImageError as `resize` does."""
    # A part of a photo that fits already would keep all of the photo in memory.
    return np.ascontiguousarray(resize(cut(pixels, spec.crop), spec.height, spec.width, spec.interpolation))


def resize(pixels: Pixels, height: int, width: int, kernel: Kernel = "area") -> Pixels:
    """The image at `(height, width, 3)`; raises ImageError where `linear` would not see all of it."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if kernel == "area":
        if _pays_by_rows(pixels.shape, height, width):
            return _area_by_rows(pixels, height, width)
        return resize_area(pixels, height, width).astype(np.uint8, copy=False)
    if pixels.shape[0] > _LINEAR_SEES * height or pixels.shape[1] > _LINEAR_SEES * width:
        raise ImageError(
            "image_too_large",
            f"the recipe was made with the kernel 'linear', which skips pixels of an image of {pixels.shape[1]}x"
            f"{pixels.shape[0]}: send at most {_LINEAR_SEES * width}x{_LINEAR_SEES * height}, or train the recipe "
            "again, which makes it with 'area'",
        )
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _pays_by_rows(shape: tuple[int, ...], height: int, width: int) -> bool:
    # Where pixels are shared out in no axis OpenCV has a way that is faster still.
    shared = shape[0] % height != 0 or shape[1] % width != 0
    return shared and shape[1] >= width and shape[0] >= _ROWS * height


def _area_by_rows(pixels: Pixels, height: int, width: int) -> Pixels:
    """`area`, rows first: sums of whole rows, which OpenCV adds up with vector instructions, and parts of those that
    two rows of the output share. OpenCV's own goes over each pixel by a table. Where a mean lies at one half, one of
    them may round up and the other down.
    """
    rows = np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1)
    before = rows.shape[0]
    means = np.empty((height, rows.shape[1]), np.float32)
    for number in range(height):
        first, last = -(-number * before // height), (number + 1) * before // height
        mean = means[number : number + 1]
        cv2.reduce(rows[first:last], 0, cv2.REDUCE_SUM, mean, cv2.CV_32F)
        for row, share in (
            (first - 1, first - number * before / height),
            (last, (number + 1) * before / height - last),
        ):
            if share:
                cv2.scaleAdd(rows[row : row + 1].astype(np.float32), share, mean, mean)
    means *= height / before
    shrunk = cv2.resize(means.reshape(height, -1, 3), (width, height), interpolation=cv2.INTER_AREA)
    return cv2.convertScaleAbs(shrunk).astype(np.uint8, copy=False)


def resize_area(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """`area` for `(H, W)` or `(H, W, C)` of uint8 or float32, kept."""
    # OpenCV has the mean over an area where no axis grows; where one does, its INTER_AREA skips pixels of the other.
    shrunk = min(array.shape[0], height), min(array.shape[1], width)
    if shrunk != array.shape[:2]:
        array = cv2.resize(array, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != (height, width):
        array = cv2.resize(array, (width, height), interpolation=cv2.INTER_LINEAR)
    return array
