"""Records as files that others read: a table, and a ZIP of it with images, maps and masks."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.images.decoding import Pixels, decode, decode_raw, encode
from service.images.headers import ImageError
from service.station.reviews import mask_of

COLUMNS = (
    *("time", "inspection_id", "part_id", "lot_id", "camera_id", "recipe", "version", "verdict", "score"),
    *("review", "regions", "faults", "code", "detail", "metadata", "image"),
)
_SUFFIXES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"BM": ".bmp",
    b"RIFF": ".webp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".raw": "application/octet-stream",
}
# A spreadsheet would take a text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Kept(Protocol):
    """The records, as far as they are needed here."""

    def find(self, inspection_id: str) -> dict[str, Any] | None: ...

    def image(self, inspection_id: str) -> bytes | None: ...

    def map(self, inspection_id: str) -> bytes | None: ...

    def ask(self, question: Callable[[sqlite3.Connection], bytes | None]) -> bytes | None: ...


def suffix_of(image: bytes) -> str:
    """What the name of an image ends with; `.raw` for bare pixels."""
    return next((suffix for start, suffix in _SUFFIXES.items() if image.startswith(start)), ".raw")


def media_type_of(image: bytes) -> str:
    return _MEDIA_TYPES[suffix_of(image)]


def pixels_of(image: bytes, layout: Mapping[str, Any] | None, max_pixels: int) -> Pixels:
    """A kept image, RGB uint8 `(H, W, 3)`; raises ImageError."""
    if layout is not None and "pixel_format" in layout:
        return decode_raw(image, max_pixels=max_pixels, **layout)
    return decode(image, max_pixels=max_pixels)


def mask_from_boxes(boxes: Iterable[Mapping[str, int]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask `(H, W)` of 0 and 255 with all that is in one of the boxes."""
    mask = np.zeros(size, np.uint8)
    for box in boxes:
        mask[box["y"] : box["y"] + box["height"], box["x"] : box["x"] + box["width"]] = 255
    return mask


def to_csv(found: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Lines of a table, the names first; what Records.search finds."""
    yield _line(COLUMNS)
    for one in found:
        when = datetime.fromtimestamp(one["time"], UTC).isoformat(timespec="milliseconds")
        cells = dict(one) | {
            "time": when,
            "regions": len(one.get("regions", [])),
            "faults": "; ".join(one.get("faults", [])),
            "metadata": json.dumps(one["metadata"]) if one["metadata"] else "",
        }
        yield _line(_cell(cells.get(name)) for name in COLUMNS)


def to_zip(found: Iterable[Mapping[str, Any]], records: Kept, max_pixels: int) -> Iterator[bytes]:
    """A ZIP, piece by piece: inspections.csv, and what is kept of each part under images, maps and masks."""
    sink = _Sink()
    listed = list(found)
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("inspections.csv", b"".join(to_csv(listed)), zipfile.ZIP_DEFLATED)
        for one in listed:
            for name, data in _files(one, records, max_pixels):
                archive.writestr(name, data)
            yield sink.take()
    yield sink.take()


def _files(one: Mapping[str, Any], records: Kept, max_pixels: int) -> Iterator[tuple[str, bytes]]:
    name = one["inspection_id"]
    image = records.image(name)
    if image is not None:
        yield f"images/{name}{suffix_of(image)}", image
        if one["layout"]:
            yield f"images/{name}.json", json.dumps(one["layout"]).encode()
    if (anomaly_map := records.map(name)) is not None:
        yield f"maps/{name}.png", anomaly_map
    if (mask := newest_mask(one, records, image, max_pixels)) is not None:
        yield f"masks/{name}.png", mask


def newest_mask(one: Mapping[str, Any], records: Kept, image: bytes | None, max_pixels: int) -> bytes | None:
    """Where the newest review of a part has a defect, as a PNG; None where it does not say."""
    found = records.find(one["inspection_id"]) if one["review"] else None
    if not found or not found["reviews"]:
        return None
    review = found["reviews"][-1]
    if review["mask"]:
        return records.ask(lambda connection: mask_of(connection, review["review_id"]))
    if not review["boxes"] or image is None:
        return None
    try:
        size = pixels_of(image, one["layout"], max_pixels).shape
    except ImageError:
        return None
    return encode(mask_from_boxes(review["boxes"], (size[0], size[1])), ".png")


class _Sink(io.RawIOBase):
    """What is written, until it is taken; nothing can be read from it or be gone back to."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _cell(value: object) -> object:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _line(cells: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(list(cells))
    return text.getvalue().encode()
