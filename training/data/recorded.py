"""The records of a station as training sees them: parts that people reviewed, with masks of the defects.

Reads the tables `inspections` and `reviews` of service/station/schema.py; the newest review of a part counts. `collect`
makes a data set in MVTec layout of them:

    train/good, test/good        parts reviewed as good, and photos gathered for a first training; where there are
                                 defects, one in five is for the test
    test/KIND                    parts reviewed as defect, by the kind that the review names
    ground_truth/KIND            their masks, where the review has a mask or boxes
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
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
_VERSION = 4
_KIND = "defect"
_TEST_SHARE = 5
_REVIEWED = """
SELECT i.inspection_id, i.image_sha256, i.layout, i.version, i.verdict, r.after, r.defect_type, r.boxes, r.mask
FROM inspections AS i JOIN reviews AS r ON r.rowid =
    (SELECT max(rowid) FROM reviews WHERE inspection_id = i.inspection_id)
WHERE (:recipe IS NULL OR i.recipe = :recipe) AND i.review IS NOT NULL ORDER BY i.rowid
"""
_ALL = "SELECT version, verdict, count(*) FROM inspections WHERE recipe = ? AND score IS NOT NULL GROUP BY 1, 2"

# Photos for a first training: what was refused has no image, what was inspected a score.
_COLLECTED = """
SELECT min(rowid), inspection_id, image_sha256, layout FROM inspections
WHERE (:recipe IS NULL OR recipe = :recipe) AND verdict = 'NOT_INSPECTED' AND score IS NULL AND review IS NULL AND
    image_sha256 IS NOT NULL GROUP BY image_sha256 ORDER BY 1
"""

_RECIPES = """
SELECT DISTINCT recipe FROM inspections WHERE image_sha256 IS NOT NULL AND
    (review IS NOT NULL OR (verdict = 'NOT_INSPECTED' AND score IS NULL)) ORDER BY 1
"""

# The version and the verdict that a part got: parts of one stratum had the same chance to be looked at.
Stratum = tuple[str | None, str]


@dataclass(frozen=True)
class ReviewedPart:
    """A part that a person looked at: `kind` is the folder's name of a defect, None for a good part."""

    records: Path
    name: str
    sha256: str
    layout: Mapping[str, Any] | None
    stratum: Stratum
    kind: str | None
    boxes: Sequence[Mapping[str, int]] = ()
    drawn: bytes | None = None

    def pixels(self) -> Pixels:
        """Its image, RGB uint8 `(H, W, 3)`; raises ImageError, and UserError where it is not what was inspected."""
        try:
            data = (self.records / "images" / self.sha256[:2] / self.sha256).read_bytes()
        except FileNotFoundError:
            raise ImageError("empty_image", "its image is gone") from None
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise UserError(
                f"{self.records}: image {self.sha256} is not what was inspected: python -m service records verify"
            )
        bare = self.layout is not None and "pixel_format" in self.layout
        return decode_raw(data, **self.layout) if self.layout and bare else decode(data)

    def mask(self, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Where the defect is, 0 or 255, of the image's size (H, W); None where the review does not say."""
        if self.drawn is not None:
            drawn = decode(self.drawn)[:, :, 0]
            if drawn.shape != size:
                drawn = np.asarray(cv2.resize(drawn, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
            return drawn
        if not self.boxes:
            return None
        marked = np.zeros(size, np.uint8)
        for box in self.boxes:
            marked[box["y"] : box["y"] + box["height"], box["x"] : box["x"] + box["width"]] = 255
        return marked


@dataclass(frozen=True)
class Collected:
    """How many images were written, by folder, and how many parts were left out and why."""

    images: Counter[str]
    masks: int
    left_out: Counter[str]


def reviewed_parts(records: Path, recipe: str | None = None) -> tuple[list[ReviewedPart], Counter[str]]:
    """Reviewed parts whose image is kept, in the order in which they came, and how many others there are and why."""
    found: list[ReviewedPart] = []
    left_out: Counter[str] = Counter()
    with _opened(records) as connection:
        for row in connection.execute(_REVIEWED, {"recipe": recipe}):
            name, sha256, layout, version, verdict, after, defect_type, boxes, mask = row
            if sha256 is None or not (records / "images" / sha256[:2] / sha256).is_file():
                left_out["no image is kept"] += 1
                continue
            kind = _kind(defect_type) if after == "defect" else None
            details = json.loads(layout) if layout else None, (version, verdict), kind, json.loads(boxes), mask
            found.append(ReviewedPart(records, name, sha256, *details))
    return found, left_out


def inspected_parts(records: Path, recipe: str) -> Counter[Stratum]:
    """All parts of a recipe that got a score, reviewed or not."""
    with _opened(records) as connection:
        return Counter({(version, verdict): count for version, verdict, count in connection.execute(_ALL, (recipe,))})


def collect(records: Path, out: Path, recipe: str | None = None) -> Collected:
    """Write reviewed parts, and photos of a recipe without a model, to a new folder, which appears once it is whole.

    Raises UserError where there are none, and where they are of several recipes: parts of one kind make a data set.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: not empty: name a new folder")
    if recipe is None and len(recipes := _recipes(records)) > 1:
        raise UserError(f"{records}: parts of {', '.join(recipes)}: name one of them with --recipe")
    unfinished = out.absolute().with_name(f".{out.absolute().name}.{secrets.token_hex(4)}.new")
    try:
        collected = _collect(records, unfinished, recipe)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return collected


def _collect(records: Path, out: Path, recipe: str | None) -> Collected:
    images: Counter[str] = Counter()
    parts, left_out = reviewed_parts(records, recipe)
    # A test split without a defect tests nothing.
    splits = any(part.kind for part in parts)
    masks = 0
    for part in [*parts, *_collected_photos(records, recipe)]:
        try:
            pixels = part.pixels()
        except ImageError as error:
            left_out[f"the image cannot be read: {error}"] += 1
            continue
        folder = (
            f"test/{part.kind}" if part.kind else "test/good" if splits and is_for_test(part.name) else "train/good"
        )
        _write(out / folder / f"{part.name}.png", encode(pixels, ".png"))
        images[folder] += 1
        marked = part.mask((pixels.shape[0], pixels.shape[1])) if part.kind else None
        if marked is not None:
            _write(out / "ground_truth" / str(part.kind) / f"{part.name}_mask.png", encode(marked, ".png"))
            masks += 1
    if not images:
        why = ", ".join(f"{count}: {reason}" for reason, count in left_out.items()) or "no part was reviewed"
        raise UserError(f"{records}: nothing to collect: {why}")
    return Collected(images, masks, left_out)


def _recipes(records: Path) -> list[str]:
    """Recipes of which something can be collected."""
    with _opened(records) as connection:
        return [row[0] for row in connection.execute(_RECIPES)]


def _collected_photos(records: Path, recipe: str | None) -> list[ReviewedPart]:
    """What a recipe without a model gathered for its first training; the line is taken to have made good parts."""
    with _opened(records) as connection:
        return [
            ReviewedPart(records, name, sha256, json.loads(layout) if layout else None, (None, "NOT_INSPECTED"), None)
            for _, name, sha256, layout in connection.execute(_COLLECTED, {"recipe": recipe})
        ]


@contextmanager
def _opened(records: Path) -> Iterator[sqlite3.Connection]:
    file = records / _FILE
    if not file.is_file():
        raise UserError(f"{records}: no records of a station: --records is the folder that INSPECT_RECORDS_DIR names")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != _VERSION:
                raise UserError(
                    f"{file}: of version {version}, this reads {_VERSION}: start the service of today on it once"
                )
            yield connection
    except sqlite3.Error as error:
        raise UserError(
            f"{file}: cannot be read ({error}): end what locks it, or make a copy with python -m service records "
            "backup and read that; python -m service records verify says what is damaged"
        ) from error


def is_for_test(name: str) -> bool:
    """One part in five; the same part is always of the same split, whatever is collected beside it."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % _TEST_SHARE == 0


def _kind(defect_type: str | None) -> str:
    """A folder's name for a kind of defect."""
    kind = re.sub(r"[^a-z0-9]+", "_", (defect_type or "").lower()).strip("_") or _KIND
    return f"{_KIND}_{kind}" if kind in GOOD | MASKS else kind


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
