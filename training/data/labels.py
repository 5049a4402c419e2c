"""Labelled test photos: MVTec's layout, `test/<kind>` with masks in `ground_truth/<kind>`, and what people make of it.

A defect without a mask counts as a defect of a part whose place nobody told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data.folders import (
    GOOD,
    MASKS,
    SUFFIXES,
    DataError,
    child,
    find_images,
    is_left_behind,
    labelled_folder,
    listing,
    shown,
)

# Of a mask's name, behind that of its photo.
_ENDINGS = ("_mask", "", "_gt", "-mask", "_label", "_labels", "_ground_truth", "_seg", "-gt", ".mask")
_BESIDE = tuple(ending for ending in _ENDINGS if ending)


@dataclass(frozen=True)
class LabelledImage:
    """One labelled test image; `defect` is the folder name, "good" for good parts, and `mask` its ground truth."""

    path: Path
    defect: str
    mask: Path | None

    @property
    def is_defect(self) -> bool:
        return self.defect != "good"


def labelled_images(folder: Path) -> list[LabelledImage]:
    """Labelled test images, each with the mask that was found for it.

    Masks are looked for in `ground_truth/<kind>`, in `ground_truth` and beside the photos, in folders and under
    endings of several spellings.
    """
    test = labelled_folder(folder)
    if test is None:
        raise DataError(f"{shown(folder)}: no test/ folder, so nothing to evaluate on")
    found: list[LabelledImage] = []
    for kind in sorted(path for path in test.iterdir() if path.is_dir() and not is_left_behind(path.name)):
        if kind.name.lower() in MASKS:
            continue
        images = find_images(kind)
        if kind.name.lower() in GOOD:
            found += [LabelledImage(path, "good", None) for path in images]
            continue
        beside = _masks_beside(images)
        there = _by_stem([*beside, *_masks_of(folder, test, kind)])
        found += [LabelledImage(path, kind.name, _mask_of(path, kind, there)) for path in images if path not in beside]
    if not any(image.is_defect for image in found) or all(image.is_defect for image in found):
        raise DataError(f"{shown(test)}: evaluation needs good parts in test/good and defects beside it")
    _require_masks_of_their_own(found)
    return found


def images_sha256(images: list[LabelledImage]) -> str:
    """What tells whether a test split still holds the same images, masks and labels."""
    files = [path for image in images for path in (image.path, image.mask) if path]
    kinds = "".join(f"{image.defect}\n" for image in images)
    return hashlib.sha256((listing(files) + kinds).encode()).hexdigest()


def _masks_beside(images: list[Path]) -> set[Path]:
    """Those of the images that are masks of others: by an ending, or in a folder of masks."""
    stems = {(path.parent, path.stem.lower()) for path in images}
    return {
        path
        for path in images
        if path.parent.name.lower() in MASKS
        or any((path.parent, path.stem.lower().removesuffix(ending)) in stems for ending in _endings_of(path))
    }


def _endings_of(path: Path) -> list[str]:
    return [ending for ending in _BESIDE if path.stem.lower().endswith(ending)]


def _masks_of(folder: Path, test: Path, kind: Path) -> list[Path]:
    """Files in the folders of masks: those of the kind, where these have folders of kinds, else all."""
    found: list[Path] = []
    for parent in (folder, test):
        masks = child(parent, MASKS)
        if masks is None:
            continue
        of_kind = child(masks, {kind.name.lower()})
        if of_kind:
            found += [path for path in of_kind.rglob("*") if path.suffix.lower() in SUFFIXES]
        else:
            found += [path for path in masks.iterdir() if path.suffix.lower() in SUFFIXES]
    return sorted(path for path in found if not path.name.startswith("."))


def _by_stem(paths: Iterable[Path]) -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(path.stem.lower(), []).append(path)
    return found


def _mask_of(path: Path, kind: Path, there: Mapping[str, list[Path]]) -> Path | None:
    """The mask of a photo: by its stem and an ending, and of several that of the same folder or else the PNG."""
    for ending in _ENDINGS:
        found = there.get(f"{path.stem}{ending}".lower(), [])
        nearer = [mask for mask in found if mask.parent.name == path.parent.name] if path.parent != kind else []
        for chosen in (found, nearer, [mask for mask in nearer or found if mask.suffix.lower() == ".png"]):
            if len(chosen) == 1:
                return chosen[0]
        if found:
            raise DataError(f"{shown(path)}: which is its mask, {' or '.join(map(str, found))}? Keep one of them")
    return None


def _require_masks_of_their_own(images: list[LabelledImage]) -> None:
    owner: dict[Path, Path] = {}
    for image in images:
        if image.mask and owner.setdefault(image.mask, image.path) != image.path:
            raise DataError(
                f"{image.mask}: would be the mask of {owner[image.mask]} and of {image.path}: put masks into "
                "ground_truth/<kind>, a folder for each kind of defect"
            )
