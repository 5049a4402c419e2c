"""A bundle's graph in a model repository of NVIDIA's Triton Inference Server, for whoever outgrows one service.

The graph holds pre- and post-processing, so the same ONNX file gives the same maps and scores there. Verdicts, image
quality, golden checks and records are the service's; the thresholds go along as the model's parameters.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from service.bundle.files import replace_file
from service.bundle.folder import Bundle
from service.bundle.manifest import MANIFEST, Precision
from training.bundling.onnx import ExportError

CONFIG = "config.pbtxt"

# A batch is what is queued when the device is free, as in the service: no timer waits for more. What comes while
# max_queue_size requests wait is refused; a request that says how long it may wait (`timeout`) is refused after that.
_CONFIG = """\
name: {recipe}
backend: "onnxruntime"
max_batch_size: {max_batch}
input [
  {{ name: "image" data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ] }}
]
output [
  {{ name: "anomaly_map" data_type: TYPE_FP32 dims: [ {height}, {width} ] }},
  {{ name: "score" data_type: TYPE_FP32 dims: [ 1 ] reshape {{ shape: [ ] }} }}
]
dynamic_batching {{
  default_queue_policy {{ allow_timeout_override: true max_queue_size: 64 }}
}}
model_warmup [
  {{
    name: "one"
    batch_size: 1
    inputs {{ key: "image" value {{ data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ] zero_data: true }} }}
  }}
]
"""
_PARAMETER = "parameters {{ key: {key} value {{ string_value: {value} }} }}\n"


def triton_config(bundle: Bundle, precision: Precision, max_batch: int) -> str:
    """`config.pbtxt`: Triton's ModelConfig in protobuf's text format.

    Thresholds, recipe version and the graph's sha256 are parameters, which `GET /v2/models/RECIPE/config` shows.
    """
    manifest = bundle.manifest
    thresholds = manifest.thresholds
    config = _CONFIG.format(
        recipe=json.dumps(manifest.recipe),
        max_batch=max_batch,
        height=manifest.input.height,
        width=manifest.input.width,
    )
    parameters: dict[str, str | float] = {
        "recipe_version": manifest.version,
        "model_sha256": bundle.model_sha256(precision),
        "threshold_review": thresholds.review,
        "threshold_reject": thresholds.reject,
        "threshold_pixel": thresholds.pixel,
        "min_area": thresholds.min_area,
    }
    if crop := manifest.input.crop:
        # Cutting it out is the client's, as resizing is.
        parameters["crop"] = json.dumps(crop.model_dump())
    return config + "".join(
        _PARAMETER.format(key=json.dumps(key), value=json.dumps(str(value))) for key, value in parameters.items()
    )


def export_triton(bundle: Bundle, repository: Path, *, precision: Precision = "fp32", max_batch: int = 8) -> Path:
    """Add a bundle to a Triton model repository and return the folder `repository/RECIPE/NUMBER` of its graph.

    Triton's versions are numbers and it serves the highest: the next one is taken, unless the highest is this bundle
    already. The manifest lies beside the graph and tells which version of the recipe a number is.

    Raises ExportError where the bundle has no graph of that precision, OSError where the repository cannot be written.
    """
    manifest = bundle.manifest
    if precision not in manifest.models:
        raise ExportError(f"{bundle.path}: no {precision} graph in it: choose {', '.join(manifest.models)}")
    model = repository / manifest.recipe
    model.mkdir(parents=True, exist_ok=True)
    # Triton ignores folders that are no numbers: a half-written one is never served.
    temporary = Path(tempfile.mkdtemp(prefix=".new.", dir=model))
    try:
        shutil.copyfile(bundle.path / manifest.models[precision], temporary / "model.onnx")
        shutil.copyfile(bundle.path / MANIFEST, temporary / MANIFEST)
        highest = max((int(path.name) for path in model.iterdir() if path.name.isdecimal()), default=0)
        folder = model / str(highest)
        if not _same_files(temporary, folder):
            folder = model / str(highest + 1)
            temporary.chmod(0o755)
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    replace_file(model / CONFIG, triton_config(bundle, precision, max_batch))
    return folder


def _same_files(one: Path, other: Path) -> bool:
    return all(
        (other / name).is_file() and (one / name).read_bytes() == (other / name).read_bytes()
        for name in ("model.onnx", MANIFEST)
    )
