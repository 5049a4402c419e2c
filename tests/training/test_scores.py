from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn
from torch.nn import functional

from service.bundle.manifest import ScoreFormula
from training.bundling.graph import InspectionGraph
from training.bundling.onnx import to_onnx
from training.bundling.scores import TOP_SHARE, WINDOWS, _means, build_score

FORMULAS = get_args(ScoreFormula)
SIZE = 256
# What TensorRT's parser takes as it is; TopK up to 3840.
ALLOWED = {"AveragePool", "Clip", "Concat", "Constant", "Div", "Max", "Min", "Mul", "ReduceMax", "ReduceMean"}
SHAPES = {"Reshape", "Squeeze", "TopK", "Transpose", "Unsqueeze"}


class Bright(nn.Module):
    """A network that finds exactly the white pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 0] > 0.5).float()


def square(side: int, top: int, left: int, size: int = SIZE) -> Tensor:
    anomaly_map = torch.zeros((1, size, size))
    anomaly_map[0, top : top + side, left : left + side] = 1
    return anomaly_map


def score(formula: ScoreFormula, anomaly_map: Tensor, keep: np.ndarray | None = None) -> float:
    return float(build_score(formula, keep)(anomaly_map))


def test_the_papers_score_has_the_known_ceilings() -> None:
    corner, edge = square(11, 0, 0), square(21, 0, 100)
    edge[0, 11:] = 0
    assert score("paper", corner) == pytest.approx(0.274, abs=5e-4)
    assert score("paper", edge) == pytest.approx(0.524, abs=5e-4)
    for side, ceiling in ((5, 0.057), (10, 0.227), (15, 0.510), (21, 1.0)):
        assert score("paper", square(side, 100, 100)) == pytest.approx(ceiling, abs=5e-4)


@pytest.mark.parametrize("formula", ["mean", "windows", "top"])
def test_the_others_score_a_defect_at_the_border_like_one_inside(formula: ScoreFormula) -> None:
    for top, left in ((0, 0), (0, 100), (235, 235), (100, 0)):
        assert score(formula, square(21, top, left)) == pytest.approx(1.0, abs=1e-6)


def test_small_defects_count_what_their_window_counts() -> None:
    for side, weight in WINDOWS.items():
        assert score("windows", square(side, 100, 100)) == pytest.approx(weight, abs=1e-6)
    assert score("top", square(5, 100, 100)) == pytest.approx(0.25, abs=1e-6)
    assert score("top", square(10, 0, 0)) == pytest.approx(1.0, abs=1e-6)


def test_top_takes_the_same_share_of_any_image() -> None:
    assert round(TOP_SHARE * SIZE**2) == 100
    assert score("top", square(20, 50, 50, size=512)) == pytest.approx(1.0)
    assert score("top", square(10, 50, 50, size=512)) == pytest.approx(0.25)
    assert score("top", torch.ones((1, 32, 32))) == pytest.approx(1.0), "two pixels"


@pytest.mark.parametrize("formula", FORMULAS)
@given(
    values=arrays(np.float32, (2, 32, 32), elements=st.floats(0, 1, width=32)),
    more=arrays(np.float32, (2, 32, 32), elements=st.floats(0, 1, width=32)),
    keep=st.none() | arrays(np.bool_, (32, 32)),
)
def test_scores_stay_in_their_range_never_fall_with_the_map_and_do_not_mix_images(
    formula: ScoreFormula, values: np.ndarray, more: np.ndarray, keep: np.ndarray | None
) -> None:
    kept = np.float32(1) if keep is None else keep.astype(np.float32)
    module = build_score(formula, keep)
    low, high = (module(torch.from_numpy(array * kept)) for array in (values, np.maximum(values, more)))
    assert low.shape == (2,)
    assert 0 <= low.min() <= high.max() <= 1
    assert (high >= low - 1e-6).all()
    alone = module(torch.from_numpy(values[:1] * kept))
    torch.testing.assert_close(alone[0], low[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("side", [5, 11, 21])
def test_the_mean_of_rows_of_means_is_that_of_the_square(side: int, padded: bool) -> None:
    maps = torch.from_numpy(np.random.default_rng(0).random((3, 64, 96), np.float32))
    squares = functional.avg_pool2d(maps[:, None], side, stride=1, padding=side // 2, count_include_pad=padded)[:, 0]
    torch.testing.assert_close(_means(maps, side, count_include_pad=padded), squares, rtol=1e-6, atol=1e-6)


def test_a_region_of_any_shape_divides_by_what_lies_in_it() -> None:
    rng = np.random.default_rng(1)
    keep = rng.random((64, 96)) < 0.7
    maps = torch.from_numpy(rng.random((2, 64, 96), np.float32) * keep)
    kept = torch.from_numpy(keep.astype(np.float32))[None]
    inside, covered = (
        functional.avg_pool2d(m[:, None], 21, stride=1, padding=10, count_include_pad=False) for m in (maps, kept)
    )
    expected = (inside / covered.clamp(min=0.25)).amax(dim=(1, 2, 3)).clamp(max=1.0)
    torch.testing.assert_close(build_score("mean", keep)(maps), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_map_of_ones_scores_one_where_nothing_is_padded(formula: ScoreFormula) -> None:
    assert score(formula, torch.ones((1, SIZE, SIZE))) == pytest.approx(1.0, abs=1e-6)
    assert score(formula, torch.zeros((1, SIZE, SIZE))) == 0


@pytest.mark.parametrize("formula", ["mean", "windows"])
def test_what_is_not_inspected_does_not_dilute_a_defect_beside_it(formula: ScoreFormula) -> None:
    keep = np.zeros((SIZE, SIZE), np.bool_)
    keep[:, 128:] = True
    defect = square(21, 100, 118) * torch.from_numpy(keep)  # its left half is not inspected
    assert score(formula, defect, keep) == pytest.approx(1.0, abs=1e-6)
    assert score("paper", defect, keep) < 0.55


@pytest.mark.parametrize("formula", ["mean", "windows"])
def test_one_kept_pixel_is_no_mean(formula: ScoreFormula) -> None:
    keep = np.zeros((SIZE, SIZE), np.bool_)
    keep[100, 100] = True
    assert score(formula, square(1, 100, 100), keep) < 0.5
    largest_window_alone = score("mean", square(1, 100, 100), keep)
    assert largest_window_alone == pytest.approx(1 / 441 / 0.25, abs=1e-4)


@pytest.mark.parametrize("region", [False, True])
@pytest.mark.parametrize("formula", FORMULAS)
def test_the_exported_graph_gives_the_same_score_with_layers_that_every_parser_takes(
    formula: ScoreFormula, region: bool, tmp_path: Path
) -> None:
    keep = np.ones((64, 64), np.bool_) if region else None
    if keep is not None:
        keep[:20, :30] = False
    graph = InspectionGraph(Bright(), keep, formula).eval()
    data = to_onnx(graph, 64, 64)
    nodes = onnx.load_from_string(data).graph.node
    # Behind the map: the score alone.
    names = [name for node in nodes for name in node.output]
    tail = {node.op_type for node in nodes[names.index("anomaly_map") + 1 :]}
    assert tail <= ALLOWED | SHAPES
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    images = np.zeros((3, 64, 64, 3), np.uint8)
    images[0, :9, 25:40], images[1, 30:35, 58:] = 255, 255
    maps, scores = session.run(None, {"image": images})
    with torch.inference_mode():
        expected_maps, expected = graph(torch.from_numpy(images))
    np.testing.assert_allclose(maps, expected_maps.numpy(), atol=1e-6)
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-6)
    assert scores[2] < 1e-6 < scores[1] <= scores[0] <= 1
