"""What an inspection that is repeated proves: the same verdict, or all that differs from the record."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from service.backends.base import Backend, score_images
from service.bundle.folder import Bundle
from service.images.cropping import whole_map
from service.images.decoding import Pixels, decode
from service.images.quality import find_faults, measure
from service.images.resizing import fit
from service.station.limits import Limits
from service.station.verdicts import Evidence, Verdict, judge

Outcome = Literal["proven", "differs", "tampered", "impossible"]

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


def ended(found: dict[str, Any], outcome: Outcome, *reasons: str) -> Replay:
    """A replay that ended before the image was inspected again."""
    return Replay(found["inspection_id"], outcome, found["verdict"], None, found.get("score"), None, None, reasons)


def prove(found: dict[str, Any], kept: bytes | None, bundle: Bundle, image: Pixels, backend: Backend) -> Replay:
    """Inspect `image` again as the record `found` says it was, and compare, with the `kept` map where there is one."""
    manifest, ran = bundle.manifest, found["backend"]
    reasons = []
    if bundle.model_sha256(ran["precision"]) != found["model_sha256"]:
        reasons.append("the version's model is another file than the one that judged")
    resized = fit(image, manifest.input)
    (now,) = score_images(backend, [resized])
    tolerance = manifest.tolerances[ran["precision"]]
    # Both may be off by as much from what training had.
    if abs(now.score - found["score"]) > 2 * tolerance.score:
        reasons.append(f"score {now.score:.6f}, not {found['score']:.6f} (tolerance {2 * tolerance.score:g})")
    difference = None
    if kept is not None:
        whole = whole_map(now.anomaly_map, manifest.input)
        difference = float(np.abs(decode(kept)[:, :, 0] / 255 - whole).max())
        if difference > 2 * tolerance.anomaly_map + _MAP_ROUNDING:
            reasons.append(f"the map differs by {difference:.4f} (tolerance {2 * tolerance.anomaly_map:g})")
    thresholds = manifest.thresholds.model_copy(update=found["thresholds"])
    faults = _faults(found, bundle, image, resized)
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


def _faults(found: dict[str, Any], bundle: Bundle, image: Pixels, resized: Pixels) -> list[str]:
    """Faults by the limits that the image was judged by; what one image does not show comes from the record."""
    limits = Limits.of(bundle.manifest)
    if found["limits"]["sha256"] != limits.sha256 and found["limits"]["source"] == "changed":
        return list(found["faults"])
    quality = limits.quality
    if found["layout"] is not None and "tensor" in found["layout"]:
        quality = quality.model_copy(update={"aspect_min": 0.0, "aspect_max": math.inf})
    frozen = [fault for fault in found["faults"] if fault.startswith("frozen:")]
    return find_faults(measure(image, resized), quality) + frozen
