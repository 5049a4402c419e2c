"""A recorded inspection once more: from the kept image, with the recipe version that judged it, to the same verdict."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from service.backends.base import Backend, BackendChoice, BackendError, score_images
from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import BundleError
from service.images.cropping import whole_map
from service.images.decoding import Pixels, decode
from service.images.headers import ImageError
from service.images.quality import find_faults, measure
from service.images.resizing import fit
from service.station.exporting import pixels_of
from service.station.limits import Limits
from service.station.reader import IMAGES, Reader
from service.station.verdicts import Evidence, UntrustedResultError, Verdict, judge
from service.station.verifying import check_inspection, check_pictures, is_of_earlier_version

Outcome = Literal["proven", "differs", "tampered", "impossible"]
OpenBackend = Callable[[Bundle, BackendChoice, Any], Backend]

# What the same graph runs on at a station and here; results of GPUs are compared with the CPU's.
_CHOICES: Mapping[str, BackendChoice] = {"openvino": "openvino"}
# Of the kept map, which has 8 bits.
_MAP_ROUNDING = 0.5 / 255


@dataclass(frozen=True)
class Replay:
    """What became of a replay: the verdict on record, the one found now, and all that differs."""

    inspection_id: str
    outcome: Outcome
    verdict: str
    verdict_now: str | None
    score: float | None
    score_now: float | None
    map_difference: float | None
    reasons: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


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
            return _ended(found, "tampered", *tampered)
        if "score" not in found:
            return _ended(found, "impossible", f"refused before it was inspected: {found.get('detail')}")
        data = self._reader.image(inspection_id)
        if data is None:
            return _ended(found, "impossible", "its image was not kept, or went for the disk budget")
        try:
            bundle = self._bundle(self._models / found["recipe"] / found["version"])
            image = pixels_of(data, found["layout"], self._max_pixels)
            return self._compare(found, bundle, image)
        except (BundleError, BackendError, ImageError, UntrustedResultError, OSError) as error:
            return _ended(found, "impossible", str(error))

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

    def _compare(self, found: dict[str, Any], bundle: Bundle, image: Pixels) -> Replay:
        manifest, ran = bundle.manifest, found["backend"]
        reasons = []
        if bundle.model_sha256(ran["precision"]) != found["model_sha256"]:
            reasons.append("the version's model is another file than the one that judged")
        backend = self._backend(bundle, _CHOICES.get(ran["name"], "ort-cpu"), ran["precision"])
        resized = fit(image, manifest.input)
        (now,) = score_images(backend, [resized])
        tolerance = manifest.tolerances[ran["precision"]]
        # Both may be off by as much from what training had.
        if abs(now.score - found["score"]) > 2 * tolerance.score:
            reasons.append(f"score {now.score:.6f}, not {found['score']:.6f} (tolerance {2 * tolerance.score:g})")
        kept = self._reader.map(found["inspection_id"])
        difference = None
        if kept is not None:
            whole = whole_map(now.anomaly_map, manifest.input)
            difference = float(np.abs(decode(kept)[:, :, 0] / 255 - whole).max())
            if difference > 2 * tolerance.anomaly_map + _MAP_ROUNDING:
                reasons.append(f"the map differs by {difference:.4f} (tolerance {2 * tolerance.anomaly_map:g})")
        thresholds = manifest.thresholds.model_copy(update=found["thresholds"])
        faults = self._faults(found, bundle, image, resized)
        if (shown := [fault.split(":")[0] for fault in faults]) != [fault.split(":")[0] for fault in found["faults"]]:
            reasons.append(f"faults of the image: {shown}, not {found['faults']}")
        shape = manifest.input.height, manifest.input.width
        verdict = judge(Evidence(now.anomaly_map, now.score, faults, math.inf, 0.0), thresholds, shape)
        if verdict != found["verdict"]:
            near = min(abs(found["score"] - limit) for limit in (thresholds.review, thresholds.reject))
            within = near <= 2 * tolerance.score and Verdict.NOT_INSPECTED not in {verdict, Verdict(found["verdict"])}
            why = f": its score is within the tolerance of a threshold ({near:.6f})" if within else ""
            reasons.append(f"verdict {verdict}, not {found['verdict']}{why}")
        return Replay(
            found["inspection_id"],
            "differs" if reasons else "proven",
            found["verdict"],
            str(verdict),
            found["score"],
            now.score,
            difference,
            tuple(reasons),
        )

    def _backend(self, bundle: Bundle, choice: BackendChoice, precision: str) -> Backend:
        key = bundle.path, choice, precision
        if key not in self._backends:
            self._backends[key] = self._open(bundle, choice, precision)
        return self._backends[key]

    def _faults(self, found: dict[str, Any], bundle: Bundle, image: Pixels, resized: Pixels) -> list[str]:
        """Faults by the limits that the image was judged by; what one image does not show comes from the record."""
        limits = Limits.of(bundle.manifest)
        if found["limits"]["sha256"] != limits.sha256 and found["limits"]["source"] == "changed":
            return list(found["faults"])
        quality = limits.quality
        if found["layout"] is not None and "tensor" in found["layout"]:
            quality = quality.model_copy(update={"aspect_min": 0.0, "aspect_max": math.inf})
        frozen = [fault for fault in found["faults"] if fault.startswith("frozen:")]
        return find_faults(measure(image, resized), quality) + frozen


def _ended(found: dict[str, Any], outcome: Outcome, *reasons: str) -> Replay:
    return Replay(found["inspection_id"], outcome, found["verdict"], None, found.get("score"), None, None, reasons)
