"""Tiles: cut and joined inside the graph, so that whatever holds for a graph holds for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import wait_until_loaded
from fastapi.testclient import TestClient
from torch import Tensor, nn

from service.app import create_app
from service.bundle.folder import read_bundle
from service.bundle.manifest import Crop, InputSpec
from service.settings import Settings
from training.bundling.graph import InspectionGraph, score_with_torch
from training.bundling.onnx import check_parity, opened, to_onnx
from training.bundling.qdq import observe, to_qdq
from training.bundling.quantize import layers_of, runner
from training.bundling.triton import triton_config
from training.commands import run as main
from training.data.demo_parts import write_dataset
from training.networks.anomaly_map import AnomalyMap
from training.networks.compact import CompactDraem
from training.settings import RecipeSettings
from training.tiles import Grid


class Bright(nn.Module):
    """The map is the brightness, but for the rim of what the network sees, which is dark."""

    def forward(self, x: Tensor) -> Tensor:
        rim = torch.ones((1, 32, 32))
        rim[:, 2:-2, 2:-2] = 0
        return x.mean(dim=1) * (1 - rim)


@pytest.mark.parametrize(("tiles", "overlap"), [("1x1", 8), ("1x2", 0), ("3x1", 16), ("2x3", 8)])
def test_a_map_joined_from_tiles_is_that_of_the_whole(tiles: str, overlap: int) -> None:
    grid = Grid.of(tiles, 32, overlap)
    pictures = torch.rand((3, 3, grid.height, grid.width), generator=torch.Generator().manual_seed(0))
    cut = grid.cut(pictures)
    assert cut.shape == (3 * grid.count, 3, 32, 32)
    assert torch.equal(grid.join(cut[:, 0]), pictures[:, 0])


def test_of_two_tiles_that_overlap_the_hotter_counts_wherever_a_defect_lies() -> None:
    grid = Grid.of("2x2", 32, 8)
    found = grid.over(Bright())(torch.ones((1, 3, grid.height, grid.width)))[0]
    # Rims inside the image are seen by a neighbour; those of the image itself by nobody.
    assert (found[2:-2, 2:-2] == 1).all()
    assert (found[:2] == 0).all()


def test_one_score_and_one_map_leave_the_exported_graph_for_any_number_of_pictures() -> None:
    grid = Grid.of("2x3", 32, 8)
    graph = InspectionGraph(grid.over(Bright()), score="peak").eval()
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 200, (3, grid.height, grid.width, 3), np.uint8))
    pictures[1][30:34, 40:44] = 255
    with opened(to_onnx(graph, grid.height, grid.width), InputSpec(height=grid.height, width=grid.width)) as backend:
        assert check_parity(graph, backend, pictures) < 1e-6
        maps, scores = backend.run(np.stack(pictures))
    assert maps.shape == (3, grid.height, grid.width)
    assert scores.argmax() == 1
    assert maps[1, 30:34, 40:44].min() == 1
    assert score_with_torch(graph, pictures)[1].score == pytest.approx(float(scores[1]))


def test_a_tiled_network_in_int8_is_that_of_its_tiles_in_int8() -> None:
    torch.manual_seed(0)
    grid, network = Grid.of("1x2", 32, 0), AnomalyMap(CompactDraem(4, 4)).eval()
    one, both = (
        to_onnx(InspectionGraph(made).eval(), 32, width) for made, width in ((network, 32), (grid.over(network), 64))
    )
    picture = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    halves = [np.ascontiguousarray(picture[:, :32]), np.ascontiguousarray(picture[:, 32:])]
    quantized = to_qdq(both, observe(both, [picture]), list(layers_of(both)), "uint8")
    alone = to_qdq(one, observe(one, halves), list(layers_of(one)), "uint8")
    expected = np.hstack([runner(alone)(half).anomaly_map for half in halves])
    np.testing.assert_allclose(runner(quantized)(picture).anomaly_map, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tiles": "2"}, "ROWSxCOLUMNS"),
        ({"tiles": "0x2"}, "ROWSxCOLUMNS"),
        ({"tiles": "9x9"}, "at most 64"),
        ({"tiles": "2x2", "overlap": 160}, "at most half"),
        ({"tiles": "8x1", "size": 1024}, "smaller size or fewer tiles"),
    ],
)
def test_tiles_that_make_no_grid_are_refused_with_the_remedy(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecipeSettings(**changes)  # type: ignore[arg-type]


def test_a_method_of_positions_refuses_tiles_before_it_reads_a_photo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", good=4, test_good=1, defects_per_kind=0, seed=0)
    flags = ["--data", str(tmp_path / "data" / "train" / "good"), "--run", str(tmp_path / "run")]
    assert main(["train", "--recipe", "part", "--method", "padim", "--tiles", "2x2", *flags]) != 0
    assert "leave --tiles out" in capsys.readouterr().err


@pytest.mark.slow
def test_region_and_tiles_from_training_to_a_verdict(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", good=6, test_good=1, defects_per_kind=0, seed=0)
    (tmp_path / "region.json").write_text("[[[0.2, 0.25], [0.9, 0.25], [0.9, 0.75], [0.3, 0.75]]]")
    place = ["--data", str(tmp_path / "data" / "train" / "good"), "--models", str(tmp_path / "models")]
    look = ["--region", str(tmp_path / "region.json"), "--size", "32", "--tiles", "1x2", "--overlap", "8"]
    tiny = ["--preset", "quick", "--reconstructive-width", "4", "--discriminative-width", "4", "--steps", "2"]
    recipe = ["--recipe", "part", "--version", "1", "--run", str(tmp_path / "run"), "--most-escapes", "1"]
    assert main(["train", *recipe, *place, *look, *tiny, "--batch", "2"]) == 0
    bundle = read_bundle(tmp_path / "models" / "part" / "1")
    assert (bundle.manifest.input.height, bundle.manifest.input.width) == (32, 56)
    assert bundle.manifest.input.crop == Crop(left=0.2, top=0.25, width=0.7, height=0.5)
    # The box around a region that is no rectangle is masked, and the photo's own shape is what a photo must have.
    assert bundle.manifest.keep_mask is not None
    assert bundle.manifest.quality.aspect_max == pytest.approx(1.05)
    config = triton_config(bundle, "fp32", 1)
    assert "dims: [ 32, 56, 3 ]" in config
    assert "crop" in config
    photo = next((tmp_path / "data" / "train" / "good").iterdir()).read_bytes()
    app = create_app(Settings(records_dir=None, models_dir=tmp_path / "models", backend="ort-cpu", precision="fp32"))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        assert client.patch("/recipes/part/limits", json={"review": 0.0, "reject": 0.0}).status_code == 200
        reply = client.post("/inspect", content=photo, headers={"Content-Type": "image/png"}).json()
    assert (reply["verdict"], reply["inspected"]) == ("NG", {"x": 51, "y": 64, "width": 180, "height": 128})
    assert reply["regions"]
    for region in reply["regions"]:
        assert 51 <= region["x"] < region["x"] + region["width"] <= 231
        assert 64 <= region["y"] < region["y"] + region["height"] <= 192
