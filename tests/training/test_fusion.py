"""The fusion of distances and head: its map, that a seed repeats it, and that it becomes a bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_training import TINY, photos, textures, trained

from service.bundle.folder import read_bundle
from service.bundle.manifest import InputSpec
from training.bundling.graph import InspectionGraph
from training.bundling.onnx import opened, to_onnx
from training.commands import parse
from training.commands import run as main
from training.data.demo_parts import write_dataset
from training.features.distances import Distances
from training.features.embedding import Standardised, embeddings_of, features_of
from training.features.trunks import load_trunk
from training.methods import METHODS
from training.methods.fusion.lesson import HeadLesson, Samples, head_losses, make_samples
from training.methods.fusion.network import FusionMap
from training.methods.fusion.weighing import WEIGHTS, weigh
from training.methods.protocol import TrainingSet
from training.settings import changed


def test_map_lies_in_the_unit_interval_and_rises_where_the_part_is_broken(tmp_path: Path) -> None:
    network = trained(tmp_path, steps=60, samples=60)
    good = photos()[:2].float() / 255
    broken = good.clone()
    broken[:, :, 24:36, 24:36] = 0.95
    with torch.inference_mode():
        normal, found = network(good), network(broken)
    assert found.shape == (2, 64, 64)
    assert normal.min() >= 0
    assert found.max() <= 1
    assert found[:, 26:34, 26:34].mean() > normal[:, 26:34, 26:34].mean() + 0.1
    assert found[:, 26:34, 26:34].mean() > found[:, :8].mean() + 0.1


def test_a_seed_gives_the_same_network_and_another_seed_another(tmp_path: Path) -> None:
    x = photos()[:1].float() / 255
    maps = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        network = trained(tmp_path / name, seed=seed)
        with torch.inference_mode():
            maps.append(network(x))
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_graph_gives_what_torch_gives_at_any_batch(tmp_path: Path) -> None:
    graph = InspectionGraph(trained(tmp_path), None, "peak").eval()
    images = photos().permute(0, 2, 3, 1).contiguous()
    with torch.inference_mode():
        maps, scores = graph(images)
    with opened(to_onnx(graph, 64, 64), InputSpec(height=64, width=64)) as backend:
        for count in (1, 3):
            found, scored = backend.run(images[:count].numpy())
            np.testing.assert_allclose(found, maps[:count].numpy(), atol=1e-4)
            np.testing.assert_allclose(scored, scores[:count].numpy(), atol=1e-4)


def test_how_far_distances_know_the_photo_is_drawn_for_each_sample() -> None:
    features = (torch.randn(2, 4, 16, 16), torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4))
    samples = Samples(
        torch.zeros((2, 3, 64, 64), dtype=torch.uint8),
        torch.zeros((2, 64, 64), dtype=torch.uint8),
        features,
        torch.full((2, 3, 8, 8), 3.0),
        torch.full((2, 3, 8, 8), 1.0),
    )
    generator, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    distances = HeadLesson(TINY, samples, (4, 4, 4), Standardised(features), generator, cpu).draw(64).distances
    each = distances[:, 0, 0, 0]
    torch.testing.assert_close(distances, each.view(-1, 1, 1, 1).expand_as(distances))
    # From known to left out, all between alike.
    assert 1 <= each.min() < 1.2
    assert 2.8 < each.max() <= 3
    assert 1.8 < each.mean() < 2.2


def test_distances_that_know_the_photo_are_shorter_on_good_samples() -> None:
    cpu, data = torch.device("cpu"), TrainingSet(photos(), textures())
    trunk = load_trunk(TINY.features)
    features = features_of(trunk, data.good, cpu)
    standardised = Standardised(features)
    embeddings = embeddings_of(standardised, features, cpu)
    distances = Distances(embeddings, channels=16, bank=64, generator=torch.Generator().manual_seed(0))
    samples = make_samples(TINY, data, trunk, standardised, distances, embeddings, cpu)
    good = samples.masks.sum(dim=(1, 2)) == 0
    assert good.any()
    position, shared, nearest = (samples.known / samples.distances)[good].mean(dim=(0, 2, 3))
    assert position < 0.9
    assert shared == 1
    assert nearest < 1


def test_losses_fall_to_nothing_where_the_head_is_right() -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:8, 4:8] = 1
    right = torch.where(torch.nn.functional.avg_pool2d(mask, 2) > 0.5, 12.0, -12.0)
    assert all(loss < 1e-3 for loss in head_losses(right, mask).values())
    assert all(loss > 0.4 for loss in head_losses(-right, mask).values())


def test_presets_name_their_methods() -> None:
    names = [name for method in METHODS.values() for name in method.presets]
    assert len(names) == len(set(names))
    for preset, method in (("quick", "draem"), ("station", "fusion")):
        _, request = parse(["train", "--data", "photos", "--preset", preset])
        assert request.model_dump()["method"] == method
    _, request = parse(["train", "--data", "photos"])
    assert (request.model_dump()["method"], request.model_dump()["preset"]) == ("fusion", "station")


@pytest.mark.slow
def test_from_photos_to_a_bundle_that_tells_its_weights(tmp_path: Path) -> None:
    write_dataset(tmp_path / "parts", good=8, test_good=2, defects_per_kind=1, seed=0)
    places = [
        "--models",
        str(tmp_path / "models"),
        "--run",
        str(tmp_path / "run"),
        "--version",
        "1",
        "--most-escapes",
        "1",
    ]
    tiny = ["--size", "64", "--width", "8", "--samples", "8", "--steps", "4", "--bank", "64", "--channels", "16"]
    assert main(["train", "--data", str(tmp_path / "parts"), "--recipe", "part", *places, *tiny]) == 0
    manifest = read_bundle(tmp_path / "models" / "part" / "1").manifest
    assert manifest.method == "fusion"
    assert manifest.score_formula == "peak"
    assert manifest.training.config is not None
    assert manifest.training.config["distance_weight"] in WEIGHTS
    pretrained = manifest.training.pretrained
    assert pretrained is not None
    assert (pretrained.licence, pretrained.sha256[:8]) == ("Apache-2.0", "57934424")


class _Weighed(FusionMap):
    """Red is what the head says of an image, green what the distances say."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.weight = 0.0
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x[:, 0] + self.weight * x[:, 1])


@pytest.mark.parametrize(
    ("good", "defects", "best"),
    [
        # The head misses the second defect, and a photo is noise to it.
        ([(40, 0), (120, 0)], [(200, 0), (0, 210)], 0.6),
        # The distances take the second photo for a defect.
        ([(0, 0), (0, 200)], [(60, 0), (200, 0)], 0.25),
        # Too little misses the second defect, too much takes the second photo for one.
        ([(90, 0), (0, 220)], [(200, 0), (20, 210), (110, 0)], 0.4),
        # One pair of 225 more than with less weight is chance.
        ([(40, 0)] * 14 + [(120, 0)], [(200, 0)] * 14 + [(90, 100)], 0.25),
    ],
)
def test_the_weight_of_the_distances_is_the_one_that_tells_held_out_defects_best(
    good: list[tuple[int, int]], defects: list[tuple[int, int]], best: float
) -> None:
    def images(colours: list[tuple[int, int]]) -> torch.Tensor:
        return torch.tensor([(*one, 0) for one in colours], dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 8, 8)

    network = _Weighed()
    assert weigh(TINY, network, images(good), images(defects)) == {"distance_weight": best}
    assert network.weight == best
    # Where the settings have one it stays.
    network.weight = 0.3
    assert weigh(changed(TINY, {"distance_weight": 0.3}), network, images(good), images(defects)) == {}
    assert network.weight == 0.3


def test_without_held_out_photos_there_is_nothing_to_choose_by(tmp_path: Path) -> None:
    network = trained(tmp_path)
    assert weigh(TINY, network, photos()[:0], photos()[:0]) == {}
    assert network.weight == WEIGHTS[0]
