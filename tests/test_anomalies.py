from dataclasses import replace

import numpy as np
import pytest
import torch

from training.anomalies import AnomalySimulator, SimulatorConfig
from training.config import preset
from training.textures import AUGMENTERS, TEXT_AUGMENTERS

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
