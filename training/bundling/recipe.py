"""From a trained network to a recipe: which photos to look at, thresholds, figures, report and bundle."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from tqdm import tqdm

from service.backends.base import Backend
from service.bundle.files import replace_file
from service.bundle.folder import Bundle
from service.bundle.manifest import BundleError, InputSpec, ScoreFormula, Thresholds
from service.images.decoding import Pixels, read
from service.images.quality import Quality, measure
from service.images.resizing import resize
from training.bundling.export import REPORT, HeldOut, Scored, export_bundle
from training.data.contamination import outlying_scores, unusual_photos
from training.data.folders import DataError, good_images, labelled_folder, listing, split
from training.data.labels import labelled_images
from training.data.regions import keep_mask
from training.data.simulated_defects import KINDS, ImpossibleDefectError, apply, foreground_mask
from training.evaluation.evaluate import backend_scorer, evaluate, markdown
from training.evaluation.parts import Parts, labelled_parts
from training.evaluation.report import TRAINED_ON, Training, render
from training.loop.runs import RESULTS

_NEARLY_BLACK = 32  # of 255


def warn_of_darkness(photos: Tensor, folder: Path) -> None:
    """Warn where no photo has a pixel that is not nearly black."""
    brightest = int(photos.max())
    if brightest < _NEARLY_BLACK:
        print(
            f"warning: {folder}: no pixel is brighter than {brightest} of 255; 16-bit files whose samples have 10 or "
            "12 bits look like this: multiply the samples up to 16 bits, in the camera's pictures too",
            file=sys.stderr,
        )


def warn_of_unusual(photos: Sequence[Tensor], paths: list[Path]) -> list[JsonValue]:
    """Warn of photos unlike the others, before anything is trained on them; what the manifest keeps of it."""
    found = unusual_photos(*photos)
    size = photos[0].shape[-1]
    for one in found:
        print(
            f"warning: look at {paths[one.index]}: {one.deviations:.1f} deviations from the other good photos, most at "
            f"x {one.x * size:.0f}, y {one.y * size:.0f} of {size}; train without it if it shows a defect",
            file=sys.stderr,
        )
    return [
        {"photo": paths[one.index].name, "deviations": round(one.deviations, 1), "x": one.x, "y": one.y}
        for one in found
    ]


def warn_of_outlying(scores: NDArray[np.float32], paths: list[Path]) -> list[JsonValue]:
    """Warn of good photos that the trained network scores far above the others."""
    found = outlying_scores(scores)
    for i in found:
        print(
            f"warning: look at {paths[i]}: it scores {scores[i]:.3f}, the other good photos about "
            f"{np.median(scores):.3f}; train again without it if it shows a defect",
            file=sys.stderr,
        )
    return [{"photo": paths[i].name, "score": round(float(scores[i]), 4)} for i in found]


def measure_quality(paths: list[Path], size: int) -> list[Quality]:
    """Picture quality of good photos as the service will see them, before any resize."""
    qualities = []
    for path in tqdm(paths, desc="picture quality", unit="img", leave=False):
        photo = read(path)
        qualities.append(measure(photo, resize(photo, size, size)))
    return qualities


def photos_sha256(photos: list[Path]) -> str:
    """What a bundle remembers of the photos of its training: the split is drawn again from the same ones only."""
    return hashlib.sha256(listing(photos).encode()).hexdigest()


def split_as_trained(bundle: Bundle, folder: Path) -> tuple[list[Path], list[Path]]:
    """Photos of `folder` that the bundle was trained on and those that it held out.

    Raises BundleError where the manifest does not tell, DataError where the folder holds other photos by now.
    """
    config = bundle.manifest.training.get("config")
    if not isinstance(config, dict):
        raise BundleError(f"{bundle.path}: its manifest does not tell which photos were held out")
    photos = good_images(folder)
    if bundle.manifest.training.get("photos_sha256", photos_sha256(photos)) != photos_sha256(photos):
        raise DataError(
            f"{folder}: holds other photos than {bundle.path} was trained with, so which were held out is not known: "
            "take the folder as it was, or train again"
        )
    return split(photos, float(str(config["holdout"])), int(str(config["seed"])))


class Rendered(NamedTuple):
    """A rendered defect: the picture `(H, W, 3)`, what visibly changed `(H, W)`, and the kind."""

    picture: Pixels
    mask: NDArray[np.bool_]
    kind: str


def simulate_defects(photos: list[Pixels], seed: int) -> list[Rendered]:
    """One rendered defect of every kind on each of up to 20 photos: none of them made by the training simulator.

    On the part, where it can be told from the background. A kind that cannot be seen on a photo is left out.
    """
    rng = np.random.default_rng(seed)
    part = foreground_mask(photos)
    defects = []
    for photo in photos[:20]:
        for kind in KINDS:
            with suppress(ImpossibleDefectError):
                defects.append(Rendered(*apply(photo, kind, rng, None if kind == "border" else part), kind))
    return defects


def write_recipe(
    options: argparse.Namespace,
    network: nn.Module,
    photos: list[Pixels],
    names: list[str],
    *,
    method: str,
    seed: int,
    score: ScoreFormula,
    training: Training,
) -> Bundle:
    """Calibrate on held-out good `photos` called `names`, evaluate where `options.data` has a test split, and write the
    bundle with its report as the flags of `python -m training train` in `options` say.
    """
    size = photos[0].shape[0]
    trained_on = bool(training.record.get(TRAINED_ON))
    title = "good photos, trained on" if trained_on else "held-out good photos"
    version = options.version or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    rendered = simulate_defects(photos, seed)
    labelled = labelled_images(options.data) if labelled_folder(options.data) else []
    tested: dict[Path, tuple[NDArray[np.float32], float]] = {}

    def evaluate_exported(backend: Backend, thresholds: Thresholds) -> dict[str, JsonValue]:
        scorer = backend_scorer(backend, InputSpec(height=size, width=size))

        def remember(path: Path) -> tuple[NDArray[np.float32], float]:
            return tested.setdefault(path, scorer(path))

        return evaluate(labelled, remember, thresholds)

    def report(good: Scored, defects: Scored, thresholds: Thresholds, metrics: dict[str, JsonValue] | None) -> bytes:
        groups = [
            Parts(title, False, names, good.scores, good.maps, photos.__getitem__),
            Parts(
                "rendered defects",
                True,
                [f"{one.kind} {i + 1}" for i, one in enumerate(rendered)],
                defects.scores,
                defects.maps,
                lambda index: rendered[index].picture,
                lambda index: rendered[index].mask,
                [one.kind for one in rendered],
            ),
        ]
        groups += labelled_parts(labelled, tested, size)
        return render(options.recipe, version, score, thresholds, groups, metrics, training)

    bundle = export_bundle(
        network,
        HeldOut(photos, [one.picture for one in rendered], measure_quality(good_images(options.data), size)),
        recipe=options.recipe,
        version=version,
        models=options.models,
        method=method,
        training=training.record,
        false_reject_rate=options.false_reject_rate,
        trained_on=trained_on,
        min_area=options.min_area,
        keep=keep_mask(options.region, options.ignore, size),
        score=score,
        signing_key=options.sign,
        evaluate=evaluate_exported if labelled else None,
        report=report,
    )
    thresholds = bundle.manifest.thresholds
    print(f"report {bundle.file(REPORT)}")
    print(f"bundle {bundle.path}: review {thresholds.review:.4f}, reject {thresholds.reject:.4f}")
    if thresholds.calibration.warning:
        print(f"warning: {thresholds.calibration.warning}")
    if bundle.manifest.metrics:
        print(markdown({options.recipe: bundle.manifest.metrics}))
    return bundle


def write_results(run: Path, bundle: Bundle) -> None:
    """Keep the report and the figures of a bundle in the run's folder too; results.json marks the run as finished."""
    manifest = bundle.manifest
    shutil.copyfile(bundle.file(REPORT), run / REPORT)
    if manifest.metrics:
        (run / "results.md").write_text(markdown({manifest.recipe: manifest.metrics}) + "\n")
    replace_file(run / RESULTS, manifest.model_dump_json(indent=2, exclude={"files"}) + "\n")
