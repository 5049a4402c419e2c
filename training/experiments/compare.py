"""Methods beside each other on one set of photos: the figures of one bundle, the table of all, and which one to take.

All of them are judged on the same photos that none of them trained on, and on defects rendered on these. Labelled test
images, where there are any, are reported and choose nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from service.backends.base import Backend, Scored, score_images
from service.backends.graphs import OnnxModel
from service.backends.ort import OrtBackend
from service.bundle.folder import Bundle
from service.bundle.manifest import Thresholds
from service.images.decoding import read
from service.images.resizing import fit
from training.bundling.held_out import simulate_defects, split_as_trained
from training.data.folders import labelled_folder
from training.data.labels import LabelledImage, images_sha256, labelled_images
from training.data.masks import read_mask
from training.evaluation.evaluate import score_with
from training.evaluation.metrics import pixel_metrics
from training.evaluation.pixels import PixelFigures
from training.evaluation.ranking import Scores, auroc, defects_found, good_sorted_right
from training.experiments.results import Row

_ROUNDS = 30
# Rendered defects are not the line's: who comes so close to the best in image AUROC is as good, and speed decides.
CLOSE = 0.005


def judge(bundle: Bundle, data: Path) -> Row:
    """Figures on rendered defects of held-out photos, and on labelled ones where `data` has a test split."""
    manifest = bundle.manifest
    seed = int(str((manifest.training.config or {})["seed"]))
    _, held_out = split_as_trained(bundle, data)
    photos = [fit(read(path), manifest.input) for path in held_out]
    shape = manifest.input.height, manifest.input.width
    nothing = np.zeros(shape, np.bool_)
    backend = opened(bundle)
    try:
        seen = _Seen(manifest.thresholds)
        for photo in photos:
            seen.add(score_images(backend, [photo])[0], nothing, is_defect=False)
        for one in simulate_defects(photos, seed):
            seen.add(score_images(backend, [one.picture])[0], one.mask, is_defect=True)
        row: Row = {"rendered": seen.figures()}
        images = _labelled(data)
        if images:
            seen = _Seen(manifest.thresholds)
            for image in images:
                mask = read_mask(image.mask, *shape, manifest.input.crop) if image.mask else nothing
                seen.add(score_with(backend, manifest.input, image.path), mask, is_defect=image.is_defect)
            row["labelled"] = seen.figures()
    finally:
        backend.close()
    told: Row = {"minutes": manifest.training.minutes, "mb": _megabytes(bundle), "images_sha256": images_sha256(images)}
    return {**row, **told}


def judged_on_others(row: Row, data: Path) -> bool:
    """Whether the row's labelled images, of a row that tells which they were, are not those of `data`."""
    return row.get("images_sha256") not in (None, images_sha256(_labelled(data)))


def _labelled(data: Path) -> list[LabelledImage]:
    return labelled_images(data) if labelled_folder(data) else []


class _Seen:
    """Adds up what a bundle made of parts."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.pixels = PixelFigures()
        self.good: list[float] = []
        self.defects: list[float] = []

    def add(self, scored: Scored, mask: NDArray[np.bool_], *, is_defect: bool) -> None:
        (self.defects if is_defect else self.good).append(round(float(scored.score), 6))
        # Of a defect without a mask nobody told which pixels are good.
        if mask.any() or not is_defect:
            self.pixels.add(scored.anomaly_map, mask)

    def figures(self) -> Row:
        good, defects = np.array(self.good), np.array(self.defects)
        escapes = sum(self.thresholds.band(score) == "OK" for score in self.defects)
        return {
            "image_auroc": auroc(good, defects),
            **pixel_metrics(self.pixels),
            "escape_rate": escapes / len(defects),
            "pg2": good_sorted_right(good, defects),
            "pb2": defects_found(good, defects),
            "good_scores": list(self.good),
            "defect_scores": list(self.defects),
        }


def opened(bundle: Bundle) -> Backend:
    """ONNX Runtime in float32 for every bundle: what is compared is methods, not runtimes."""
    return OrtBackend(OnnxModel.of(bundle, "fp32"), bundle.manifest.input, "fp32", threads=torch.get_num_threads())


def _megabytes(bundle: Bundle) -> float:
    return round(bundle.manifest.files[bundle.manifest.models["fp32"]].bytes / 1e6, 2)


def milliseconds(bundles: Mapping[str, Bundle]) -> dict[str, float]:
    """Median of one inference of each, in turns: a machine that is slow for a while is slow for all."""
    backends = {name: opened(bundle) for name, bundle in bundles.items()}
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    try:
        for _ in range(_ROUNDS + 1):
            for name, backend in backends.items():
                size = bundles[name].manifest.input.height
                image = np.zeros((1, size, size, 3), np.uint8)
                started = time.perf_counter()
                backend.run(image)
                seconds[name].append(time.perf_counter() - started)
    finally:
        for backend in backends.values():
            backend.close()
    # The first run of each pays for allocation.
    return {name: round(1000 * median(taken[1:]), 2) for name, taken in seconds.items()}


def scores_of(row: Row, where: str) -> tuple[Scores, Scores]:
    """Good and defective parts' scores on `rendered` or `labelled` defects."""
    part = row[where]
    if not isinstance(part, dict):
        raise TypeError(f"{where}: no figures")
    return np.array(part["good_scores"], np.float64), np.array(part["defect_scores"], np.float64)


def on_shared_seeds(rows: Mapping[str, Row]) -> dict[str, Row]:
    """Of rows by `method/seed` those by which methods may be told apart: of the seeds that all methods have.

    Each seed holds out photos of its own, harder or easier ones. All rows where no seed is shared.
    """
    seeds: dict[str, set[str]] = {}
    for key in rows:
        name, seed = key.rsplit("/", 1)
        seeds.setdefault(name, set()).add(seed)
    shared = set.intersection(*seeds.values()) if seeds else set()
    return {key: row for key, row in rows.items() if not shared or key.rsplit("/", 1)[1] in shared}


def recommend(
    rows: Mapping[str, Sequence[Row]], speed: Mapping[str, float], unfit: Collection[str] = ()
) -> tuple[str, str]:
    """The method to take and why, of the rows of each: on rendered defects and time alone. One of those that are
    `unfit` for service only where all are.
    """
    means = {name: float(np.mean([auroc(*scores_of(row, "rendered")) for row in runs])) for name, runs in rows.items()}
    usable = [name for name in means if name not in unfit] or list(means)
    best = max(usable, key=means.__getitem__)
    close = [name for name in usable if means[best] - means[name] <= CLOSE]
    chosen = min(close, key=lambda name: (speed[name], -means[name]))
    told = f"image AUROC {100 * means[chosen]:.2f} on rendered defects of held-out photos"
    passed_over = [f"{name} ({100 * means[name]:.2f})" for name in means if means[name] > means[best]]
    highest = f"the highest of those fit for service; not {', '.join(passed_over)}" if passed_over else "the highest"
    if chosen == best:
        others = [name for name in close if name != best]
        return chosen, f"{told}, {highest}" + (f"; as fast as or faster than {', '.join(others)}" if others else "")
    return chosen, (
        f"{told}, within {100 * CLOSE:.1f} of {highest} ({best}, {100 * means[best]:.2f}), at {speed[chosen]:.1f} "
        f"instead of {speed[best]:.1f} ms an image"
    )
