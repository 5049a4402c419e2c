"""Adds a lower precision to a bundle: accepted on held-out simulated anomalies, or refused with the figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from service.backends.base import Backend, Scored, score_images
from service.backends.golden import golden_images
from service.backends.graphs import OnnxModel
from service.backends.ort import OrtBackend
from service.bundle.folder import Bundle, describe, require_new, write_bundle
from service.bundle.manifest import MANIFEST, BundleError, Precision, Thresholds, Tolerance
from service.bundle.signing import sign
from service.images.decoding import Pixels
from training.bundling.golden import GOLDEN_TOLERANCE
from training.bundling.lower_precision import Lowered, labelled
from training.bundling.quantize import QuantizationError, figures, require_figures

# The golden images may differ by so many times what was measured here: another CPU rounds and adds otherwise.
_MARGIN = 1.5

_Open = Callable[[OnnxModel, Bundle, Precision], Backend]


def add_first_accepted(
    bundle: Bundle,
    attempts: Iterable[Lowered],
    held_out: Sequence[Pixels],
    *,
    models: Path,
    version: str,
    seed: int,
    signing_key: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """`add_precision` with the first of a few `attempts` that is accepted; `tell` gets why another one follows.

    Raises the QuantizationError of the last.
    """
    refused: list[QuantizationError] = []
    for lowered in attempts:
        if refused:
            tell(f"{refused[-1]}; the next attempt, with less error where layers are chosen")
        try:
            return add_precision(
                *(bundle, lowered, held_out),
                models=models,
                version=version,
                seed=seed,
                signing_key=signing_key,
                refused_before=len(refused),
            )
        except QuantizationError as error:
            refused.append(error)
    raise refused[-1]


def add_precision(
    bundle: Bundle,
    lowered: Lowered,
    held_out: Sequence[Pixels],
    *,
    models: Path,
    version: str,
    seed: int,
    signing_key: Path | None = None,
    refused_before: int = 0,
) -> Bundle:
    """A new version of `bundle` that has the precision of `lowered` too.

    Every runtime of this machine that has the precision must keep the figures and the verdicts of fp32 on `held_out`
    good photos and defects simulated on them, else QuantizationError. The tolerance is measured on the golden images.
    The manifest says how many graphs the same photos had `refused_before`.
    """
    manifest, precision = bundle.manifest, lowered.precision
    require_new(models, manifest.recipe, version)
    if manifest.signature and signing_key is None:
        raise BundleError(f"{bundle.path} is signed: give the key to sign the new version with (--sign)")
    parts = labelled(held_out, held_out, seed)
    name = f"model.{precision}.onnx" if lowered.model else manifest.models["fp32"]
    contents = {file: bundle.file(file).read_bytes() for file in manifest.files if file != MANIFEST}
    fp32 = OrtBackend(OnnxModel.of(bundle, "fp32"), manifest.input, "fp32", threads=len(os.sched_getaffinity(0)))
    exact = score_images(fp32, parts.images)
    before = figures(parts, exact)
    fp32.close()
    if lowered.model:
        contents[name] = lowered.model
    record: dict[str, JsonValue] = {"fp32": dict(before), "good": len(held_out), "defects": len(parts.defects)}
    score_errors, map_errors = [0.0], [0.0]
    model = OnnxModel(name, contents[name])
    for open_it in _runtimes(precision):
        backend = open_it(model, bundle, precision)
        found = score_images(backend, parts.images)
        name_of_both = f"{precision} in {backend.name}"
        after = figures(parts, found)
        require_figures(name_of_both, before, after)
        differ = require_verdicts(name_of_both, manifest.thresholds, exact, found, good=len(held_out))
        record[backend.name] = {**after, "verdicts_differ": differ}
        goldens = score_images(backend, golden_images(bundle))
        for golden, one in zip(manifest.golden, goldens, strict=True):
            score_errors.append(abs(one.score - golden.score))
            expected = np.load(bundle.file(golden.anomaly_map), allow_pickle=False)
            map_errors.append(float(np.abs(one.anomaly_map - expected).max()))
        backend.close()
    if refused_before:
        record["refused_before"] = refused_before
    if lowered.float_layers is not None:
        record["float_layers"] = list(lowered.float_layers)
    changed = manifest.model_copy(
        update={
            "version": version,
            "created": datetime.now(UTC),
            "models": {**manifest.models, precision: name},
            "tolerances": {**manifest.tolerances, precision: _tolerance(precision, max(score_errors), max(map_errors))},
            "training": manifest.training.model_copy(update={precision: record}),
            "files": describe(contents),
            "signature": None,
        }
    )
    return write_bundle(models, sign(changed, signing_key) if signing_key else changed, contents)


def require_verdicts(
    name: str, thresholds: Thresholds, exact: Sequence[Scored], found: Sequence[Scored], *, good: int
) -> int:
    """How many verdicts are other ones than fp32's, of `good` good photos and the defects that follow them.

    Raises QuantizationError where a good photo is NG that was not, or a defect OK that was NG: a score that crosses one
    limit was beside it already, and a person looks at what lies between the two.
    """
    bands = [
        (thresholds.band(one.score), thresholds.band(other.score)) for one, other in zip(exact, found, strict=True)
    ]
    rejected = [place for place, pair in enumerate(bands[:good]) if pair[0] != "NG" and pair[1] == "NG"]
    passed = [place for place, pair in enumerate(bands) if place >= good and pair == ("NG", "OK")]
    if rejected or passed:
        place = (passed or rejected)[0]
        raise QuantizationError(
            f"{name} is refused: {len(rejected)} of {good} held-out good photos are NG that were not, {len(passed)} of "
            f"{len(bands) - good} rendered defects OK that were NG, one from {exact[place].score:.4f} to "
            f"{found[place].score:.4f} (REVIEW begins at {thresholds.review:.4f}, NG at {thresholds.reject:.4f})"
        )
    return sum(one != other for one, other in bands)


def _tolerance(precision: Precision, score: float, anomaly_map: float) -> Tolerance:
    tolerance = {
        "score": max(GOLDEN_TOLERANCE.score, _MARGIN * score),
        "anomaly_map": max(GOLDEN_TOLERANCE.anomaly_map, _MARGIN * anomaly_map),
    }
    try:
        return Tolerance(**tolerance)
    except ValueError as error:
        raise QuantizationError(
            f"{precision} is refused: on the golden images scores are off by {score:.3f}, maps by {anomaly_map:.3f}"
        ) from error


def _runtimes(precision: Precision) -> list[_Open]:
    # ONNX Runtime has no kernels of float16 for CPUs: it computes in float32 what the file rounds, layer by layer.
    found: list[_Open] = [_ort] if precision in ("int8", "fp16") else []
    if find_spec("openvino") and precision != "fp16":
        found.append(_openvino)
    if not found:
        raise QuantizationError(f"{precision} needs OpenVINO: in the checkout, pip install '.[openvino]'")
    return found


def _ort(model: OnnxModel, bundle: Bundle, precision: Precision) -> Backend:
    return OrtBackend(model, bundle.manifest.input, precision, threads=len(os.sched_getaffinity(0)))


def _openvino(model: OnnxModel, bundle: Bundle, precision: Precision) -> Backend:
    from service.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(model, bundle.manifest.input, precision, threads=len(os.sched_getaffinity(0)))
