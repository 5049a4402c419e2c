"""Adds a lower precision to a bundle: accepted on held-out simulated anomalies, or refused with the figures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from service.backends.base import Backend
from service.backends.golden import golden_images
from service.backends.graphs import OnnxModel
from service.backends.ort import OrtBackend
from service.bundle.folder import Bundle, describe, write_bundle
from service.bundle.manifest import MANIFEST, BundleError, Precision, Tolerance
from service.bundle.signing import sign
from service.images.decoding import Pixels
from training.bundling.export import GOLDEN_TOLERANCE
from training.bundling.quantize import (
    Activations,
    Labelled,
    QuantizationError,
    Quantized,
    figures,
    quantize,
    require_figures,
)
from training.bundling.recipe import simulate_defects

# Ranges come from so many good photos, and defects on so many of them.
_CALIBRATION_PHOTOS, _CALIBRATION_DEFECTS = 40, 6
# Layers are chosen on so many others, with a defect of every kind on so many of these.
_CHOICE_PHOTOS, _CHOICE_DEFECTS = 24, 8
# The golden images may differ by so many times what was measured here: another CPU rounds and adds otherwise.
_MARGIN = 1.5

_Open = Callable[[Path, Bundle, Precision], Backend]


def quantize_for(bundle: Bundle, trained_on: Sequence[Pixels], activations: Activations, *, seed: int) -> Quantized:
    """The bundle's graph in INT8; ranges and float layers come from photos that it was trained on."""
    ranged, chosen = list(trained_on[:_CALIBRATION_PHOTOS]), list(trained_on[_CALIBRATION_PHOTOS:][:_CHOICE_PHOTOS])
    # A small folder has to serve twice.
    chosen = chosen or ranged
    calibration = ranged + [one.picture for one in simulate_defects(ranged[:_CALIBRATION_DEFECTS], seed + 1)]
    model = bundle.file(bundle.manifest.models["fp32"]).read_bytes()
    return quantize(model, calibration, _labelled(chosen, chosen[:_CHOICE_DEFECTS], seed + 2), activations)


def add_precision(
    bundle: Bundle,
    precision: Literal["bf16", "int8"],
    held_out: Sequence[Pixels],
    *,
    models: Path,
    version: str,
    seed: int,
    quantized: Quantized | None = None,
    signing_key: Path | None = None,
) -> Bundle:
    """A new version of `bundle` that has `precision` too: `quantized`, or the fp32 graph for a runtime that rounds it.

    Every runtime of this machine that has the precision must keep the figures of fp32 on `held_out` good photos and
    defects simulated on them, else QuantizationError. The tolerance is measured on the golden images.
    """
    manifest = bundle.manifest
    if manifest.signature and signing_key is None:
        raise BundleError(f"{bundle.path} is signed: give the key to sign the new version with (--sign)")
    parts = _labelled(held_out, held_out, seed)
    name = f"model.{precision}.onnx" if quantized else manifest.models["fp32"]
    contents = {file: bundle.file(file).read_bytes() for file in manifest.files if file != MANIFEST}
    fp32 = OrtBackend(OnnxModel.of(bundle, "fp32"), manifest.input, "fp32", threads=os.cpu_count() or 1)
    before = figures(parts, list(map(_single(fp32), parts.images)))
    fp32.close()
    if quantized:
        contents[name] = quantized.model
    record: dict[str, JsonValue] = {"fp32": dict(before), "good": len(held_out), "defects": len(parts.defects)}
    score_errors, map_errors = [0.0], [0.0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(contents[name])
        for open_it in _runtimes(precision):
            backend = open_it(file, bundle, precision)
            run = _single(backend)
            after = figures(parts, list(map(run, parts.images)))
            require_figures(f"{precision} in {backend.name}", before, after)
            record[backend.name] = dict(after)
            for golden, image in zip(manifest.golden, golden_images(bundle), strict=True):
                anomaly_map, score = run(image)
                score_errors.append(abs(score - golden.score))
                expected = np.load(bundle.file(golden.anomaly_map), allow_pickle=False)
                map_errors.append(float(np.abs(anomaly_map - expected).max()))
            backend.close()
    if quantized:
        record["float_layers"] = list(quantized.float_layers)
    changed = manifest.model_copy(
        update={
            "version": version,
            "created": datetime.now(UTC),
            "models": {**manifest.models, precision: name},
            "tolerances": {**manifest.tolerances, precision: _tolerance(precision, max(score_errors), max(map_errors))},
            "training": {**manifest.training, precision: record},
            "files": describe(contents),
            "signature": None,
        }
    )
    return write_bundle(models, sign(changed, signing_key) if signing_key else changed, contents)


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
    found: list[_Open] = [_ort] if precision == "int8" else []
    if find_spec("openvino"):
        found.append(_openvino)
    if not found:
        raise QuantizationError(f"{precision} needs OpenVINO: in the checkout, pip install '.[openvino]'")
    return found


def _ort(file: Path, bundle: Bundle, precision: Precision) -> Backend:
    return OrtBackend(OnnxModel.read(file), bundle.manifest.input, precision, threads=os.cpu_count() or 1)


def _openvino(file: Path, bundle: Bundle, precision: Precision) -> Backend:
    from service.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(OnnxModel.read(file), bundle.manifest.input, precision, threads=os.cpu_count() or 1)


def _labelled(good: Sequence[Pixels], damaged: Sequence[Pixels], seed: int) -> Labelled:
    rendered = simulate_defects(list(damaged), seed)
    return Labelled(good, [one.picture for one in rendered], [one.mask for one in rendered])


def _single(backend: Backend) -> Callable[[Pixels], tuple[NDArray[np.float32], float]]:
    def run(image: Pixels) -> tuple[NDArray[np.float32], float]:
        maps, scores = backend.run(image[None])
        return maps[0], float(scores[0])

    return run
