from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from service.bundle.manifest import InputSpec
from training.bundling.order import RecipeOrder
from training.commands.photos import Photos, warn_of_outlying
from training.data.contamination import outlying_scores, robust_deviations, unusual_photos


def _photos(count: int) -> Tensor:
    """A bright disc whose place, size and shade vary, under sensor noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:128, 0:128]
    out = np.empty((count, 3, 128, 128), np.float64)
    for i in range(count):
        distance = np.hypot(x - 64 - rng.normal(0, 0.5), y - 64 - rng.normal(0, 0.5)) - 40
        out[i] = 40 + rng.normal(150, 5) / (1 + np.exp(distance / 3)) + rng.normal(0, 3, (3, 128, 128))
    return torch.from_numpy(out.clip(0, 255)).byte()


def test_clean_photos_are_not_accused() -> None:
    assert len(unusual_photos(_photos(60))) <= 1


def test_photos_with_a_defect_are_named() -> None:
    photos = _photos(60)
    photos[7, :, 40:50, 60:70] = 20
    photos[31, 0, 80:86, 80:90] = 255
    found = {one.index for one in unusual_photos(photos)}
    assert {7, 31} <= found
    assert len(found) <= 3


def test_the_place_of_the_defect_is_given() -> None:
    photos = _photos(60)
    photos[7, :, 40:50, 60:70] = 20
    found = {one.index: one for one in unusual_photos(photos)}
    assert found[7].x == pytest.approx(65 / 128, abs=0.06)
    assert found[7].y == pytest.approx(45 / 128, abs=0.06)


def test_a_photo_of_something_else_comes_first() -> None:
    photos = _photos(40)
    photos[5] = torch.randint(0, 256, (3, 128, 128), generator=torch.Generator().manual_seed(0)).byte()
    assert unusual_photos(photos)[0].index == 5


def test_many_photos_are_compared_in_groups() -> None:
    photos = _photos(80)
    photos[50, :, 40:52, 60:72] = 20
    assert 50 in {one.index for one in unusual_photos(photos, group=30)}


def test_photos_in_several_tensors_are_numbered_through() -> None:
    photos = _photos(60)
    photos[7, :, 40:50, 60:70] = 20
    assert unusual_photos(photos[:20], photos[20:]) == unusual_photos(photos)
    assert 7 in {one.index for one in unusual_photos(photos[:5], photos[5:])}


def test_too_few_photos_say_nothing() -> None:
    photos = _photos(7)
    photos[0] = 0
    assert unusual_photos(photos) == []
    assert outlying_scores(np.array([0.01] * 6 + [0.9], np.float32)) == []


def test_outlying_scores_are_named_highest_first() -> None:
    scores = np.random.default_rng(0).lognormal(-5, 0.3, 100).astype(np.float32)
    assert outlying_scores(scores) == []
    scores[[3, 60]] = 0.4, 0.7
    assert outlying_scores(scores) == [60, 3]


def test_equal_values_have_no_outliers() -> None:
    assert (robust_deviations(np.full(9, 0.2)) == 0).all()


class _Brightness(torch.nn.Module):
    """Its map is the red of the photo."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


def _grey(levels: list[int]) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)


def test_photos_that_the_network_has_not_learned_from_do_not_stand_out_for_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known, new = [3, 4] * 16 + [30], [20, 22] * 4 + [200]
    files = [tmp_path / f"{i}.png" for i in range(len(known) + len(new))]
    cut = len(known)
    photos = Photos(files, files[:cut], files[cut:], _grey(known), _grey(new), InputSpec(height=32, width=32))
    order = RecipeOrder(recipe="part", method="fusion", data=tmp_path, models=tmp_path, score="peak")
    assert [one.photo for one in warn_of_outlying(_Brightness(), photos, order)] == ["41.png", "32.png"]
    told = capsys.readouterr().err.splitlines()
    assert "41.png: it scores 0.784, the other held-out photos about 0.086" in told[0]
    assert "32.png: it scores 0.118, the other photos trained on about 0.016" in told[1]
