"""Ground truth: masks as people draw them, at the size of the network.

White is the defect. White may be 240 or an alpha channel, a mask may hold labels or have another size than its photo;
what cannot be meant, such as masks that are white nearly everywhere, is refused or said.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle.manifest import Crop
from service.images.cropping import cut
from service.images.resizing import resize_area
from training.data.folders import DataError, shown
from training.data.labels import LabelledImage

_JPEG = {".jpg", ".jpeg", ".jpe", ".jfif"}
# Nearer to white than a resized border of a mask is.
_WHITE = 224
_MOST_LABELS = 9
# Masks with more defect than this are taken to be inverted, where most of them are.
_MOSTLY = 0.5
# Share by which width over height of a mask may differ from its photo's.
_SAME_SHAPE = 0.02


def resize_mask(mask: NDArray[Any], height: int, width: int) -> NDArray[np.bool_]:
    """A mask, 255 where the defect is full, at `(height, width)`.

    As in the authors' evaluation, a bilinear resize after which only full pixels count: it takes their rim off all
    defects, and those of a few pixels whole. A defect of which nothing would be left is all that it touches instead.
    What touches after the resize is one defect.
    """
    full = np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR) == 255)
    # Not in bytes: one pixel of many would be rounded to none.
    touched = resize_area((mask > 127).astype(np.float32), height, width) > 0
    _, labels = cv2.connectedComponents(touched.astype(np.uint8), connectivity=8)
    left = np.unique(labels[full])
    return full | (touched & ~np.isin(labels, left))


def read_mask(path: Path, height: int, width: int, crop: Crop | None = None) -> NDArray[np.bool_]:
    """Where the defect is in the photo's `crop`, `(height, width)`; raises DataError for what is no readable image."""
    return resize_mask(cut(mask_pixels(path), crop), height, width)


def mask_pixels(path: Path) -> NDArray[np.uint8]:
    """A mask file as `(H, W)`, 255 where the defect is full.

    Where nothing is near to white, a few values are labels, all but 0 a defect; of many, the upper half is. Colours are
    labels too. Of a JPEG, whose black and white are not quite, all that is nearer to white. A mask drawn in the alpha
    channel is that channel.
    """
    mask = _single_channel(path)
    if mask.dtype != np.uint8:
        # The upper byte of a label is 0.
        mask = np.right_shift(mask, 8) if mask.max(initial=0) > 255 else mask
    mask = mask.astype(np.uint8)
    highest = int(mask.max(initial=0))
    if path.suffix.lower() in _JPEG:
        return _white_where(mask > 127)
    if highest >= _WHITE:
        return np.where(mask >= _WHITE, 255, mask).astype(np.uint8)
    labels = len(np.unique(mask)) <= _MOST_LABELS
    return _white_where(mask > (0 if labels else highest // 2))


def _white_where(defect: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(defect, 255, 0).astype(np.uint8)


def _single_channel(path: Path) -> NDArray[Any]:
    """The channel that holds the mask, uint8 or uint16 `(H, W)`."""
    if not path.is_file():
        raise DataError(f"{shown(path)}: no file that is there: remove it, or put the mask in its place")
    try:
        found: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, OSError):
        found = None
    if found is None:
        raise DataError(f"{shown(path)}: not a readable mask image")
    pixels: NDArray[Any] = found
    if pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{shown(path)}: a mask of {pixels.dtype} samples: save it with 8 bits")
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 4:
        colours, alpha = pixels[:, :, :3], pixels[:, :, 3]
        visible = colours * (alpha > 0)[..., None]
        if alpha.min() != alpha.max() and np.ptp(colours[alpha > 0]) == 0:
            return alpha
        pixels = visible
    brightest = np.asarray(pixels.max(axis=2))
    is_grey = path.suffix.lower() in _JPEG or np.array_equal(brightest, pixels.min(axis=2))
    return brightest if is_grey else _white_where(brightest > 0)


def unlikely_masks(images: Sequence[LabelledImage]) -> list[str]:
    """What is to be said of the masks of a test split, every mask read once; raises DataError where one cannot be
    read, or where most of them are inverted.
    """
    said: list[str] = []
    shares: dict[Path, float] = {}
    for image in images:
        if image.mask is None:
            continue
        mask = mask_pixels(image.mask)
        shares[image.mask] = float((mask == 255).mean())
        if not shares[image.mask]:
            said.append(f"{image.mask}: no defect in it: {image.path.name} counts in the image figures alone")
        said += _another_shape(image, mask.shape[1], mask.shape[0])
    inverted = [path for path, share in shares.items() if share > _MOSTLY]
    if len(inverted) > len(shares) / 2 and len(inverted) > 1:
        raise DataError(
            f"{shown(inverted[0].parent)}: {len(inverted)} of {len(shares)} masks are white on more than half of the "
            "image; white is the defect: are they inverted? Invert them, or take them away for image figures alone"
        )
    said += [f"{path}: {shares[path]:.0%} of it is defect: is it inverted? White is the defect" for path in inverted]
    if shares and not any(shares.values()):
        said.append(f"all {len(shares)} masks are empty: there are no pixel figures")
    return said


def _another_shape(image: LabelledImage, width: int, height: int) -> list[str]:
    try:
        with Image.open(image.path) as photo:
            photo_width, photo_height = photo.size
            # Orientations 5 to 8 of EXIF are turned by a right angle.
            if photo.getexif().get(0x0112, 1) >= 5:
                photo_width, photo_height = photo_height, photo_width
    except (OSError, ValueError, SyntaxError):
        return []  # said by who reads the photo
    if abs(width / height * photo_height / photo_width - 1) < _SAME_SHAPE:
        return []
    return [
        f"{image.mask}: {width}x{height} is another shape than {photo_width}x{photo_height} of {image.path.name}: "
        "stretched to the photo"
    ]
