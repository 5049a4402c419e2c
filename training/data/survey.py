"""What lies in a data folder, told before anything is trained on it: counts, and what looks like a mistake."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from service.images.decoding import DEFAULT_MAX_PIXELS
from training.data.folders import SUFFIXES, counted, files_below, good_images, shown
from training.data.labels import LabelledImage
from training.data.masks import unlikely_masks

# Images of formats that are not read; other files than images are nobody's photos.
_OTHER_PICTURES = {".avif", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".pgm"}
_OTHER_PICTURES |= {".arw", ".pbm", ".pnm", ".ppm", ".psd", ".raw", ".tga"}
_NAMED = 5  # files in one warning


@dataclass(frozen=True)
class Survey:
    counts: list[str]
    warnings: list[str]


def survey(folder: Path, labelled: Sequence[LabelledImage]) -> Survey:
    """Counts of good photos and of the `labelled` test photos of `folder`, and what looks like a mistake in them.

    Raises DataError for masks that cannot be meant.
    """
    photos = good_images(folder)
    counts = [f"good photos: {len(photos)}: {counted(folder, photos)}"]
    if labelled:
        counts.append(_labels(labelled))
    tested = [image.path for image in labelled]
    warnings = [
        *_not_read(folder, {*photos, *tested, *(image.mask for image in labelled if image.mask)}),
        *_mixtures(photos),
        *_duplicates(photos, tested),
        *_without_masks(labelled),
        *unlikely_masks(labelled),
    ]
    return Survey(counts, warnings)


def _labels(images: Sequence[LabelledImage]) -> str:
    kinds = Counter(image.defect for image in images if image.is_defect)
    defects, masks = sum(kinds.values()), sum(image.mask is not None for image in images)
    named = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
    return f"test photos: {len(images) - defects} good, {defects} with defects: {named}; {masks} masks"


def _without_masks(images: Sequence[LabelledImage]) -> list[str]:
    bare = [image.path for image in images if image.is_defect and image.mask is None]
    if not bare:
        return []
    return [f"{len(bare)} defects have no mask and count in the image figures alone: {_named(bare)}"]


def _not_read(folder: Path, used: set[Path]) -> list[str]:
    """Images below the folder that are neither trained on nor tested."""
    there = [path for path in files_below(folder) if path not in used]
    other = Counter(path.suffix.lower() for path in there if path.suffix.lower() in _OTHER_PICTURES)
    unread = [path for path in there if path.suffix.lower() in SUFFIXES]
    said = [
        f"{count} files of the format {suffix} are not read: save them as PNG"
        for suffix, count in sorted(other.items())
    ]
    if unread:
        said.append(f"{len(unread)} images are neither trained on nor tested: {counted(folder, unread)}")
    return said


def _mixtures(photos: Sequence[Path]) -> list[str]:
    """Photos of several shapes or of grey and colour: for the network these are different parts."""
    shapes: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    large: list[tuple[int, Path]] = []
    for path in tqdm(photos, desc="sizes of photos", unit="img", leave=False):
        try:
            with Image.open(path) as photo:
                if photo.width * photo.height > DEFAULT_MAX_PIXELS:
                    large.append((photo.width * photo.height, path))
                shapes[f"{photo.width}x{photo.height}"] += 1
                modes["grey" if photo.mode in {"1", "L", "LA", "I", "I;16", "F"} else "colour"] += 1
        except (OSError, ValueError, SyntaxError):
            continue  # said by who reads the photo
    ratios = {round(int(width) / int(height), 2) for width, height in (shape.split("x") for shape in shapes)}
    said = []
    if len(ratios) > 1:
        told = ", ".join(f"{shape} ({count})" for shape, count in shapes.most_common(_NAMED))
        said.append(f"photos of {len(shapes)} sizes and different shapes are all stretched to one shape: {told}")
    elif len(shapes) > 1:
        told = ", ".join(f"{shape} ({count})" for shape, count in shapes.most_common(_NAMED))
        said.append(f"photos of {len(shapes)} sizes: {told}; the line's camera has one")
    if large:
        said.append(
            f"{len(large)} photos have more than {DEFAULT_MAX_PIXELS} pixels: {_named([path for _, path in large])}; "
            f"the service takes such from the line with INSPECT_MAX_PIXELS={max(large)[0]} and, for files above 32 "
            "MiB, INSPECT_MAX_UPLOAD_BYTES"
        )
    if len(modes) > 1:
        told = " and ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
        said.append(f"{told} photos are mixed: the line's camera sends one kind")
    return said


def _duplicates(photos: Sequence[Path], tested: Sequence[Path]) -> list[str]:
    """The same file under several names: a test photo among those of the training tells nothing."""
    same = _same_files([*photos, *tested])
    trained = set(photos)
    repeated = [group for group in same if len([path for path in group if path in trained]) > 1]
    leaked = [group for group in same if any(path in trained for path in group) and not trained.issuperset(group)]
    said = []
    if repeated:
        more = sum(len([path for path in group if path in trained]) - 1 for group in repeated)
        said.append(
            f"{more} good photos are copies of others, and may be both trained on and held out: "
            f"{_named(repeated[0])}: remove the copies"
        )
    if leaked:
        count = sum(sum(path not in trained for path in group) for group in leaked)
        said.append(
            f"{count} test photos are also among the good photos to train on, so figures on them tell nothing: "
            f"{_named(leaked[0])}"
        )
    return said


def _same_files(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of files with the same contents; only those of one length are read."""
    lengths: defaultdict[int, list[Path]] = defaultdict(list)
    for path in paths:
        if path.is_file() and (length := path.stat().st_size):
            lengths[length].append(path)
    alike = [path for group in lengths.values() if len(group) > 1 for path in group]
    contents: defaultdict[bytes, list[Path]] = defaultdict(list)
    for path in tqdm(alike, desc="looking for copies", unit="img", leave=False):
        with path.open("rb") as stream:
            contents[hashlib.file_digest(stream, "sha256").digest()].append(path)
    return [group for group in contents.values() if len(group) > 1]


def _named(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(map(shown, paths[:_NAMED])) + more
