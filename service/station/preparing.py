"""An image before its verdict: decoded and brought to the network's size, then measured while the device works."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from service.bundle.manifest import InputSpec
from service.images.decoding import Decoder, Pixels
from service.images.headers import ImageError
from service.images.heatmap import preview
from service.images.quality import Quality, brightness_ratio, find_faults, measure
from service.images.resizing import fit
from service.station.cameras import digest
from service.station.loading import Recipe
from service.station.monitoring import Metrics


class Decoded(NamedTuple):
    """An image as it was sent and at the size of the network; the thread that decoded it has it to itself."""

    image: Pixels
    resized: Pixels


@dataclass(frozen=True)
class Picture:
    """What is kept of a decoded image while it waits: large originals would fill the memory."""

    resized: Pixels
    size: tuple[int, int]
    preview: Pixels | None
    faults: list[str]
    digest: bytes | None
    quality_s: float
    quality: Quality
    # The version that sees the same without a say, and what it inspects of the photo; None where it cannot.
    shadow: tuple[Recipe, Pixels | None] | None


def prepare(decoder: Decoder, recipe: Recipe) -> Decoded:
    """What the network needs of the image that `decoder` gives. Raises ImageError."""
    image = decoder()
    return Decoded(image, fit(image, recipe.bundle.manifest.input))


def examine(
    decoded: Decoded,
    recipe: Recipe,
    shadows: Mapping[str, Recipe],
    metrics: Metrics,
    *,
    watched: bool,
    previewed: bool,
) -> Picture:
    """What the verdict needs beside the network's result: the image's faults, its digest where a camera is `watched`,
    a preview where something may be drawn on it.
    """
    image, resized = decoded
    shadow = shadows.get(recipe.name)
    clock = time.monotonic()
    quality = measure(image, resized)
    limits = recipe.limits.quality
    faults = find_faults(quality, limits)
    metrics.of_brightness(recipe.name).observe(brightness_ratio(quality, limits))
    watched_digest = digest(resized) if watched else None
    quality_s = time.monotonic() - clock
    return Picture(
        resized=resized,
        size=(image.shape[0], image.shape[1]),
        preview=preview(image) if previewed else None,
        faults=faults,
        digest=watched_digest,
        quality_s=quality_s,
        quality=quality,
        shadow=None if shadow is None else (shadow, _for_shadow(image, resized, recipe.bundle.manifest.input, shadow)),
    )


def _for_shadow(image: Pixels, resized: Pixels, spec: InputSpec, shadow: Recipe) -> Pixels | None:
    """What the shadow inspects of a photo, of which `resized` fits `spec`; a photo that it refuses is inspected."""
    own = shadow.bundle.manifest.input
    if own == spec:
        return resized
    with suppress(ImageError):
        return fit(image, own)
    return None
