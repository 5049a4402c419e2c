"""From a trained network to a bundle: the inspection graph, its parity with torch, thresholds, golden images."""

from __future__ import annotations

import copy
import io
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from service.backends.base import Backend
from service.backends.graphs import OnnxModel
from service.backends.ort import OrtBackend
from service.bundle.folder import Bundle, describe, write_bundle
from service.bundle.manifest import GoldenImage, InputSpec, Manifest, ScoreFormula, Thresholds, Tolerance
from service.bundle.signing import sign
from service.images.decoding import Pixels, encode
from service.images.quality import Quality, learn_limits
from training.bundling.calibration import calibrate
from training.bundling.scores import build_score

OPSET = 18
REPORT = "report.html"
# float32 sums in another order: seen up to 2e-5 on maps; ten times that already points to a wrong graph.
PARITY = 1e-3
GOLDEN_TOLERANCE = Tolerance(score=2e-3, anomaly_map=5e-3)


class ExportError(Exception):
    """The exported graph does not give what the network gives; nothing was written."""


class InspectionGraph(nn.Module):
    """uint8 RGB `(N, H, W, 3)` -> anomaly_map float32 `(N, H, W)` in [0, 1] and score float32 `(N,)`.

    Where `keep` `(H, W)` is False the map is 0.

    Everything between decoded pixels and the two numbers that count is inside, so that no client can get it wrong:
    scaling, layout, the method's network and the image score.
    """

    keep: Tensor | None

    def __init__(
        self, network: nn.Module, keep: NDArray[np.bool_] | None = None, score: ScoreFormula = "paper"
    ) -> None:
        super().__init__()
        self.network = network
        self.score = build_score(score, keep)
        self.register_buffer("keep", None if keep is None else torch.from_numpy(keep.astype(np.float32)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        # Cast first: TensorRT's parser takes no layer but Cast on uint8.
        x = image.float().permute(0, 3, 1, 2) / 255
        anomaly_map: Tensor = self.network(x)  # (N, H, W)
        if self.keep is not None:
            anomaly_map = anomaly_map * self.keep
        return anomaly_map, self.score(anomaly_map)


@dataclass(frozen=True)
class Scored:
    """Maps float32 `(N, H, W)` and scores float32 `(N,)` of N images."""

    maps: NDArray[np.float32]
    scores: NDArray[np.float32]


def score_images(backend: Backend, images: Sequence[Pixels]) -> Scored:
    """Run uint8 RGB `(H, W, 3)` images of the graph's size through a backend."""
    step = backend.max_batch_size
    parts = [backend.run(np.stack(images[i : i + step])) for i in range(0, len(images), step)]
    return Scored(np.concatenate([maps for maps, _ in parts]), np.concatenate([scores for _, scores in parts]))


def score_with_torch(graph: InspectionGraph, images: Sequence[Pixels]) -> Scored:
    """The same through torch, in float32 on the CPU: the reference for parity and the golden values."""
    with torch.inference_mode():
        parts = [graph(torch.from_numpy(np.ascontiguousarray(image))[None]) for image in images]
    return Scored(
        np.concatenate([maps.numpy() for maps, _ in parts]), np.concatenate([score.numpy() for _, score in parts])
    )


def to_onnx(graph: InspectionGraph, size: int) -> bytes:
    """ONNX bytes of the inspection graph, N dynamic, checked by onnx.

    BatchNorm is folded into the convolutions.
    """
    folded = fold_batch_norm(graph)
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        # torch 2.13 warns of its own internals while it exports.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            folded,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["anomaly_map", "score"],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            verbose=False,
        )
    if program is None:
        raise ExportError("the torch exporter returned no program")
    model = _without_traces(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes: they hold source lines and paths of the machine that trained it."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def fold_batch_norm(graph: InspectionGraph) -> InspectionGraph:
    """A copy in eval mode whose BatchNorm layers are folded into the convolutions before them: exact up to rounding."""
    folded = copy.deepcopy(graph).cpu().eval()
    for block in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for i, layer in enumerate(block):
            convolution = block[i - 1]
            if isinstance(layer, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
                block[i - 1] = fuse_conv_bn_eval(convolution, layer)
                block[i] = nn.Identity()
    return folded


def check_parity(graph: InspectionGraph, backend: Backend, images: Sequence[Pixels]) -> float:
    """Largest difference between torch and the backend on maps and scores; raises ExportError above PARITY."""
    expected, actual = score_with_torch(graph, images), score_images(backend, images)
    difference = max(
        float(np.abs(expected.maps - actual.maps).max()), float(np.abs(expected.scores - actual.scores).max())
    )
    if not difference <= PARITY:
        raise ExportError(f"the exported graph differs from torch by {difference:.2e}, more than {PARITY:.0e}")
    return difference


@dataclass(frozen=True)
class HeldOut:
    """Where thresholds and golden images come from: good photos not trained on, and rendered defects on such photos."""

    good: list[Pixels]
    defects: list[Pixels]
    quality: list[Quality]  # of all good photos, trained on or not


def export_bundle(
    network: nn.Module,
    held_out: HeldOut,
    *,
    recipe: str,
    version: str,
    models: Path,
    method: str,
    training: dict[str, JsonValue],
    false_reject_rate: float = 0.01,
    trained_on: bool = False,
    min_area: int = 0,
    keep: NDArray[np.bool_] | None = None,
    score: ScoreFormula = "paper",
    signing_key: Path | None = None,
    evaluate: Callable[[Backend, Thresholds], dict[str, JsonValue]] | None = None,
    report: Callable[[Scored, Scored, Thresholds, dict[str, JsonValue] | None], bytes] | None = None,
) -> Bundle:
    """Export, compare with torch, calibrate, evaluate through the exported graph, and write the bundle in one step.

    `trained_on` says that the good photos of `held_out` are not held out: the manifest warns of it. `keep` `(H, W)`
    tells where anomalies count, `score` names a formula of `scores`. `report` makes the bundle's report.html of
    the held-out good photos' and the rendered defects' maps and scores, the thresholds and what `evaluate` gave.

    Raises ExportError where ONNX Runtime and torch disagree, BundleError where the version exists already.
    """
    size = held_out.good[0].shape[0]
    spec = InputSpec(height=size, width=size)
    graph = InspectionGraph(network, keep, score).eval()
    data = to_onnx(graph, size)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        model.write_bytes(data)
        backend = OrtBackend(OnnxModel.read(model), spec, "fp32", threads=torch.get_num_threads())
        parity = check_parity(graph, backend, [*held_out.good[:4], *held_out.defects[:4]])
        good = score_images(backend, held_out.good)
        defects = score_images(backend, held_out.defects)
        thresholds = calibrate(
            good.scores,
            good.maps,
            defects.scores,
            false_reject_rate=false_reject_rate,
            trained_on=trained_on,
            min_area=min_area,
        )
        metrics = evaluate(backend, thresholds) if evaluate else None
        backend.close()
    golden, files = _golden_files(graph, _golden_choice(held_out, good.scores, defects.scores))
    contents = {"model.onnx": data, **files}
    if report:
        contents[REPORT] = report(good, defects, thresholds, metrics)
    if keep is not None:
        contents["keep.png"] = encode(np.where(keep, 255, 0).astype(np.uint8), ".png")
    manifest = Manifest(
        format_version=1,
        recipe=recipe,
        version=version,
        method=method,
        created=datetime.now(UTC),
        git_revision=_git_revision(),
        input=spec,
        score_formula=score,
        thresholds=thresholds,
        quality=learn_limits(held_out.quality),
        models={"fp32": "model.onnx"},
        opset=OPSET,
        keep_mask=None if keep is None else "keep.png",
        golden=golden,
        tolerances={"fp32": GOLDEN_TOLERANCE},
        metrics=metrics,
        training={**training, "export_parity": parity, "torch": torch.__version__},
        files=describe(contents),
    )
    if signing_key is not None:
        manifest = sign(manifest, signing_key)
    return write_bundle(models, manifest, contents)


def _golden_choice(
    held_out: HeldOut, good_scores: NDArray[np.float32], defect_scores: NDArray[np.float32]
) -> list[Pixels]:
    """A typical good part, the strongest defect and a middling one: flat maps alone would prove little."""
    chosen = [held_out.good[int(np.argsort(good_scores)[len(good_scores) // 2])]]
    if held_out.defects:
        order = np.argsort(defect_scores)
        chosen += [held_out.defects[int(order[-1])], held_out.defects[int(order[len(order) // 2])]]
    return chosen


def _golden_files(graph: InspectionGraph, images: list[Pixels]) -> tuple[list[GoldenImage], dict[str, bytes]]:
    scored = score_with_torch(graph, images)
    golden: list[GoldenImage] = []
    files: dict[str, bytes] = {}
    for i, image in enumerate(images):
        entry = GoldenImage(
            image=f"golden/{i}.png", anomaly_map=f"golden/{i}.npy", score=min(1.0, float(scored.scores[i]))
        )
        array = io.BytesIO()
        np.save(array, scored.maps[i], allow_pickle=False)
        files[entry.image], files[entry.anomaly_map] = encode(image, ".png"), array.getvalue()
        golden.append(entry)
    return golden, files


def _git_revision() -> str | None:
    """Revision of the code that trained; None outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
