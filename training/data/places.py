"""Places that results go to, tried before the hours of work whose results they are."""

from __future__ import annotations

import tempfile
from pathlib import Path

from training.data.folders import DataError


def require_place(folder: Path, what: str, flag: str) -> None:
    """DataError where nothing can be written into the folder, or it cannot be made. A file is written and is gone:
    rights tell little of a file system that is read-only, or has no place for files.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return
    except OSError as error:
        raise DataError(
            f"{there}: {what} can be written there: choose another {flag}, or change its rights ({error.strerror})"
        ) from error


def require_results_file(file: Path) -> None:
    """DataError where `--out` is no JSON file that could be written."""
    if file.is_dir():
        raise DataError(f"--out {file}: a folder: name a file in it, such as {file / 'results.json'}")
    if file.suffix != ".json":
        raise DataError(f"--out {file}: name a file that ends in .json: what goes beside it takes other endings")
    require_place(file.parent, "no results", "--out")
