"""Image folders: MVTec layout or a plain folder of good photos, decoded once and kept as uint8 tensors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from service.images import ImageError, read, resize

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


class DataError(Exception):
    """The folder is not what training needs; the message names the path and the remedy."""


@dataclass(frozen=True)
class LabelledImage:
    """One labelled test image; `defect` is the folder name, "good" for good parts, and `mask` its ground truth."""

    path: Path
    defect: str
    mask: Path | None

    @property
    def is_defect(self) -> bool:
        return self.defect != "good"


def find_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Image files in `folder`, sorted by path; raises DataError when there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    entries = folder.rglob("*") if recursive else folder.iterdir()
    paths = sorted(p for p in entries if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise DataError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))})")
    return paths


def good_images(folder: Path) -> list[Path]:
    """Good parts for training: `folder/train/good` (MVTec layout) or the images in `folder` itself."""
    mvtec = folder / "train" / "good"
    return find_images(mvtec if mvtec.is_dir() else folder)


def split(paths: list[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Photos to train on and photos to hold out, drawn by `seed`; both sorted, neither empty."""
    if len(paths) < 4:
        raise DataError(f"{paths[0].parent}: {len(paths)} good photos are too few: take at least 4, better 100")
    count = max(2, round(share * len(paths)))
    order = np.random.default_rng(seed).permutation(len(paths))
    held_out = set(order[:count].tolist())
    return (
        [path for i, path in enumerate(paths) if i not in held_out],
        [path for i, path in enumerate(paths) if i in held_out],
    )


def labelled_images(folder: Path) -> list[LabelledImage]:
    """Labelled test images of an MVTec-layout folder (`test/<defect>`, `ground_truth/<defect>/<stem>_mask.png`)."""
    found: list[LabelledImage] = []
    test = folder / "test"
    if not test.is_dir():
        raise DataError(f"{folder}: no test/ folder, so nothing to evaluate on")
    for kind in sorted(p for p in test.iterdir() if p.is_dir()):
        for path in find_images(kind):
            mask = folder / "ground_truth" / kind.name / f"{path.stem}_mask.png"
            if kind.name != "good" and not mask.is_file():
                raise DataError(f"{mask}: no ground truth for {path}")
            found.append(LabelledImage(path, kind.name, mask if kind.name != "good" else None))
    if not any(image.is_defect for image in found) or all(image.is_defect for image in found):
        raise DataError(f"{test}: evaluation needs good parts in test/good and defects beside it")
    return found


def read_mask(path: Path, size: int) -> NDArray[np.bool_]:
    """Ground truth `(size, size)`: bilinear resize, then only full pixels count, as in the authors' evaluation."""
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise DataError(f"{path}: not a readable mask image")
    return np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_LINEAR) == 255)


def load_images(paths: list[Path], size: int, what: str) -> Tensor:
    """Decode and resize to uint8 `(N, 3, size, size)` RGB with a progress bar; DataError names all unreadable files."""
    out = torch.empty((len(paths), 3, size, size), dtype=torch.uint8)

    def load(index: int) -> str | None:
        try:
            pixels = resize(read(paths[index]), size, size)
        except (ImageError, OSError) as error:
            return str(error)
        out[index] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return None

    with ThreadPoolExecutor(4) as pool:
        jobs = pool.map(load, range(len(paths)))
        problems = [
            problem for problem in tqdm(jobs, f"reading {what}", len(paths), leave=False, unit="img") if problem
        ]
    if problems:
        raise DataError(
            f"{len(problems)} of {len(paths)} {what} cannot be read: replace or remove them, then run the same command "
            f"again\n  " + "\n  ".join(problems[:20]) + ("\n  …" if len(problems) > 20 else "")
        )
    return out
