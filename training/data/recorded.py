"""From the records of a station to a data set in MVTec layout: parts that people reviewed, with masks of the defects.

Reads the tables `inspections` and `reviews` of service/station/schema.py; the newest review of a part counts.

    train/good, test/good        parts reviewed as good; one in five is for the test
    test/KIND                    parts reviewed as defect, by the kind that the review names
    ground_truth/KIND            their masks, where the review has a mask or boxes
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.images.decoding import Pixels, decode, decode_raw, encode
from service.images.headers import ImageError
from training.data.folders import GOOD, MASKS
from training.errors import UserError

_FILE = "inspections.sqlite"
_VERSION = 3
_KIND = "defect"
_TEST_SHARE = 5
_REVIEWED = """
SELECT i.inspection_id, i.image_sha256, i.layout, r.after, r.defect_type, r.boxes, r.mask
FROM inspections AS i JOIN reviews AS r ON r.rowid =
    (SELECT max(rowid) FROM reviews WHERE inspection_id = i.inspection_id)
WHERE (:recipe IS NULL OR i.recipe = :recipe) AND i.review IS NOT NULL ORDER BY i.rowid
"""


@dataclass(frozen=True)
class Collected:
    """How many images were written, by folder, and how many parts were left out and why."""

    images: Counter[str]
    masks: int
    left_out: Counter[str]


def collect(records: Path, out: Path, recipe: str | None = None) -> Collected:
    """Write the reviewed parts of a station to a new folder; raises UserError where there is nothing to collect."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: not empty: name a new folder")
    images: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    masks = 0
    for row in _rows(records, recipe):
        name, sha256, layout, after, defect_type, boxes, mask = row
        data = _read(records, sha256)
        if data is None:
            left_out["no image is kept"] += 1
            continue
        try:
            pixels = _decode(data, json.loads(layout) if layout else None)
        except ImageError as error:
            left_out[f"the image cannot be read: {error}"] += 1
            continue
        folder = _folder(name) if after == "good" else f"test/{_kind(defect_type)}"
        _write(out / folder / f"{name}.png", encode(pixels, ".png"))
        images[folder] += 1
        marked = _mask(mask, json.loads(boxes), (pixels.shape[0], pixels.shape[1])) if after == "defect" else None
        if marked is not None:
            _write(out / "ground_truth" / _kind(defect_type) / f"{name}_mask.png", encode(marked, ".png"))
            masks += 1
    if not images:
        why = ", ".join(f"{count}: {reason}" for reason, count in left_out.items()) or "no part was reviewed"
        raise UserError(f"{records}: nothing to collect: {why}")
    return Collected(images, masks, left_out)


def _rows(records: Path, recipe: str | None) -> Iterator[tuple[Any, ...]]:
    file = records / _FILE
    if not file.is_file():
        raise UserError(f"{records}: no records of a station: --records is the folder that INSPECT_RECORDS_DIR names")
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            raise UserError(
                f"{file}: of version {version}, this reads {_VERSION}: start the service of today on it once"
            )
        yield from connection.execute(_REVIEWED, {"recipe": recipe})


def _read(records: Path, sha256: str | None) -> bytes | None:
    if sha256 is None:
        return None
    try:
        data = (records / "images" / sha256[:2] / sha256).read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{records}: image {sha256} is not what was inspected: python -m service records verify")
    return data


def _decode(data: bytes, layout: dict[str, Any] | None) -> Pixels:
    return decode_raw(data, **layout) if layout and "pixel_format" in layout else decode(data)


def _folder(name: str) -> str:
    """The same part is always of the same split, whatever is collected beside it."""
    share = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % _TEST_SHARE
    return "test/good" if share == 0 else "train/good"


def _kind(defect_type: str | None) -> str:
    """A folder's name for a kind of defect."""
    kind = re.sub(r"[^a-z0-9]+", "_", (defect_type or "").lower()).strip("_") or _KIND
    return f"{_KIND}_{kind}" if kind in GOOD | MASKS else kind


def _mask(mask: bytes | None, boxes: list[dict[str, int]], size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Where the defect is, 0 or 255, of the image's size (H, W); None where the review does not say."""
    if mask is not None:
        drawn = decode(mask)[:, :, 0]
        if drawn.shape != size:
            drawn = np.asarray(cv2.resize(drawn, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
        return drawn
    if not boxes:
        return None
    marked = np.zeros(size, np.uint8)
    for box in boxes:
        marked[box["y"] : box["y"] + box["height"], box["x"] : box["x"] + box["width"]] = 255
    return marked


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
