"""PaDiM and PatchCore: a map that good photos leave below the middle, and their papers' formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_training import photos
from numpy.typing import NDArray

from training.features.coreset import farthest_points
from training.features.distances import NearestPatch
from training.features.trunks import load_trunk
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
    with torch.inference_mode():
        normal, found = network(good), network(broken)
    assert found.shape == (2, 64, 64)
    assert normal.min() >= 0
    assert normal.amax() < 0.6
    assert found[:, 28:36, 28:36].min() > 0.6


def test_padims_map_is_its_formulas() -> None:
    """Defard et al. 2021 written out in numpy, from the trunk's features to the map."""
    good, images = photos().float() / 255, photos()[:2].float() / 255
    images[:, :, 20:30, 20:40] += 0.1
    trunk = load_trunk()
    network = METHODS["padim"].fit(
        changed(METHODS["padim"].preset("gaussian"), {"size": 64, "channels": 30}),
        TrainingSet(photos()),
        Run(Path()),
        torch.device("cpu"),
    )
    with torch.inference_mode():
        known = [feature.half().double().numpy() for feature in trunk(good)]
        seen = [feature.double().numpy() for feature in trunk(images)]
        found = network(images).numpy()

    def embedded(features: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        fine, middle, coarse = (
            (x - k.mean(axis=(0, 2, 3), keepdims=True)) / np.maximum(k.std(axis=(0, 2, 3), keepdims=True, ddof=1), 1e-3)
            for x, k in zip(features, known, strict=True)
        )
        pairs = fine.reshape(*fine.shape[:2], 8, 2, 8, 2).mean(axis=(3, 5))
        return np.concatenate((pairs, middle, _enlarged(coarse, 2)), axis=1)

    chosen = network.distance.chosen.numpy()
    x, new = (embedded(features)[:, chosen] for features in (known, seen))
    rest = x - x.mean(axis=0)
    covariance = np.einsum("nihw,njhw->hwij", rest, rest) / (len(x) - 1)
    shared = 30 / (30 + 10 * len(x))
    covariance = (1 - shared) * covariance + shared * covariance.mean(axis=(0, 1)) + 0.002 * np.eye(30)
    away = new - x.mean(axis=0)
    distances = np.sqrt(np.einsum("nihw,hwij,njhw->nhw", away, np.linalg.inv(covariance), away))
    padded = np.pad(distances, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    smooth = np.nanmean(np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)), axis=(3, 4))
    expected = 1 - np.exp(-_enlarged(smooth[:, None], 8)[:, 0] / network.scale)
    assert expected.max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4)


def _enlarged(x: NDArray[np.float64], times: int) -> NDArray[np.float64]:
    """`(N, C, h, w)` -> `(N, C, times h, times w)`, linear between the centres of pixels, flat beyond the outermost."""
    for axis in (2, 3):
        count = x.shape[axis]
        at = np.clip((np.arange(times * count) + 0.5) / times - 0.5, 0, count - 1)
        low = np.minimum(at.astype(int), count - 2)
        share = (at - low).reshape([-1 if place == axis else 1 for place in range(4)])
        x = (1 - share) * x.take(low, axis) + share * x.take(low + 1, axis)
    return x


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
