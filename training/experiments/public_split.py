"""A split that others published, as a folder of links in MVTec layout: figures compare only on the same split."""

from __future__ import annotations

from pathlib import Path

from training.data.folders import DataError, find_images


def link_split(data: Path, names: Path, folder: Path) -> Path:
    """`folder`, made to hold `data` split as the file `names` says: one photo to train on a line.

    All other good photos of `data`, of its train and of its test folder, are tested on, with all defects.
    """
    try:
        wanted = {line.strip() for line in names.read_text().splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{names}: not a readable list of names: {error}") from None
    good: dict[str, Path] = {}
    for place in ("train", "test"):
        for photo in find_images(data / place / "good"):
            if photo.name in good:
                raise DataError(f"{photo}: a second good photo named so: which of them {names} means is not known")
            good[photo.name] = photo
    if missing := sorted(wanted - good.keys()):
        raise DataError(f"{names}: {len(missing)} of {len(wanted)} are no good photos of {data}, {missing[0]} first")
    if wanted == good.keys():
        raise DataError(f"{names}: names every good photo of {data}: none is left to test on")
    for name, photo in good.items():
        _link(photo, folder / ("train" if name in wanted else "test") / "good" / name)
    for defect in sorted(path for path in (data / "test").iterdir() if path.is_dir() and path.name != "good"):
        _link(defect, folder / "test" / defect.name)
    _link(data / "ground_truth", folder / "ground_truth")
    return folder


def _link(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.readlink() == source.resolve():
        return
    link.unlink(missing_ok=True)
    link.symlink_to(source.resolve())
