from dataclasses import replace

import numpy as np
import pytest
import torch

from training.methods.draem.config import preset
from training.simulation.simulator import AnomalySimulator, SimulatorConfig, are_grey
from training.simulation.textures import AUGMENTERS, TEXT_AUGMENTERS

PAPER = SimulatorConfig()


def _simulator(config: SimulatorConfig, *, size: int = 256, gray: int = 100, seed: int = 0) -> AnomalySimulator:
    good = torch.full((3, 3, size, size), gray, dtype=torch.uint8)
    textures = torch.full((2, 3, size, size), 200, dtype=torch.uint8)
    return AnomalySimulator(good, textures, config, torch.Generator().manual_seed(seed))


def _masks(config: SimulatorConfig, count: int) -> np.ndarray:
    simulator = _simulator(replace(config, texture_augmentation=False))
    batches = [simulator.batch(50).mask for _ in range(count // 50)]
    return torch.cat(batches).mean(dim=(1, 2, 3)).numpy()


def test_mask_statistics_are_the_authors() -> None:
    """Their generator, 3000 draws: 5.5 % empty; coverage mean 4.8 %, quartiles 3.7, 4.6 and 5.5 %, 95th 8.9 %."""
    coverage = _masks(replace(PAPER, anomaly_probability=1.0), 1500)
    assert 0.035 < (coverage == 0).mean() < 0.078
    assert 0.045 < coverage.mean() < 0.051
    np.testing.assert_allclose(np.percentile(coverage, [25, 50, 75, 95]), [0.037, 0.046, 0.055, 0.089], rtol=0.08)


def test_share_of_samples_without_anomaly_is_the_authors() -> None:
    """Half by draw, 5.5 % of the rest by empty masks: 52.7 %."""
    assert 0.48 < (_masks(PAPER, 1000) == 0).mean() < 0.575


def test_image_differs_from_clean_only_inside_the_mask() -> None:
    batch = _simulator(replace(PAPER, anomaly_probability=1.0)).batch(8)
    changed = (batch.augmented != batch.clean).any(dim=1, keepdim=True)
    assert changed.any()
    assert not (changed & (batch.mask == 0)).any()


def test_opacity_is_uniform_between_its_limits() -> None:
    config = replace(PAPER, anomaly_probability=1.0, texture_augmentation=False, rotate_probability=0.0)
    simulator = _simulator(config, gray=100)
    opacity = []
    for _ in range(40):
        batch = simulator.batch(16)
        for augmented, mask in zip(batch.augmented, batch.mask, strict=True):
            if mask.any():
                opacity.append((augmented[:, mask[0] > 0].mean().item() * 255 - 100) / 100)
    assert 0.19 < min(opacity) < 0.23
    assert 0.97 < max(opacity) < 1.001
    assert abs(np.mean(opacity) - 0.6) < 0.03


def test_middling_opacity_is_a_clipped_normal() -> None:
    """N(0.5, 0.1) clipped to [0.2, 0.8]."""
    opacity = _simulator(replace(PAPER, middling_opacity=True)).opacities(20000).flatten()
    assert opacity.min() >= 0.2
    assert opacity.max() <= 0.8
    assert abs(opacity.mean() - 0.5) < 0.005
    assert abs(opacity.std() - 0.1) < 0.005
    quartiles = np.percentile(opacity.numpy(), [25, 50, 75])
    np.testing.assert_allclose(quartiles, [0.43255, 0.5, 0.56745], atol=0.006)


def test_middling_opacity_reaches_the_blend() -> None:
    config = replace(PAPER, anomaly_probability=1.0, texture_augmentation=False, rotate_probability=0.0)
    batch = _simulator(replace(config, middling_opacity=True), gray=100).batch(64)
    shares = (batch.augmented.mul(255) - 100)[batch.mask.expand(-1, 3, -1, -1) > 0] / 100
    assert shares.min() > 0.199
    assert shares.max() < 0.801


def test_corners_that_rotation_brings_in_have_the_fill() -> None:
    config = replace(PAPER, anomaly_probability=0.0, rotate_probability=1.0, rotate_fill=114)
    corners = _simulator(config, gray=200).batch(16).clean[:, :, 0, 0] * 255
    assert corners.min() > 113.9  # 114 or, on a photo that is hardly turned, a mix with its 200
    assert (corners < 114.1).float().mean() > 0.8
    untouched = _simulator(replace(config, rotate_degrees=0.0), gray=200).batch(4).clean * 255
    assert untouched.min() > 199.9


def _disc_on_plain_ground(config: SimulatorConfig) -> tuple[AnomalySimulator, torch.Tensor]:
    axis = torch.arange(128.0)
    disc = (axis.view(-1, 1) - 64) ** 2 + (axis - 64) ** 2 < 30**2
    good = torch.where(disc, 160, 20).byte().expand(4, 3, 128, 128).contiguous()
    textures = torch.full((2, 3, 128, 128), 250, dtype=torch.uint8)
    return AnomalySimulator(good, textures, config, torch.Generator().manual_seed(0)), disc


def test_foreground_keeps_anomalies_on_the_part_and_loses_none_of_it() -> None:
    config = replace(PAPER, anomaly_probability=1.0, rotate_probability=0.0, foreground=True)
    simulator, disc = _disc_on_plain_ground(config)
    masks = torch.cat([simulator.batch(50).mask for _ in range(8)])
    near = torch.nn.functional.max_pool2d(disc.float()[None], 5, 1, 2)[0] > 0
    assert masks[..., ~near].sum() == 0
    # Three more tries leave few samples without anomaly, and every place of the part gets its share.
    assert (masks.amax(dim=(1, 2, 3)) == 0).float().mean() < 0.03
    share = masks.mean(dim=(0, 1))[disc]
    assert share.min() > 0.2 * share.mean()


def test_foreground_turns_with_the_photo() -> None:
    config = replace(PAPER, anomaly_probability=1.0, rotate_probability=1.0, foreground=True)
    axis = torch.arange(128)
    bar = ((axis.view(-1, 1) - 64).abs() < 12) & ((axis - 64).abs() < 45)
    good = torch.where(bar, 160, 20).byte().expand(4, 3, 128, 128).contiguous()
    textures = torch.full((2, 3, 128, 128), 250, dtype=torch.uint8)
    batch = AnomalySimulator(good, textures, config, torch.Generator().manual_seed(0)).batch(64)
    anomalous = batch.mask > 0
    assert anomalous.any()
    on_part = batch.clean[:, :1][anomalous] > 60 / 255
    assert on_part.float().mean() > 0.9


def test_foreground_is_the_whole_picture_where_there_is_no_plain_background() -> None:
    noise = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    plain, masked = (
        AnomalySimulator(noise, noise, replace(PAPER, foreground=on), torch.Generator().manual_seed(1)).batch(8)
        for on in (False, True)
    )
    assert torch.equal(plain.augmented, masked.augmented)


def test_rotation_happens_as_often_as_configured_and_never_when_off() -> None:
    def rotated(config: SimulatorConfig) -> float:
        simulator = _simulator(config, gray=100)
        corners = torch.cat([simulator.batch(50).clean[:, 0, 0, 0] for _ in range(8)])
        return (corners < 0.1).float().mean().item()

    assert 0.2 < rotated(replace(PAPER, anomaly_probability=0.0)) < 0.4
    assert rotated(replace(PAPER, anomaly_probability=0.0, rotate_degrees=0.0)) == 0.0


def test_invisible_changes_are_not_labelled() -> None:
    config = replace(PAPER, anomaly_probability=1.0, own_texture=1.0, rotate_probability=0.0)
    assert _simulator(config).batch(8).mask.any()
    assert not _simulator(replace(config, visible_min=0.03)).batch(8).mask.any()


def test_anomalies_on_grey_photos_are_grey_and_on_coloured_ones_coloured() -> None:
    generator = torch.Generator().manual_seed(0)
    textures = torch.randint(0, 256, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    grey = torch.full((3, 3, 64, 64), 100, dtype=torch.uint8)
    coloured = grey.clone()
    coloured[:, 0, 20:30, 20:30] = 160

    def spread(good: torch.Tensor, *, match_grey: bool) -> float:
        config = replace(PAPER, anomaly_probability=1.0, rotate_probability=0.0, match_grey=match_grey)
        batch = AnomalySimulator(good, textures, config, generator).batch(16)
        anomalies = batch.augmented.permute(0, 2, 3, 1)[batch.mask[:, 0].bool()]
        return (anomalies.amax(dim=1) - anomalies.amin(dim=1)).max().item()

    assert spread(grey, match_grey=True) < 1e-6
    assert spread(grey, match_grey=False) > 0.2
    assert spread(coloured, match_grey=True) > 0.2
    rounding = torch.randint(-1, 2, grey.shape, generator=generator)
    assert are_grey((grey + rounding).byte())
    cast_of_a_colour_camera = torch.tensor([4, 0, -4]).view(1, 3, 1, 1)
    assert not are_grey((grey + cast_of_a_colour_camera).byte())
    assert [preset(name).simulator.match_grey for name in ("paper", "quick", "edge")] == [False, True, True]


def test_combined_masks_are_binary_and_never_empty_by_intersection() -> None:
    config = replace(PAPER, anomaly_probability=1.0, mask_combination=True, texture_augmentation=False)
    coverage = _masks(config, 500)
    assert (coverage == 0).mean() < 0.055
    assert set(_simulator(config).batch(16).mask.unique().tolist()) == {0.0, 1.0}


def test_same_seed_gives_the_same_batch_and_another_seed_another() -> None:
    first, second, other = (_simulator(PAPER, seed=seed).batch(8).augmented for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_textures_of_another_size_are_refused() -> None:
    good, textures = torch.zeros((1, 3, 64, 64), dtype=torch.uint8), torch.zeros((1, 3, 32, 32), dtype=torch.uint8)
    with pytest.raises(ValueError, match="textures"):
        AnomalySimulator(good, textures, PAPER, torch.Generator())


def test_another_threshold_is_the_threshold_of_every_mask() -> None:
    coverage = [_simulator(replace(PAPER, perlin_threshold=t)).batch(64).mask.mean().item() for t in (0.2, 0.5)]
    every = [replace(PAPER, perlin_threshold=0.2, perlin_threshold_max=t) for t in (0.0, 0.2)]
    assert coverage[0] > 2 * coverage[1]
    assert torch.equal(*(_simulator(config).batch(8).mask for config in every))


def test_the_papers_text_has_its_own_preset() -> None:
    config = preset("paper-text").simulator
    simulator = _simulator(replace(config, anomaly_probability=1.0, texture_augmentation=False), size=64)
    coverage = torch.cat([simulator.batch(50).mask for _ in range(6)]).mean(dim=(1, 2, 3))
    # A threshold near 0 marks almost half of the image, one near 1 nothing; a fixed 0.5 does neither.
    assert (coverage > 0.25).float().mean() > 0.1
    assert (coverage == 0).float().mean() > 0.15
    assert (config.opacity_min, config.rotate_degrees) == (0.1, 45.0)


def test_the_papers_text_has_no_gamma_inversion_or_rotation() -> None:
    seven = {augmenter.__name__ for augmenter in TEXT_AUGMENTERS}
    assert {augmenter.__name__ for augmenter in AUGMENTERS} - seven == {"_gamma", "_invert", "_rotate"}
    ten, seven_only = (
        _simulator(replace(PAPER, anomaly_probability=1.0, augmenters=which)).batch(8)  # type: ignore[arg-type]
        for which in ("code", "text")
    )
    assert torch.equal(ten.mask, seven_only.mask)
    assert not torch.equal(ten.augmented, seven_only.augmented)
