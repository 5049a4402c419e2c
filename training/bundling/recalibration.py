"""Thresholds from reviewed parts of the line, without a training: a new version of a bundle with the same graph.

People look at doubtful parts and at some that passed, so reviewed good parts score higher than good parts do. Each
stands for as many as its review was drawn from: the parts of its version and verdict, over those of them reviewed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from service.backends.base import Backend, Scored, score_images
from service.bundle.folder import Bundle, describe, require_new, write_bundle
from service.bundle.manifest import BundleError, Calibration, Thresholds
from service.bundle.signing import load_private_key, sign
from service.comparing.page import to_html
from service.comparing.versions import Contender, Sample, compare
from training.bundling.calibration import calibrate, counts_like, why_unfit
from training.bundling.held_out import simulate_defects
from training.bundling.reviewed import ReviewedLine, require_enough, score_reviewed, seen_by
from training.data.recorded import ReviewedPart, Stratum
from training.evaluation.metrics import clopper_pearson
from training.evaluation.report import REPORT

# Confirmed defects from which on they, and not rendered ones, tell what escapes.
_ENOUGH_DEFECTS = 20
# Of a manifest's metrics, what depends on thresholds: it was of those before.
_OF_THRESHOLDS = ("good_ok_review_ng", "defects_ok_review_ng", "false_reject_", "escape_", "per_")


@dataclass(frozen=True)
class Recalibration:
    """The new version, its thresholds' sentences, and how many confirmed defects pass that did not pass before."""

    bundle: Bundle
    notes: list[str]
    new_escapes: int


def recalibrate(
    bundle: Bundle,
    parts: Sequence[ReviewedPart],
    inspected: Counter[Stratum],
    backend: Backend,
    *,
    false_reject_rate: float,
    most_escapes: float,
    version: str,
    signing_key: Path | None = None,
) -> Recalibration:
    """Write a version with thresholds from `parts`; `inspected` is how many there were of each stratum.

    Raises RecalibrationError where the parts cannot show the rate that is promised, BundleError where the version
    exists or is to be signed.
    """
    manifest = bundle.manifest
    require_new(bundle.path.parents[1], manifest.recipe, version)
    if manifest.signature and signing_key is None:
        raise BundleError(f"{bundle.path} is signed: give the key to sign the new version with (--sign)")
    key = None if signing_key is None else load_private_key(signing_key)
    learned = set(manifest.training.line_parts or ())
    line = score_reviewed(bundle, [part for part in parts if part.name not in learned], inspected, backend)
    require_enough(line, false_reject_rate)
    rendered = simulate_defects(seen_by(bundle, line.good[:20]), seed=0)
    simulated = score_images(backend, [one.picture for one in rendered])
    thresholds = calibrate(
        line.good_scored,
        simulated,
        false_reject_rate=false_reject_rate,
        min_area=manifest.thresholds.min_area,
        weights=line.weights,
        masks=[one.mask for one in rendered],
    )
    # Each tells what escapes; too many of the one are not made good by the other.
    unfit = why_unfit(_escapes(simulated, thresholds), most_escapes)
    if len(line.defects_scored) >= _ENOUGH_DEFECTS:
        known = _escapes(line.defects_scored, thresholds).model_copy(update={"defect_source": "labelled"})
        thresholds = thresholds.model_copy(update={"calibration": known})
        unfit = unfit or why_unfit(known, most_escapes)
    notes = _notes(line, thresholds, manifest.thresholds, simulated)
    contenders = [
        Contender(name, backend, manifest.input, limits, manifest.quality)
        for name, limits in ((manifest.version, manifest.thresholds), (version, thresholds))
    ]
    samples = [Sample(part.name, part.pixels, "defect" if part.kind else "good") for part in parts]
    compared = compare(manifest.recipe, samples, *contenders)
    warnings = [text for text in (thresholds.calibration.warning, unfit) if text]
    title = f"{version}: thresholds from reviewed parts"
    contents = {name: bundle.read(name) for name in manifest.files} | {
        REPORT: to_html(compared, title, notes, warnings)
    }
    record = {"of": manifest.version, "good_parts": len(line.good), "count_like": counts_like(line.weights)}
    changed = manifest.model_copy(
        update={
            "version": version,
            "created": datetime.now(UTC),
            "thresholds": thresholds,
            "unfit": unfit,
            "metrics": _without_verdicts(manifest.metrics),
            "training": manifest.training.model_copy(update={"recalibrated": record}),
            "files": describe(contents),
            "signature": None,
        }
    )
    signed = sign(changed, signing_key) if key and signing_key else changed
    return Recalibration(write_bundle(bundle.path.parents[1], signed, contents), notes, len(compared.new_escapes))


def _notes(line: ReviewedLine, thresholds: Thresholds, before: Thresholds, simulated: Sequence[Scored]) -> list[str]:
    calibration = thresholds.calibration
    low, high = calibration.false_reject_interval
    notes = [
        f"Promised: at most {calibration.target_false_reject_rate:.3g} of the good parts are rejected, as long as they "
        f"look like these. {len(line.good)} reviewed good parts tell it; those that passed stand for the others that "
        f"passed, so that they count like {counts_like(line.weights)} drawn from the line. The 95 % interval of the "
        f"rate is {low:.3g} to {high:.3g}; the same parts set the thresholds, so only new ones confirm it.",
        f"Rendered defects on these parts: {_before_and_now(simulated, before, thresholds)} They chose no threshold.",
    ]
    if line.defects_scored:
        notes.append(f"Confirmed defects: {_before_and_now(line.defects_scored, before, thresholds)}")
    if line.unfit_images:
        notes.append(f"{line.unfit_images} reviewed parts set nothing: their images are not fit to be judged.")
    return notes


def _before_and_now(defects: Sequence[Scored], before: Thresholds, thresholds: Thresholds) -> str:
    was, now = _escapes(defects, before), _escapes(defects, thresholds)
    low, high = now.escape_interval
    return (
        f"{was.escapes} of {was.defect_images} passed as OK, now {now.escapes} pass (95 % interval {low:.3g} to "
        f"{high:.3g})."
    )


def _escapes(defects: Sequence[Scored], thresholds: Thresholds) -> Calibration:
    escapes = sum(thresholds.band(one.score) == "OK" for one in defects)
    interval = clopper_pearson(escapes, len(defects))
    counted = {"defect_images": len(defects), "escapes": escapes, "escape_interval": interval}
    return thresholds.calibration.model_copy(update=counted)


def _without_verdicts(metrics: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    if metrics is None:
        return None
    return {name: value for name, value in metrics.items() if not name.startswith(_OF_THRESHOLDS)}
