"""Figures on a labelled test split, through the graph that is served: in process, or over HTTP from a service."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from tqdm import tqdm

from service.backends import Backend
from service.images import read, resize
from training.data import LabelledImage, read_mask
from training.metrics import image_metrics, pixel_metrics

# Gives the anomaly map float32 (H, W) and the score of one image file.
Scorer = Callable[[Path], tuple[NDArray[np.float32], float]]

PAPER_COLUMNS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro")


class EvaluationError(Exception):
    """The test split could not be scored; the message names the image and the reason."""


def backend_scorer(backend: Backend, size: int) -> Scorer:
    """Score with a backend in this process."""

    def score(path: Path) -> tuple[NDArray[np.float32], float]:
        maps, scores = backend.run(resize(read(path), size, size)[None])
        return maps[0], float(scores[0])

    return score


def http_scorer(client: httpx2.Client, recipe: str) -> Scorer:
    """Score by POST /inspect: the file's bytes go out, map and score come back."""

    def score(path: Path) -> tuple[NDArray[np.float32], float]:
        reply = client.post(
            "/inspect",
            params={"recipe": recipe, "heatmap": "npy"},
            content=path.read_bytes(),
            headers={"Content-Type": "application/octet-stream", "X-Deadline-Ms": "30000"},
        )
        if reply.status_code != httpx2.codes.OK:
            raise EvaluationError(f"{path}: HTTP {reply.status_code}: {reply.text}")
        result = reply.json()
        data = base64.b64decode(result["heatmap"]["data"])
        return np.load(io.BytesIO(data), allow_pickle=False), float(result["score"])

    return score


def evaluate(images: Sequence[LabelledImage], scorer: Scorer) -> dict[str, JsonValue]:
    """All figures of the paper's tables for one category, and image AUROC per defect type against all good parts."""
    scored = [scorer(image.path) for image in tqdm(images, desc="evaluating", unit="img")]
    maps = np.stack([anomaly_map for anomaly_map, _ in scored])
    scores = np.array([score for _, score in scored], np.float32)
    size = maps.shape[1]
    masks = np.stack([read_mask(i.mask, size) if i.mask else np.zeros((size, size), np.bool_) for i in images])
    kinds = np.array([image.defect for image in images])
    per_defect: dict[str, JsonValue] = {}
    for kind in sorted(set(kinds) - {"good"}):
        chosen = (kinds == kind) | (kinds == "good")
        per_defect[kind] = {
            "images": int((kinds == kind).sum()),
            "image_auroc": image_metrics(scores[chosen], kinds[chosen] != "good")["image_auroc"],
        }
    return {
        "images": len(images),
        "data_sha256": fingerprint(images),
        **image_metrics(scores, kinds != "good"),
        **pixel_metrics(maps, masks),
        "per_defect": per_defect,
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
    lines = ["| | " + " | ".join(PAPER_COLUMNS) + " |", "|---" * (len(PAPER_COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_percent(row.get(column)) for column in PAPER_COLUMNS) + " |")
        kinds = row.get("per_defect")
        for kind, figures in kinds.items() if isinstance(kinds, dict) else ():
            if isinstance(figures, dict):
                lines.append(f"| {name}: {kind} | {_percent(figures['image_auroc'])} |" + " |" * 4)
    return "\n".join(lines)


def _percent(value: JsonValue) -> str:
    return f"{100 * value:.2f}" if isinstance(value, float) else ""
