"""Flaws of a surface: how strong, how wide and how large they are, and that lit sides differ from dark ones."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from training.simulation.flaws import SurfaceFlaws

GOOD = torch.full((3, 64, 64), 0.5)
DRAWS = 30
Draw = Callable[[SurfaceFlaws], tuple[Tensor, Tensor]]


def flaws(*, grey: bool = False) -> SurfaceFlaws:
    return SurfaceFlaws(64, grey, np.random.default_rng(0), torch.Generator().manual_seed(0))


def changes(draw: Draw) -> tuple[Tensor, Tensor]:
    """Of draws with a mask: signed changes of the first channel `(n, 64, 64)`, masks."""
    made = flaws()
    drawn = [(image, mask) for image, mask in (draw(made) for _ in range(DRAWS)) if mask.sum()]
    return torch.stack([image[0] - 0.5 for image, _ in drawn]), torch.stack([mask for _, mask in drawn])


@pytest.mark.parametrize("draw", [lambda f: f.line(GOOD), lambda f: f.specks(GOOD), lambda f: f.relief(GOOD)])
def test_weak_flaws_are_as_common_as_strong_ones(draw: Draw) -> None:
    strongest = changes(draw)[0].abs().amax(dim=(1, 2))
    assert (strongest < 0.15).float().mean() > 0.15
    assert (strongest > 0.25).float().mean() > 0.15


def test_lines_are_thin() -> None:
    masks = changes(lambda f: f.line(GOOD))[1][:, None]
    inner = 1 - torch.nn.functional.max_pool2d(1 - masks, 5, 1, 2)  # what five pixels across leave
    assert inner.sum() < 0.15 * masks.sum()


def test_a_relief_has_a_bright_and_a_dark_side() -> None:
    change, _ = changes(lambda f: f.relief(GOOD))
    assert ((change > 0.02).any(dim=(1, 2)) & (change < -0.02).any(dim=(1, 2))).float().mean() > 0.6


def test_clouds_are_large_and_faint_and_have_soft_edges() -> None:
    change, masks = changes(lambda f: f.cloud(GOOD))
    assert masks.mean() > 0.05
    assert change.abs().max() < 0.25
    assert (change.diff(dim=1).abs().amax(dim=(1, 2)) < 0.5 * change.abs().amax(dim=(1, 2))).all()


def test_flaws_of_grey_photos_are_grey() -> None:
    made = flaws(grey=True)
    for draw in (made.line, made.relief, made.specks, made.cloud):
        for _ in range(8):
            image = draw(GOOD)[0]
            assert torch.equal(image[0], image[1])
            assert torch.equal(image[0], image[2])
