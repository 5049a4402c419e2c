"""The golden gate: the backend that runs must reproduce the golden images of its bundle."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from service.backends.base import Scored
from service.bundle.folder import Bundle
from service.bundle.manifest import BundleError, Precision, Tolerance
from service.images.decoding import Pixels, decode
from service.images.headers import ImageError
from service.images.resizing import fit


class GoldenError(Exception):
    """The backend does not reproduce a golden image; the message says which and by how much."""


@dataclass(frozen=True)
class _Golden:
    """An image as the graph takes it, with what the trained network made of it."""

    name: str
    image: Pixels
    anomaly_map: np.ndarray
    score: float


def golden_images(bundle: Bundle) -> list[Pixels]:
    """The golden images as the graph takes them: cropped they are already."""
    spec = bundle.manifest.input.model_copy(update={"crop": None})
    return [fit(_read_image(bundle, golden.image), spec) for golden in bundle.manifest.golden]


def require_golden(
    bundle: Bundle, precision: Precision, run: Callable[[Pixels], list[Scored]], most: int | None = None
) -> None:
    """Give every golden image, or the first `most`, to `run`, which returns what one run or several made of it; raises
    GoldenError where one of them is above the tolerance that the manifest has for this precision.
    """
    for golden in islice(_goldens(bundle), most):
        for found in run(golden.image):
            _compare(golden.name, found, golden, bundle.manifest.tolerances[precision])


def require_golden_batches(
    bundle: Bundle, precision: Precision, run: Callable[[list[Pixels]], list[Scored]], largest: int
) -> None:
    """Give batches of 2, 3, … `largest` golden images to `run`, which returns what it made of each; raises as above.

    The images take turns: where there are several, no place of a batch has that of its neighbour, nor the one that it
    had in the batch before, whose map may still be there.
    """
    goldens = list(_goldens(bundle))
    turns = cycle(goldens)
    for size in range(2, largest + 1):
        batch = list(islice(turns, size))
        if size % len(goldens) == 0:
            next(turns)
        found = run([golden.image for golden in batch])
        for place, (golden, one) in enumerate(zip(batch, found, strict=True), 1):
            name = f"{golden.name}, image {place} of a batch of {size}"
            _compare(name, one, golden, bundle.manifest.tolerances[precision])


def _goldens(bundle: Bundle) -> Iterator[_Golden]:
    for golden, image in zip(bundle.manifest.golden, golden_images(bundle), strict=True):
        anomaly_map = _read_map(bundle, golden.anomaly_map)
        yield _Golden(f"{bundle.path}: {golden.image}", image, anomaly_map, golden.score)


def _read_image(bundle: Bundle, name: str) -> Pixels:
    try:
        return decode(bundle.read(name))
    except (ImageError, BundleError) as error:
        raise GoldenError(f"{bundle.file(name)}: the golden image cannot be read ({error})") from error


def _read_map(bundle: Bundle, name: str) -> np.ndarray:
    try:
        found: np.ndarray = np.load(io.BytesIO(bundle.read(name)), allow_pickle=False)
    except (BundleError, ValueError, EOFError) as error:
        raise GoldenError(f"{bundle.file(name)}: the golden map cannot be read ({error})") from error
    return found


def _compare(name: str, found: Scored, golden: _Golden, tolerance: Tolerance) -> None:
    if found.anomaly_map.shape != golden.anomaly_map.shape:
        raise GoldenError(f"{name}: the map is {found.anomaly_map.shape}, the golden one {golden.anomaly_map.shape}")
    score_error = abs(found.score - golden.score)
    map_error = float(np.abs(found.anomaly_map - golden.anomaly_map).max())
    # Not "error > tolerance": NaN must fail too.
    if not (score_error <= tolerance.score and map_error <= tolerance.anomaly_map):
        raise GoldenError(
            f"{name}: score is off by {score_error:.2e} (allowed {tolerance.score:.0e}), "
            f"map by {map_error:.2e} (allowed {tolerance.anomaly_map:.0e})"
        )
