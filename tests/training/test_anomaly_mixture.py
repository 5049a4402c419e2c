"""Simulated anomalies of five kinds: what is drawn, what is labelled, and that a seed says all of it."""

from dataclasses import replace

import pytest
import torch
from fusion_training import photos, textures

from training.methods.fusion.anomalies import AnomalyMixture, AnomalyShares

KIND_NAMES = ("texture", "patch", "structure", "shade", "curve")
NONE = AnomalyShares(
    normal_share=0.0, texture_share=0.0, patch_share=0.0, structure_share=0.0, shade_share=0.0, curve_share=1.0
)
KINDS = {kind: replace(NONE, **{"curve_share": 0.0, f"{kind}_share": 1.0}) for kind in KIND_NAMES}


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_lies_where_the_image_changed(kind: str) -> None:
    good = photos()[:1].float().mean(dim=(2, 3), keepdim=True).expand(2, 3, 64, 64).clone()
    good[:, :, 20:40] += torch.linspace(-40, 40, 64)
    mixture = AnomalyMixture(good.byte(), textures(), KINDS[kind], 0)
    mixture._seen_again = lambda photo: photo  # type: ignore[method-assign]
    labelled = 0
    for _ in range(12):
        drawn = mixture.draw()
        changed = (drawn.image - good[drawn.photo].byte().float() / 255).abs().amax(dim=0) > 0.02
        labelled += int(drawn.mask.sum() > 0)
        if drawn.mask.sum():
            near = torch.nn.functional.max_pool2d(changed.float()[None], 9, 1, 4)[0] > 0
            assert near[drawn.mask > 0].float().mean() > 0.95
        assert drawn.image.min() >= 0
        assert drawn.image.max() <= 1
    assert labelled >= 6


def test_a_share_of_the_samples_is_normal() -> None:
    mixture = AnomalyMixture(photos(), textures(), AnomalyShares(normal_share=0.5), 0)
    empty = sum(float(mixture.draw().mask.sum() == 0) for _ in range(80)) / 80
    assert 0.35 < empty < 0.8


def test_grey_photos_get_grey_anomalies() -> None:
    grey = photos()[:, :1].expand(-1, 3, -1, -1).contiguous()
    mixture = AnomalyMixture(grey, textures(), AnomalyShares(normal_share=0.0), 0)
    for _ in range(20):
        image = mixture.draw().image
        assert (image.amax(dim=0) - image.amin(dim=0)).max() < 0.02


def test_a_seed_gives_the_same_samples() -> None:
    one, same, other = (AnomalyMixture(photos(), textures(), AnomalyShares(), seed) for seed in (3, 3, 4))
    first, second, third = ([mixture.draw() for _ in range(6)] for mixture in (one, same, other))
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask) for a, b in zip(first, second, strict=True)
    )
    assert not all(torch.equal(a.image, b.image) for a, b in zip(first, third, strict=True))


def test_several_kinds_meet_on_some_images_and_all_of_them_are_labelled() -> None:
    """Lines alone, against lines on top of other lines: up to three kinds cover more than one."""
    once = AnomalyMixture(photos(), textures(), replace(NONE, mixed_share=1.0), 0)
    areas = [float(once.draw().mask.mean()) for _ in range(60)]
    alone = AnomalyMixture(photos(), textures(), NONE, 0)
    single = [float(alone._added(photos()[0].float() / 255, 0)[1].mean()) for _ in range(60)]
    assert sum(areas) > 1.1 * sum(single)


def test_no_kind_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="one kind of anomaly is needed"):
        replace(NONE, curve_share=0.0)
