"""Figures on a labelled test split, through the graph that is served: in process, or over HTTP from a service."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import httpx2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from tqdm import tqdm

from service.backends.base import Backend, Scored, score_images
from service.bundle.manifest import Band, Crop, InputSpec, Thresholds
from service.images.cropping import inspected_part
from service.images.decoding import read
from service.images.resizing import fit
from training.data.labels import LabelledImage
from training.data.masks import read_mask
from training.errors import UserError
from training.evaluation import breakdown
from training.evaluation.breakdown import Defect, describe
from training.evaluation.metrics import METRICS, clopper_pearson, image_metrics, in_bands, pixel_metrics
from training.evaluation.pixels import PixelFigures


class EvaluationError(UserError):
    """The test split could not be scored; the message names the image and the reason."""


def score_with(backend: Backend, spec: InputSpec, file: Path) -> Scored:
    """By a backend in this process, whose recipe has the input `spec`."""
    return score_images(backend, [fit(read(file), spec)])[0]


def score_over_http(client: httpx2.Client, recipe: str, spec: InputSpec, file: Path) -> Scored:
    """By POST /inspect: the file's bytes go out, map and score come back; the map is cut to what is inspected."""
    reply = client.post(
        "/inspect",
        params={"recipe": recipe, "heatmap": "npy"},
        content=file.read_bytes(),
        headers={"Content-Type": "application/octet-stream", "X-Deadline-Ms": "30000"},
    )
    if reply.status_code != httpx2.codes.OK:
        raise EvaluationError(f"{file}: HTTP {reply.status_code}: {reply.text}")
    result = reply.json()
    data = base64.b64decode(result["heatmap"]["data"])
    whole = np.load(io.BytesIO(data), allow_pickle=False)
    return Scored(inspected_part(whole, spec), float(result["score"]))


@dataclass(frozen=True)
class Tested:
    """What a test split gave, without its maps: scores `(N,)`, what is known of every defect, and pixel figures."""

    scores: NDArray[np.float32]
    defects: Sequence[Defect]
    pixels: dict[str, float]


def evaluate(
    images: Sequence[LabelledImage], scored: Iterable[Scored], thresholds: Thresholds, crop: Crop | None = None
) -> dict[str, JsonValue]:
    """The figures of a labelled test split, and what the thresholds make of it: they were not chosen on it.

    Maps are of the photo's `crop`, and so are the pixel figures; a defect beside it is one that was not found.
    """
    tested = score_split(images, scored, crop)
    is_defect = np.array([image.is_defect for image in images])
    return {**figures(images, tested, thresholds), **_verdicts(tested.scores, is_defect, thresholds)}


def score_split(images: Sequence[LabelledImage], scored: Iterable[Scored], crop: Crop | None = None) -> Tested:
    """What a graph made of each image of a test split, with a progress bar; one map of a generator is kept at a time.

    A defect without a mask, or with an empty one, has no pixel figures: nobody told which of its pixels are good.
    """
    scores, defects, pixels = [], [], PixelFigures()
    for image, found in tqdm(zip(images, scored, strict=True), desc="evaluating", total=len(images), unit="img"):
        height, width = found.anomaly_map.shape
        mask = read_mask(image.mask, height, width, crop) if image.mask else np.zeros((height, width), np.bool_)
        if image.is_defect:
            defects.append(describe(image.defect, mask))
        if mask.any() or not image.is_defect:
            pixels.add(found.anomaly_map, mask)
        scores.append(found.score)
    return Tested(np.array(scores, np.float32), defects, pixel_metrics(pixels))


def figures(
    images: Sequence[LabelledImage], tested: Tested, thresholds: Thresholds | None = None
) -> dict[str, JsonValue]:
    """All figures of the paper's tables for one category, and rows by type, size and place of the defects.

    Without a mask of any defect there are none of pixels.
    """
    defective = np.array([image.is_defect for image in images])
    scores = tested.scores
    return {
        "images": len(images),
        "data_sha256": fingerprint(images),
        **image_metrics(scores, defective),
        **tested.pixels,
        **breakdown.tables(tested.defects, scores[defective], scores[~defective], thresholds),
    }


def _verdicts(
    scores: NDArray[np.float32], is_defect: NDArray[np.bool_], thresholds: Thresholds
) -> dict[str, JsonValue]:
    """Good parts at or above reject, and defects below review, each with its exact 95 % interval."""
    good, defects = (in_bands(scores[chosen], thresholds) for chosen in (~is_defect, is_defect))
    good_parts, defective = int((~is_defect).sum()), int(is_defect.sum())
    return {
        "good_ok_review_ng": list(good.values()),
        "defects_ok_review_ng": list(defects.values()),
        "false_reject_rate": good["NG"] / good_parts,
        "false_reject_interval": list(clopper_pearson(good["NG"], good_parts)),
        "escape_rate": defects["OK"] / defective,
        "escape_interval": list(clopper_pearson(defects["OK"], defective)),
    }


def fingerprint(images: Sequence[LabelledImage]) -> str:
    """sha256 over defect names and file contents, in order: the same test split gives the same value anywhere."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.defect.encode() + b"\0" + hashlib.sha256(image.path.read_bytes()).digest())
        if image.mask:
            digest.update(hashlib.sha256(image.mask.read_bytes()).digest())
    return digest.hexdigest()


def markdown(rows: dict[str, dict[str, JsonValue]]) -> str:
    """Table of named results in percent, one row each."""
    lines = ["| | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(percent(row.get(column)) for column in METRICS) + " |")
        for table in breakdown.TABLES:
            kinds = row.get(table)
            for kind, figures in kinds.items() if isinstance(kinds, dict) else ():
                if isinstance(figures, dict):
                    lines.append(f"| {name}: {kind} | {percent(figures['image_auroc'])} |" + " |" * 4)
    lines += [_verdict_line(name, row) for name, row in rows.items() if "escape_rate" in row]
    return "\n".join(lines)


def _verdict_line(name: str, row: dict[str, JsonValue]) -> str:
    good, defects = _counts(row["good_ok_review_ng"]), _counts(row["defects_ok_review_ng"])
    rates = f"False rejects {_rate(row, 'false_reject')}, escapes {_rate(row, 'escape')}"
    return f"\n{name}: of the good parts {good}; of the defects {defects}. {rates}"


def _counts(values: JsonValue) -> str:
    counts = values if isinstance(values, list) else []
    return ", ".join(f"{count} {verdict}" for count, verdict in zip(counts, get_args(Band), strict=True))


def _rate(row: dict[str, JsonValue], name: str) -> str:
    interval = row[f"{name}_interval"]
    low, high = interval if isinstance(interval, list) else (None, None)
    return f"{percent(row[f'{name}_rate'])} % (95 % interval {percent(low)} to {percent(high)})"


def percent(value: JsonValue) -> str:
    """A rate in percent with two digits; nothing where there is none."""
    return f"{100 * value:.2f}" if isinstance(value, float) else ""
