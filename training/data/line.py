"""What a recipe learns from the line: the photos that it was trained on, with reviewed good parts beside them, and
confirmed defects.

    RUN/line/train/good/before    link to the photos that were there
    RUN/line/train/good/line      parts that people reviewed as good
    RUN/line/test, ground_truth   links to the test split, where there is one
    RUN/defects                   images of confirmed defects and their masks, ID.png and ID_mask.png

One reviewed part in five is left out: what was learned from says nothing about what was learned. The folders are a
snapshot: a run that goes on learns from the same parts, whatever was reviewed since.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.bundle.files import replace_file
from service.bundle.manifest import InputSpec
from service.images.decoding import Pixels, encode
from service.images.headers import ImageError
from training.data.folders import MASKS, DataError, child, find_images, good_images, labelled_folder
from training.data.masks import read_mask
from training.data.reading import load_photos
from training.data.recorded import ReviewedPart, is_for_test
from training.tiles import Grid

_PARTS, _LOCK = "parts.json", "parts.lock"
_MASK = "_mask"

Mark = Callable[[Pixels], NDArray[np.bool_] | None]


@dataclass(frozen=True)
class Line:
    """Where it lies, the inspections that are learned from, and how many reviewed parts are not and why."""

    photos: Path
    defects: Path
    learned: list[str]
    left_out: dict[str, int]


def gather(parts: Sequence[ReviewedPart], data: Path, run: Path, mark: Mark) -> Line:
    """Put photos of `data` and `parts` together below `run`, unless that was done before.

    Of several processes that ask for it one does the work, and the others wait for it. `mark` says where the defect is
    on the image of a part whose review does not; None: it does not know either.
    """
    line, written = run / "line", run / _PARTS
    with _alone(run):
        if not written.is_file():
            shutil.rmtree(line, ignore_errors=True)
            shutil.rmtree(run / "defects", ignore_errors=True)
            _link(data, line)
            learned, left_out = _write_parts(parts, line / "train" / "good" / "line", run / "defects", mark)
            if not learned:
                raise DataError(f"no reviewed part to learn from: {dict(left_out) or 'nobody reviewed one'}")
            replace_file(written, json.dumps({"learned": learned, "left_out": left_out}))
        found = json.loads(written.read_text())
    return Line(line, run / "defects", found["learned"], found["left_out"])


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Wait until no other process gathers here; a file system without locks lets all in."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / _LOCK).open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_defects(folder: Path, spec: InputSpec, grid: Grid) -> tuple[Tensor, Tensor] | None:
    """Photos uint8 `(M, 3, S, S)` and bool masks `(M, S, S)` of the defects in a folder, tile by tile; None where there
    are none.
    """
    if not folder.is_dir():
        return None
    photos = [path for path in find_images(folder) if not path.stem.endswith(_MASK)]
    drawn = [
        read_mask(path.with_name(f"{path.stem}{_MASK}.png"), spec.height, spec.width, spec.crop) for path in photos
    ]
    masks = grid.cut(torch.from_numpy(np.stack(drawn))[:, None])[:, 0]
    pictures = grid.cut(load_photos(photos, spec, "confirmed defects"))
    # A tile, or a crop, may show nothing of it.
    seen = masks.flatten(1).any(dim=1)
    return (pictures[seen], masks[seen]) if seen.any() else None


def _link(data: Path, line: Path) -> None:
    good = line / "train" / "good"
    good.mkdir(parents=True)
    photos = good_images(data)
    (good / "before").symlink_to(Path(os.path.commonpath([path.parent.absolute() for path in photos])))
    for name, there in (("test", labelled_folder(data)), ("ground_truth", child(data, MASKS))):
        if there:
            (line / name).symlink_to(there.absolute())


def _write_parts(
    parts: Sequence[ReviewedPart], good: Path, defects: Path, mark: Mark
) -> tuple[list[str], Counter[str]]:
    learned: list[str] = []
    left_out: Counter[str] = Counter()
    for part in parts:
        if is_for_test(part.name):
            left_out["kept for the comparison"] += 1
            continue
        try:
            pixels = part.pixels()
        except ImageError as error:
            left_out[f"the image cannot be read: {error}"] += 1
            continue
        if part.kind is None:
            good.mkdir(exist_ok=True)
            (good / f"{part.name}.png").write_bytes(encode(pixels, ".png"))
            learned.append(part.name)
            continue
        marked = part.mask((pixels.shape[0], pixels.shape[1]))
        where = mark(pixels) if marked is None else marked > 127
        if where is None or not where.any():
            left_out["a defect whose place nobody marked, and where the version before finds nothing"] += 1
            continue
        defects.mkdir(exist_ok=True)
        (defects / f"{part.name}.png").write_bytes(encode(pixels, ".png"))
        (defects / f"{part.name}{_MASK}.png").write_bytes(encode(np.where(where, 255, 0).astype(np.uint8), ".png"))
        learned.append(part.name)
    return learned, left_out
