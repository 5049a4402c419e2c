"""A recorded inspection once more: from the kept image, with the recipe version that judged it, to the same verdict."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from service.backends.base import Backend, BackendChoice, BackendError
from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import BundleError
from service.images.headers import ImageError
from service.station.exporting import pixels_of
from service.station.proving import Replay, ended, prove
from service.station.reader import IMAGES, Reader
from service.station.verdicts import UntrustedResultError
from service.station.verifying import check_inspection, check_pictures, is_of_earlier_version

OpenBackend = Callable[[Bundle, BackendChoice, Any], Backend]

# What the same graph runs on at a station and here; results of GPUs are compared with the CPU's.
_CHOICES: Mapping[str, BackendChoice] = {"openvino": "openvino"}
# What a record tells of how it was inspected; those of early programs have less.
_NEEDED = ("recipe", "version", "layout", "backend", "model_sha256", "thresholds", "limits", "faults")


class Replayer:
    """Repeats inspections of the records in `folder` with the recipes below `models`."""

    def __init__(self, folder: Path, models: Path, reader: Reader, open_backend: OpenBackend, max_pixels: int) -> None:
        self._images = folder / IMAGES
        self._models = models
        self._reader = reader
        self._open = open_backend
        self._backends: dict[tuple[Path, BackendChoice, str], Backend] = {}
        self._bundle = lru_cache(16)(read_bundle)
        self._max_pixels = max_pixels

    def replay(self, inspection_id: str) -> Replay:
        """Repeat one inspection; raises ValueError for one that is not on record."""
        found = self._reader.find(inspection_id)
        if found is None:
            raise ValueError(f"no inspection {inspection_id!r} in the records")
        tampered = tuple(self._find_tampering(inspection_id))
        if tampered:
            return ended(found, "tampered", *tampered)
        if "score" not in found:
            return ended(found, "impossible", f"refused before it was inspected: {found.get('detail')}")
        if missing := [name for name in _NEEDED if name not in found]:
            return ended(found, "impossible", f"an earlier program recorded it, without its {', '.join(missing)}")
        data = self._reader.image(inspection_id)
        if data is None:
            return ended(found, "impossible", "its image was not kept, or went for the disk budget")
        try:
            bundle = self._bundle(self._models / found["recipe"] / found["version"])
            image = pixels_of(data, found["layout"], self._max_pixels)
            ran = found["backend"]
            backend = self._backend(bundle, _CHOICES.get(ran["name"], "ort-cpu"), ran["precision"])
            return prove(found, self._reader.map(inspection_id), bundle, image, backend)
        except (BundleError, BackendError, ImageError, UntrustedResultError, OSError) as error:
            return ended(found, "impossible", str(error))

    def _find_tampering(self, inspection_id: str) -> Iterator[str]:
        def look(connection: sqlite3.Connection) -> list[str]:
            linked, content = connection.execute(
                "SELECT i.link IS NOT NULL, c.content FROM inspections AS i LEFT JOIN chain AS c ON c.seq = i.link AND "
                "c.kind = 'inspection' AND c.id = i.inspection_id WHERE i.inspection_id = ?",
                (inspection_id,),
            ).fetchone()
            if content is not None:
                problems = list(check_inspection(connection, inspection_id, content, deleted=False))
                return problems + list(check_pictures(connection, self._images, inspection_id))
            if not linked and is_of_earlier_version(connection, inspection_id):
                return []
            return [f"inspection {inspection_id} is on no link of the chain: it was put in later"]

        yield from self._reader.ask(look)

    def _backend(self, bundle: Bundle, choice: BackendChoice, precision: str) -> Backend:
        key = bundle.path, choice, precision
        if key not in self._backends:
            self._backends[key] = self._open(bundle, choice, precision)
        return self._backends[key]
