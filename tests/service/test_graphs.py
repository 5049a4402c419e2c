"""What was hashed is what is loaded: by every runtime, for golden images and for the keep mask."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import brightness_model, gray, make_bundle, png
from fakes import brightness
from fastapi.testclient import TestClient
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data
from replies import assert_problem

from service.backends.base import BackendChoice, BackendError
from service.backends.golden import GoldenError, golden_images
from service.backends.graphs import OnnxModel
from service.backends.opening import open_backend
from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import BundleError


def _swapped(bundle: Bundle, name: str, data: bytes) -> Bundle:
    """The bundle as it was read, with a file that somebody replaced since."""
    verified = read_bundle(bundle.path)
    (bundle.path / name).write_bytes(data)
    return verified


@pytest.mark.parametrize("choice", ["ort-cpu", "openvino", "auto"])
@pytest.mark.parametrize("same_size", [True, False])
def test_a_model_that_is_replaced_after_it_was_hashed_is_not_loaded(
    tmp_path: Path, choice: BackendChoice, same_size: bool
) -> None:
    bundle = make_bundle(tmp_path, label="one")
    verified = _swapped(bundle, "model.onnx", brightness_model("two" if same_size else "longer"))
    with pytest.raises((BundleError, BackendError), match=r"model\.onnx: .* of the manifest|sha256 differs"):
        open_backend(verified, choice, threads=1, cache=tmp_path / "cache")


def test_a_model_that_is_replaced_after_it_was_read_changes_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    backend = open_backend(bundle, "ort-cpu", threads=2)
    bundle.file("model.onnx").write_bytes(b"")
    images = gray(51)[None]
    np.testing.assert_allclose(backend.run(images)[1], brightness(images)[1], atol=1e-6)


@pytest.mark.parametrize("name", ["golden/0.png", "golden/0.npy"])
def test_a_golden_file_that_is_replaced_is_compared_with_nothing(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path)
    verified = _swapped(bundle, name, png(gray(7)))
    with pytest.raises((BundleError, GoldenError), match=r"manifest"):
        verified.read(name)
    if name.endswith("png"):
        with pytest.raises(GoldenError, match="golden image cannot be read"):
            golden_images(verified)


def test_pictures_of_a_recipe_are_those_of_its_manifest(client: TestClient, models: Path) -> None:
    file = models / "part" / "1" / "golden" / "0.png"
    assert client.get("/recipes/part/golden/0.png").content == file.read_bytes()
    file.write_bytes(png(gray(7)))
    assert_problem(client.get("/recipes/part/golden/0.png"), 404, "not_found")


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    model = _with_nested(numpy_helper.from_array(np.zeros(4, np.float32), "w"))[0]
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0, convert_attribute=True)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BackendError, match=r"model\.onnx: its weights are in another file.*as one file"):
        OnnxModel.read(tmp_path / "model.onnx")


def _with_nested(tensor: TensorProto) -> list[onnx.ModelProto]:
    """Models that hold `tensor` in each place where a graph can hold one."""
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [value])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    sparse = onnx.SparseTensorProto()
    sparse.values.CopyFrom(tensor)
    graph = helper.make_graph([], "g", [], [value])
    graph.sparse_initializer.append(sparse)
    opset = [helper.make_opsetid("", 18)]
    function = helper.make_function("here", "f", [], ["y"], [constant], opset)
    graphs = [helper.make_graph([constant], "g", [], [value]), helper.make_graph([branch], "g", [], [value]), graph]
    models = [helper.make_model(found, opset_imports=opset) for found in graphs]
    models.append(helper.make_model(helper.make_graph([], "g", [], [value]), opset_imports=opset, functions=[function]))
    return models


def test_weights_in_another_file_are_found_wherever_they_hide() -> None:
    inside = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../../secret.bin")
    for harmless, harmful in zip(_with_nested(inside), _with_nested(outside), strict=True):
        OnnxModel("m", harmless.SerializeToString())
        with pytest.raises(BackendError, match="in another file"):
            OnnxModel("m", harmful.SerializeToString())


def test_a_program_in_another_file_is_refused() -> None:
    node = helper.make_node("EPContext", [], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="p.engine")
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    with pytest.raises(BackendError, match="a node runs a program in another file"):
        OnnxModel("m", helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("data", [b"no model", b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 20, b"\x3a\x05\x01"])
def test_what_is_no_onnx_file_is_named(data: bytes) -> None:
    with pytest.raises(BackendError, match="m: not an ONNX file"):
        OnnxModel("m", data)
