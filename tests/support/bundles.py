"""Bundles and images for tests: a recipe whose score is the image's brightness, and copies of the demo recipe."""

from __future__ import annotations

import io
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import onnx
from fakes import brightness, wait_for
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from service.bundle.folder import Bundle, describe, write_bundle
from service.bundle.manifest import (
    MANIFEST,
    Calibration,
    Crop,
    GoldenImage,
    InputSpec,
    Manifest,
    QualityLimits,
    Thresholds,
    Tolerance,
)
from service.bundle.versions import survey

SIZE = 64


def brightness_model(
    label: str = "",
    *,
    endless_above: float | None = None,
    endless_of_none: bool = False,
    greedy: bool = False,
    score: str = "ReduceMax",
) -> bytes:
    """A graph of the contract's signature: map = mean of the channels over 255, score = its largest value, or what else
    the operator `score` makes of it.

    Another `label` gives another sha256. An image with a value above `endless_above` never comes back; where it is
    `greedy`, it takes more memory meanwhile. `endless_of_none`: a run of no images never comes back.
    """
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f", "channels"], ["m"], keepdims=0),
        helper.make_node("Div", ["m", "full"], ["anomaly_map"]),
        helper.make_node(score, ["anomaly_map", "space"], ["score"], keepdims=0),
    ]
    if endless_above is not None or endless_of_none:
        nodes = [nodes[0], *_endless(endless_above, greedy=greedy), *nodes[1:]]
        nodes[-3].input[0] = "f_again"
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", SIZE, SIZE]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        ],
        [
            helper.make_tensor("channels", TensorProto.INT64, [1], [3]),
            helper.make_tensor("space", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("full", TensorProto.FLOAT, [], [255.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model.doc_string = label
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _endless(above: float | None, *, greedy: bool) -> list[NodeProto]:
    """Nodes that give `f` as `f_again`, unless one of its values is above, or it has none: then never."""
    more = helper.make_node("Concat", ["held", "held"], ["held_more"], axis=0)
    same = helper.make_node("Identity", ["held"], ["held_more"])
    held = helper.make_tensor_value_info("held", TensorProto.FLOAT, None)
    truth = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["above"], ["go_on"]), more if greedy else same],
        "body",
        [helper.make_tensor_value_info("turn", TensorProto.INT64, []), truth, held],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held_more", TensorProto.FLOAT, None),
        ],
    )
    if above is None:
        limit = helper.make_tensor("limit_value", TensorProto.INT64, [], [1])
        asked = [helper.make_node("Size", ["f"], ["count"]), helper.make_node("Less", ["count", "limit"], ["above"])]
    else:
        limit = helper.make_tensor("limit_value", TensorProto.FLOAT, [], [above])
        largest = helper.make_node("ReduceMax", ["f"], ["largest"], keepdims=0)
        asked = [largest, helper.make_node("Greater", ["largest", "limit"], ["above"])]
    zero = helper.make_tensor("zero_value", TensorProto.FLOAT, [], [0.0])
    return [
        helper.make_node("Constant", [], ["limit"], value=limit),
        helper.make_node("Constant", [], ["zero"], value=zero),
        *asked,
        helper.make_node("Loop", ["", "above", "f"], ["f_looped"], body=body),
        # The loop's result counts for nothing, and cannot be left out.
        helper.make_node("ReduceMax", ["f_looped"], ["looped"], keepdims=0),
        helper.make_node("Mul", ["looped", "zero"], ["nothing"]),
        helper.make_node("Add", ["f", "nothing"], ["f_again"]),
    ]


def png(pixels: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".png", pixels[:, :, ::-1])
    assert done
    return data.tobytes()


def gray(value: int, size: int = SIZE) -> NDArray[np.uint8]:
    return np.full((size, size, 3), value, np.uint8)


def make_bundle(
    models: Path,
    recipe: str = "part",
    version: str = "1",
    *,
    golden_shift: float = 0.0,
    label: str = "",
    review: float = 0.3,
    reject: float = 0.6,
    keep: bytes | None = None,
    model: bytes | None = None,
    unfit: str | None = None,
    crop: Crop | None = None,
) -> Bundle:
    """A bundle whose score is the image's brightness: by default below 0.3 OK, below 0.6 REVIEW, else NG."""
    image = gray(50)
    image[10:20, 10:20] = 200
    maps, scores = brightness(image[None])
    array = io.BytesIO()
    np.save(array, maps[0])
    contents = {
        "model.onnx": model or brightness_model(label),
        "golden/0.png": png(image),
        "golden/0.npy": array.getvalue(),
    }
    if keep is not None:
        contents["keep.png"] = keep
    manifest = Manifest(
        format_version=1,
        recipe=recipe,
        version=version,
        method="draem",
        created=datetime.now(UTC),
        git_revision=None,
        input=InputSpec(height=SIZE, width=SIZE, crop=crop),
        score_formula="paper",
        thresholds=Thresholds(
            review=review,
            reject=reject,
            pixel=0.5,
            calibration=Calibration(
                target_false_reject_rate=0.01,
                good_images=100,
                false_rejects=0,
                false_reject_interval=(0.0, 0.03622),
                good_scores=[0.2] * 100,
            ),
        ),
        # A uniform gray image is fit; a black, a white or a stretched one is not.
        quality=QualityLimits(
            sharpness_min=0.0,
            contrast_min=0.0,
            brightness_min=10.0,
            brightness_max=245.0,
            dark_max=0.9,
            bright_max=0.9,
            aspect_min=0.5,
            aspect_max=2.0,
        ),
        models={"fp32": "model.onnx"},
        opset=18,
        keep_mask=None if keep is None else "keep.png",
        golden=[GoldenImage(image="golden/0.png", anomaly_map="golden/0.npy", score=float(scores[0]) + golden_shift)],
        tolerances={"fp32": Tolerance(score=1e-3, anomaly_map=1e-3)},
        unfit=unfit,
        files=describe(contents),
    )
    return write_bundle(models, manifest, contents)


def list_versions(root: Path) -> dict[str, list[str]]:
    """Recipe -> the names of its versions below `root`, oldest first, those of an unknown age last."""
    return {name: shelf.names for name, shelf in survey(root).items() if shelf.versions}


def wait_until_loaded(client: TestClient) -> None:
    """Asked of the station itself: requests would take the processor from what is waited for."""
    recipes = client.app_state["station"].recipes
    wait_for(lambda: recipes.loaded)


def demo_trained_on(parts: Path, models: Path) -> Path:
    """A copy of the demo recipe, in `models`, that says it was trained on the good photos of `parts`."""
    # Here, for Helm's tests get a process without torch.
    from training.bundling.held_out import photos_sha256
    from training.data.folders import good_images

    copied = models / "demo" / "1"
    shutil.copytree(Path(__file__).parents[2] / "models" / "demo" / "1", copied)
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["training"]["photos_sha256"] = photos_sha256(good_images(parts))
    (copied / MANIFEST).write_text(json.dumps(manifest))
    return copied
