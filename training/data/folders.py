"""Where the photos of a training lie: MVTec's layout or plain folders, under the names that people give them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from training.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"}
# Names of folders, whatever their case.
GOOD = {"good", "ok", "normal", "pass"}
MASKS = {"ground_truth", "groundtruth", "ground-truth", "gt", "mask", "masks"}
_TRAIN = {"train", "training"}
_TEST = {"test", "testing"}
_NOT_GOOD = {
    "bad",
    "ng",
    "nok",
    "not_ok",
    "notok",
    "not_good",
    "fail",
    "failed",
    "faulty",
    "scrap",
    "val",
    "validation",
}
_NOT_GOOD_BEGIN = ("defect", "anomal", "abnormal", "reject", "mask", "test")


class DataError(UserError):
    """The folder is not what training needs; the message names the path and the remedy."""


def find_images(folder: Path) -> list[Path]:
    """Image files in `folder` and in the folders below it, linked ones too, sorted by path.

    Raises DataError when there is none, and for names that cannot be written down in UTF-8. What editors, file servers
    and macOS leave behind is no image.
    """
    if not folder.is_dir():
        raise DataError(f"{shown(folder)}: no such folder")
    paths = sorted(path for path in files_below(folder) if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{shown(folder)}: no images ({', '.join(sorted(SUFFIXES))})")
    unwritable = [path for path in paths if not _is_writable(path)]
    if unwritable:
        raise DataError(
            f"{shown(folder)}: {len(unwritable)} of {len(paths)} names are not UTF-8 or have line breaks, such as "
            f"{shown(unwritable[0])}: rename these files or folders"
        )
    # Nobody may ever write to a pipe, and the training would wait for it.
    if others := [path for path in paths if not path.is_file()]:
        raise DataError(
            f"{shown(folder)}: {len(others)} of {len(paths)} images are no files that are there, such as "
            f"{shown(others[0])}: remove links that lead nowhere, pipes and the like"
        )
    return paths


def files_below(folder: Path) -> Iterator[Path]:
    """All files that people put there; a folder that is linked into itself is entered once."""
    entered: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if not is_left_behind(name)]
        yield from (Path(here, name) for name in names if not name.startswith("."))


def is_left_behind(folder: str) -> bool:
    """Whether editors, file servers or archives make folders of this name."""
    return folder.startswith((".", "@", "__"))


def good_images(folder: Path) -> list[Path]:
    """Good parts for training: those of `train/good`, else of `good`, else all of `folder`.

    Raises DataError where a plain folder has folders in it whose names speak of anything but good parts.
    """
    train = child(folder, _TRAIN)
    if train:
        good = child(train, GOOD)
        if good is None and any(path.is_dir() and not is_left_behind(path.name) for path in train.iterdir()):
            raise DataError(f"{shown(train)}: no folder of good photos in it: name it good, ok or normal")
        return find_images(good or train)
    if good := child(folder, GOOD):
        return find_images(good)
    try:
        paths = find_images(folder)
    except DataError as error:
        raise DataError(f"{error}; good photos are looked for in train/good, in good and in itself") from None
    suspects = [path for path in paths if any(map(_speaks_of_defects, path.relative_to(folder).parts[:-1]))]
    if suspects:
        raise DataError(
            f"{shown(folder)}: {len(suspects)} of {len(paths)} images lie in folders that may not be of good parts: "
            f"{counted(folder, suspects)}; put the good photos into a folder named good"
        )
    return paths


def labelled_folder(folder: Path) -> Path | None:
    """The labelled test photos of an MVTec layout, where there are any."""
    return child(folder, _TEST)


def child(folder: Path, names: Iterable[str]) -> Path | None:
    """The folder in `folder` that has one of `names`, whatever its case; DataError where several have."""
    wanted = set(names)
    if not folder.is_dir():
        raise DataError(f"{shown(folder)}: no such folder")
    found = sorted(path for path in folder.iterdir() if path.name.lower() in wanted and path.is_dir())
    if len(found) > 1:
        raise DataError(f"{shown(folder)}: {' and '.join(path.name for path in found)} mean the same: keep one of them")
    return found[0] if found else None


def counted(folder: Path, paths: Iterable[Path]) -> str:
    """How many of the paths lie in which folder below `folder`, such as `. (4), day1 (5)`."""
    counts = Counter(str(path.parent.relative_to(folder)) for path in paths)
    told = [f"{shown(Path(name))} ({count})" for name, count in sorted(counts.items())]
    return ", ".join(told[:8]) + (f" and {len(told) - 8} more folders" if len(told) > 8 else "")


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


def shown(path: Path) -> str:
    """The path for people, also where its name is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace("\n", "\\n")


def _is_writable(path: Path) -> bool:
    return shown(path) == str(path)


def _speaks_of_defects(name: str) -> bool:
    return name.lower() in _NOT_GOOD | MASKS or name.lower().startswith(_NOT_GOOD_BEGIN)
