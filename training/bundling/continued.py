"""A version that was trained further, beside the one that it came from: where that one sees defects, and a report of
both on the same images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

from service.backends.base import score_images
from service.backends.opening import open_backend
from service.bundle.folder import Bundle, describe, write_bundle
from service.comparing.page import section
from service.comparing.versions import Contender, Sample, compare
from service.images.cropping import whole_map
from service.images.decoding import Pixels
from service.images.resizing import fit
from training.bundling.order import RecipeOrder
from training.data.line import Mark
from training.data.recorded import ReviewedPart
from training.evaluation.report import REPORT


@contextmanager
def marked_by(bundle: Bundle) -> Iterator[Mark]:
    """Where a version finds a defect on an image that nobody marked: at its pixel threshold, `(H, W)`."""
    with _opened(bundle) as before:

        def mark(pixels: Pixels) -> NDArray[np.bool_] | None:
            (scored,) = score_images(before.backend, [fit(pixels, before.spec)])
            size = pixels.shape[1], pixels.shape[0]
            return np.asarray(cv2.resize(whole_map(scored.anomaly_map, before.spec), size) >= before.thresholds.pixel)

        yield mark


def with_comparison(
    made: Bundle, before: Bundle, parts: Sequence[ReviewedPart], learned: Sequence[str], order: RecipeOrder
) -> Bundle:
    """`made` in the folder of `order`, with a report that has the version before beside it on reviewed parts."""
    known = set(learned)
    samples = [
        Sample(
            f"{part.name}{', learned from' if part.name in known else ''}",
            part.pixels,
            "defect" if part.kind else "good",
        )
        for part in parts
    ]
    with _opened(before) as one, _opened(made) as other:
        found = compare(made.manifest.recipe, samples, one, other)
    note = (
        f"{len(known)} of the {len(parts)} reviewed parts were learned from, and are named so: only the others tell "
        "how new parts will fare."
    )
    report = made.read(REPORT).replace(b"</body>", section(found, [note]) + b"</body>")
    contents = {name: made.read(name) for name in made.manifest.files} | {REPORT: report}
    manifest = made.manifest.model_copy(update={"files": describe(contents)})
    return write_bundle(order.models, order.signed(manifest), contents)


@contextmanager
def _opened(bundle: Bundle) -> Iterator[Contender]:
    manifest = bundle.manifest
    backend = open_backend(bundle, "ort-cpu", precision="fp32", threads=len(os.sched_getaffinity(0)))
    try:
        yield Contender(manifest.version, backend, manifest.input, manifest.thresholds, manifest.quality)
    finally:
        backend.close()
