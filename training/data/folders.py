"""Image folders: MVTec layout or a plain folder of good photos, decoded once and kept as uint8 tensors."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from service.images.decoding import read
from service.images.headers import ImageError
from service.images.resizing import resize
from training.data.masks import resize_mask

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


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
    if mvtec.is_dir():
        return find_images(mvtec)
    try:
        return find_images(folder)
    except DataError as error:
        raise DataError(f"{error}: good photos are looked for in it and in its train/good") from None


def listing(images: list[Path]) -> str:
    """Names and sizes in bytes, one a line: what tells whether a folder still holds the same images."""
    return "".join(f"{image.name} {image.stat().st_size}\n" for image in images)


def split(paths: list[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Photos to train on and photos to hold out, drawn by `seed`; both sorted, neither empty."""
    if len(paths) < 4:
        raise DataError(f"{paths[0].parent}: {len(paths)} good photos are too few: take at least 4, better 100")
    count = min(max(2, round(share * len(paths))), len(paths) - 2)
    order = np.random.default_rng(seed).permutation(len(paths))
    held_out = set(order[:count].tolist())
    return (
        [path for i, path in enumerate(paths) if i not in held_out],
        [path for i, path in enumerate(paths) if i in held_out],
    )


def labelled_images(folder: Path) -> list[LabelledImage]:
    """Labelled test images of an MVTec-layout folder: `test/<defect>`, and in `ground_truth/<defect>` for each a mask
    `<stem>_mask` or `<stem>`.
    """
    found: list[LabelledImage] = []
    test = folder / "test"
    if not test.is_dir():
        raise DataError(f"{folder}: no test/ folder, so nothing to evaluate on")
    # What editors and file servers leave behind is no kind of defect.
    for kind in sorted(p for p in test.iterdir() if p.is_dir() and not p.name.startswith((".", "@", "__"))):
        masks = folder / "ground_truth" / kind.name
        there = {path.name.lower(): path for path in masks.iterdir()} if masks.is_dir() else {}
        for path in find_images(kind):
            mask = None if kind.name == "good" else _mask_of(path, masks, there)
            found.append(LabelledImage(path, kind.name, mask))
    if not any(image.is_defect for image in found) or all(image.is_defect for image in found):
        raise DataError(f"{test}: evaluation needs good parts in test/good and defects beside it")
    return found


def _mask_of(path: Path, folder: Path, there: Mapping[str, Path]) -> Path:
    """The mask of a photo among the files `there`, by name in lower case."""
    names = [f"{path.stem}{ending}{suffix}" for ending in ("_mask", "") for suffix in (".png", *sorted(SUFFIXES))]
    for name in names:
        if name.lower() in there:
            return there[name.lower()]
    raise DataError(f"{folder / names[0]}: no ground truth for {path}")


def require_readable(images: list[LabelledImage], size: int) -> None:
    """DataError where a photo or a mask of a test split cannot be read."""
    load_images([image.path for image in images], size, "test photos")
    for image in images:
        if image.mask:
            read_mask(image.mask, size)


def read_mask(path: Path, size: int) -> NDArray[np.bool_]:
    """Ground truth `(size, size)`, resized as `resize_mask` says.

    Where no pixel is white the mask holds labels, and all but 0 are a defect. Of a JPEG, whose black and white are not
    quite, all that is nearer to white.
    """
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if mask is None:
        raise DataError(f"{path}: not a readable mask image")
    if mask.dtype == np.uint16:
        # The upper byte of a label is 0.
        mask = (np.right_shift(mask, 8) if mask.max() > 255 else mask).astype(np.uint8)
    if path.suffix.lower() in {".jpg", ".jpeg"}:
        mask = np.where(mask > 127, 255, 0).astype(np.uint8)
    elif mask.max() < 255:
        mask = np.where(mask > 0, 255, 0).astype(np.uint8)
    return resize_mask(mask, size)


def load_images(paths: list[Path], size: int, what: str, *, all_needed: bool = True) -> Tensor:
    """Decode and resize to uint8 `(N, 3, size, size)` RGB with a progress bar; DataError names all unreadable files.

    Where not `all_needed`, they are left out with a warning as long as others are there.
    """
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
        outcomes = list(tqdm(jobs, f"reading {what}", len(paths), leave=False, unit="img"))
    problems = [problem for problem in outcomes if problem]
    if problems and not all_needed and len(problems) < len(paths):
        tqdm.write(
            f"warning: {len(problems)} of {len(paths)} {what} cannot be read and are left out: {problems[0]}",
            file=sys.stderr,
        )
        return out[[problem is None for problem in outcomes]]
    if problems:
        raise DataError(
            f"{len(problems)} of {len(paths)} {what} cannot be read: replace or remove them, then run the same command "
            f"again\n  " + "\n  ".join(problems[:20]) + ("\n  …" if len(problems) > 20 else "")
        )
    return out
