"""PaDiM and PatchCore: a map that good photos leave below the middle, and a graph that gives what torch gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_training import photos

from service.bundle.manifest import InputSpec
from training.bundling.graph import InspectionGraph
from training.bundling.onnx import opened, to_onnx
from training.features.coreset import farthest_points
from training.features.distances import NearestPatch
from training.loop.runs import Run
from training.methods import METHODS
from training.methods.patchcore.reweighting import ReweightedPatches
from training.methods.protocol import TrainingSet
from training.settings import changed

SMALL = {"padim": {"size": 64, "channels": 24}, "patchcore": {"size": 64, "bank": 100}}


@pytest.mark.parametrize("name", SMALL)
def test_good_photos_lie_below_the_middle_and_a_broken_part_above(name: str, tmp_path: Path) -> None:
    method = METHODS[name]
    (preset,) = method.presets
    settings = changed(method.preset(preset), SMALL[name])
    network = method.fit(settings, TrainingSet(photos()), Run(tmp_path), torch.device("cpu"))
    good = photos()[:2].float() / 255
    broken = good.clone()
    broken[:, :, 24:40, 24:40] = 0.95
    graph = InspectionGraph(network, None, "peak").eval()
    images = (255 * broken).round().byte().permute(0, 2, 3, 1).contiguous()
    with torch.inference_mode():
        normal, found = network(good), network(broken)
        maps, scores = graph(images)
    assert found.shape == (2, 64, 64)
    assert normal.min() >= 0
    assert normal.amax() < 0.6
    assert found[:, 28:36, 28:36].min() > 0.6
    with opened(to_onnx(graph, 64, 64), InputSpec(height=64, width=64)) as backend:
        exported, exported_scores = backend.run(images.numpy())
    np.testing.assert_allclose(exported, maps.numpy(), atol=1e-4)
    np.testing.assert_allclose(exported_scores, scores.numpy(), atol=1e-4)


def test_the_weight_of_an_image_is_the_papers() -> None:
    """Equation 7 of Roth et al. 2022, written out patch by patch."""
    rng = np.random.default_rng(0)
    good, images = rng.normal(size=(5, 3, 4, 6)), rng.normal(size=(4, 3, 4, 6)) * 1.5
    images[3] = good[0]  # lies in the bank
    nearest = NearestPatch(torch.from_numpy(good).float(), torch.arange(0, 60, 2))
    found = ReweightedPatches(nearest, 4)(torch.from_numpy(images).float()).numpy()
    bank = good.reshape(60, 6)[::2]
    for image, distances in zip(images, found, strict=True):
        apart = np.linalg.norm(image.reshape(12, 1, 6) - bank, axis=2)
        farthest = int(apart.min(axis=1).argmax())
        around = np.argsort(np.linalg.norm(bank - bank[apart[farthest].argmin()], axis=1))[:4]
        weight = 1 - np.exp(apart[farthest].min()) / np.exp(apart[farthest][around]).sum()
        expected = weight * np.sqrt(0.25 + apart.min(axis=1) ** 2)
        np.testing.assert_allclose(distances.ravel(), expected, rtol=2e-3)


def test_a_coreset_leaves_no_patch_as_far_away_as_a_random_draw_does() -> None:
    generator = torch.Generator().manual_seed(0)
    crowd = torch.randn((2000, 16), generator=generator)
    few = torch.randn((20, 16), generator=generator) + 12
    patches = torch.cat((crowd, few))
    chosen = farthest_points(patches, 60, generator)
    assert len(set(chosen.tolist())) == 60
    drawn = torch.randperm(len(patches), generator=generator)[:60]
    covered, by_chance = (torch.cdist(patches, patches[kept]).amin(dim=1).max() for kept in (chosen, drawn))
    assert covered < by_chance
