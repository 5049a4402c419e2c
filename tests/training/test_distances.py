"""Distances of patch embeddings against the formulas, written out in numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.features.distances import Distances, NearestPatch, PositionGaussian, SharedGaussian


def _embeddings(photos: int, *, seed: int = 0) -> Tensor:
    """Of one and the same part: what differs is the noise, `seed` says which."""
    part = torch.Generator().manual_seed(99)
    mixing, place = torch.randn((12, 12), generator=part), torch.randn((4, 6, 12), generator=part)
    noise = torch.randn((photos, 4, 6, 12), generator=torch.Generator().manual_seed(seed))
    return place + noise @ mixing


@pytest.mark.parametrize("side", [1, 2])
def test_position_gaussian_is_the_mahalanobis_distance(side: int) -> None:
    good, image = _embeddings(30), _embeddings(2, seed=5)
    fitted = PositionGaussian(good, 8, torch.Generator().manual_seed(0), side)
    chosen = fitted.chosen.numpy()
    assert len(set(chosen)) == 8
    x, new = good.numpy()[..., chosen].astype(float), image.numpy()[..., chosen].astype(float)
    mean = x.mean(axis=0)
    squares = [np.s_[:, i : i + side, j : j + side] for i in range(0, 4, side) for j in range(0, 6, side)]
    covariances = [(x - mean)[s].reshape(-1, 8).T @ (x - mean)[s].reshape(-1, 8) / (side**2 * 29) for s in squares]
    shared = 8 / (8 + 10 * side**2 * 30)
    expected = np.empty(new.shape[:3])
    for square, own in zip(squares, covariances, strict=True):
        covariance = (1 - shared) * own + shared * np.mean(covariances, axis=0) + 0.002 * np.eye(8)
        rest = (new - mean)[square]
        expected[square] = np.sqrt(np.einsum("nhwi,ij,nhwj->nhw", rest, np.linalg.inv(covariance), rest))
    np.testing.assert_allclose(fitted(image).numpy(), expected, rtol=1e-4)


def test_shared_gaussian_is_the_mahalanobis_distance() -> None:
    good, image = _embeddings(10), _embeddings(2, seed=5)
    rows = good.numpy().reshape(-1, 12).astype(float)
    covariance = np.cov(rows.T, bias=True) + 0.002 * np.eye(12)
    rest = image.numpy() - rows.mean(axis=0)
    expected = np.sqrt(np.einsum("nhwi,ij,nhwj->nhw", rest, np.linalg.inv(covariance), rest))
    np.testing.assert_allclose(SharedGaussian(good)(image).numpy(), expected, rtol=1e-4)


def test_nearest_patch_is_the_smallest_distance_to_the_bank() -> None:
    good, image = _embeddings(5), _embeddings(2, seed=5)
    fitted = NearestPatch.balanced(good, 5 * 24, torch.Generator().manual_seed(0))
    bank = good.reshape(-1, 12) @ fitted.components
    expected = (
        (torch.cdist(image.reshape(-1, 12) @ fitted.components, bank).amin(dim=1).square() + 0.25).sqrt().view(2, 4, 6)
    )
    torch.testing.assert_close(fitted(image), expected, rtol=1e-3, atol=1e-3)


def test_a_photo_left_out_finds_none_of_its_own_patches() -> None:
    good = _embeddings(5)
    fitted = NearestPatch.balanced(good, 5 * 24, torch.Generator().manual_seed(0))
    assert fitted(good).amax() < 0.51
    own, rest = (part.reshape(-1, 12) @ fitted.components for part in (good[0], good[1:]))
    others = torch.cdist(own, rest).amin(dim=1).view(4, 6)
    expected = (others.square() + 0.25).sqrt()
    torch.testing.assert_close(fitted.without(good[:1], torch.tensor([0]))[0], expected, rtol=1e-3, atol=1e-3)


def test_rare_good_patches_are_in_the_bank() -> None:
    good = _embeddings(60)
    good[7, 1, 2] += 20  # once in 1440 patches
    fitted = NearestPatch.balanced(good, 40, torch.Generator().manual_seed(0))
    assert fitted(good)[7, 1, 2] < 0.51


def test_no_component_drowns_the_others() -> None:
    """Where one direction of good patches varies a hundred times more, a step along another one still shows."""
    good = _embeddings(30)
    good[..., 0] *= 100
    image = good[:1].clone()
    image[0, 2, 3, 5] += 10
    near = NearestPatch.balanced(good, 30 * 24, torch.Generator().manual_seed(0))(image)[0]
    assert near[2, 3] > 3 * near.flatten().median()


@pytest.mark.parametrize(("photos", "side"), [(6, 1), (6, 2), (40, 2)])
def test_leaving_a_photo_out_is_fitting_without_it(photos: int, side: int) -> None:
    """Neighbours of a photo are alike, as those of trunks are: three of four positions would still know it."""
    coarse = _embeddings(photos, seed=3)[:, ::2, ::2].repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    good = coarse + 0.2 * _embeddings(photos)
    fitted = PositionGaussian(good, 8, torch.Generator().manual_seed(0), side)
    refitted = PositionGaussian(good[1:], 8, torch.Generator().manual_seed(0), side)
    exact = refitted(good[:1])
    with_it, without = fitted(good[:1]), fitted.without(good[:1], good[:1])
    assert (without - exact).abs().mean() < 0.2 * (with_it - exact).abs().mean()


def test_good_photos_left_out_lie_at_about_one() -> None:
    good = _embeddings(40)
    fitted = Distances(good, channels=8, bank=200, generator=torch.Generator().manual_seed(0))
    new = fitted(_embeddings(40, seed=7)).mean(dim=(0, 2, 3))
    assert ((new > 0.7) & (new < 1.5)).all()
    far = fitted(_embeddings(4) + 30.0).mean(dim=(0, 2, 3))
    assert (far > 2 * new).all()


def test_two_photos_are_enough_to_fit() -> None:
    fitted = Distances(_embeddings(2), channels=8, bank=16, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(fitted(_embeddings(3, seed=3))).all()
