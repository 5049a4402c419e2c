"""The image quality gate: a black frame, a lens cap or a blurred part must never be judged, let alone be OK.

Measured on the image as the network sees it, so that limits learned from training photos hold for any camera
resolution; costs well under a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import QualityLimits
from service.images.decoding import Pixels

_DARK, _BRIGHT = 8, 247
_LEVELS = np.arange(256.0)
_SQUARES = _LEVELS**2


@dataclass(frozen=True)
class Quality:
    """Sharpness: variance of the Laplacian; contrast: standard deviation; brightness: mean, all of gray 0..255.

    `dark` and `bright` are the shares of clipped pixels, `aspect` is width over height of the image that was sent.
    """

    sharpness: float
    contrast: float
    brightness: float
    dark: float
    bright: float
    aspect: float


def measure(image: Pixels, resized: Pixels) -> Quality:
    """Quality of an image `(H, W, 3)`, from its version at the network's size `(h, w, 3)`."""
    # Each call on a whole image lets other threads have the interpreter, and then waits for it: with NumPy there were
    # nine, for the same figures.
    gray = cv2.cvtColor(resized, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
    edges = cv2.Laplacian(gray, cv2.CV_16S)
    squares, pixels = cv2.norm(edges, cv2.NORM_L2SQR), gray.size
    counts = cv2.calcHist([gray], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    brightness = float((counts * _LEVELS).sum()) / pixels
    return Quality(
        sharpness=squares / pixels - (_sum_of_edges(gray) / pixels) ** 2,
        contrast=math.sqrt(max(0.0, float((counts * _SQUARES).sum()) / pixels - brightness**2)),
        brightness=brightness,
        dark=float(counts[:_DARK].sum()) / pixels,
        bright=float(counts[_BRIGHT + 1 :].sum()) / pixels,
        aspect=image.shape[1] / image.shape[0],
    )


def _sum_of_edges(gray: NDArray[np.uint8]) -> int:
    """Of the Laplacian, whose border is mirrored: within, differences of neighbours cancel each other out."""
    lines = ((gray[0], gray[1], gray[-2], gray[-1]), (gray[:, 0], gray[:, 1], gray[:, -2], gray[:, -1]))
    return sum(int(b.sum()) - int(a.sum()) + int(c.sum()) - int(d.sum()) for a, b, c, d in lines)


def brightness_ratio(quality: Quality, limits: QualityLimits) -> float:
    """Where the brightness lies within the limits: 0 at the lowest, 1 at the highest, beyond them for a faulty image.

    A lamp that ages shows here long before its first image is too dark.
    """
    span = max(limits.brightness_max - limits.brightness_min, 1.0)
    return (quality.brightness - limits.brightness_min) / span


def learn_limits(good: Sequence[Quality]) -> QualityLimits:
    """Limits around good photos, wide enough for ordinary change of light, too narrow for blur, glare and darkness."""
    values = {name: np.array([asdict(quality)[name] for quality in good]) for name in asdict(good[0])}
    brightness = values["brightness"]
    slack = 20.0 + float(np.ptp(brightness)) / 2
    return QualityLimits(
        sharpness_min=0.4 * float(values["sharpness"].min()),
        contrast_min=0.5 * float(values["contrast"].min()),
        brightness_min=max(0.0, float(brightness.min()) - slack),
        brightness_max=min(255.0, float(brightness.max()) + slack),
        dark_max=min(1.0, float(values["dark"].max()) + 0.25),
        bright_max=min(1.0, float(values["bright"].max()) + 0.25),
        aspect_min=0.95 * float(values["aspect"].min()),
        aspect_max=1.05 * float(values["aspect"].max()),
    )


def find_faults(quality: Quality, limits: QualityLimits) -> list[str]:
    """What is wrong with the image, with the figures; empty for one that may be judged."""
    q, low, high = quality, "below", "above"
    checks = (
        ("blurred: sharpness", q.sharpness, low, limits.sharpness_min),
        ("no contrast: deviation", q.contrast, low, limits.contrast_min),
        ("too dark: brightness", q.brightness, low, limits.brightness_min),
        ("too bright: brightness", q.brightness, high, limits.brightness_max),
        ("underexposed: share of black pixels", q.dark, high, limits.dark_max),
        ("overexposed: share of white pixels", q.bright, high, limits.bright_max),
        ("wrong shape: width over height", q.aspect, low, limits.aspect_min),
        ("wrong shape: width over height", q.aspect, high, limits.aspect_max),
    )
    return [
        f"{what} {value:.3g} is {side} {limit:.3g}"
        for what, value, side, limit in checks
        if (value < limit if side == low else value > limit)
    ]
