"""Anomalies made of good photos, and labels without speckles."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from fusion_training import photos, textures
from torch import Tensor

from training.simulation.labels import visible
from training.simulation.patches import PatchPaster, shuffled
from training.simulation.simulator import AnomalySimulator, SimulatorConfig

ALWAYS = SimulatorConfig(anomaly_probability=1.0, rotate_probability=0.0, visible_min=0.03)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_patches_change_what_they_cover_and_nothing_else() -> None:
    good = photos()
    paster = PatchPaster(good, _generator())
    changes = 0
    for index in range(12):
        before = good[index % len(good)].float() / 255
        after, covered = paster.paste(before, index % len(good))
        changed = (after - before).abs().amax(dim=0) > 0.01
        assert not changed[_dilated(covered) == 0].any()
        changes += int(changed.any())
    assert changes >= 8


def _dilated(mask: Tensor) -> Tensor:
    """A feathered edge reaches six pixels beyond what was cut out."""
    return torch.from_numpy(cv2.dilate(mask.numpy(), np.ones((13, 13), np.uint8)))


def test_patches_come_from_other_photos() -> None:
    """Black photos but one: its own patches would not show on it."""
    good = torch.zeros((3, 3, 64, 64), dtype=torch.uint8)
    good[1] = 255
    paster = PatchPaster(good, _generator(), grown=0.0)
    darker = [paster.paste(torch.ones(3, 64, 64), 1)[0].min() for _ in range(20)]
    assert all(value < 0.7 for value in darker)
    brighter = [paster.paste(torch.zeros(3, 64, 64), 0)[0].max() for _ in range(20)]
    assert 0 < sum(bool(value > 0.3) for value in brighter) < 20


def test_patches_of_the_photo_itself_show_nothing_where_it_has_one_colour() -> None:
    good = torch.zeros((3, 3, 64, 64), dtype=torch.uint8)
    good[1] = 255
    paster = PatchPaster(good, _generator(), others=0.0, grown=0.0)
    # Another light on them is all there is to see.
    assert all(paster.paste(torch.ones(3, 64, 64), 1)[0].min() > 0.7 for _ in range(20))


def test_objects_and_free_surfaces_are_blended_differently() -> None:
    disc = torch.full((1, 3, 64, 64), 220, dtype=torch.uint8)
    disc[:, :, 16:48, 16:48] = 60
    grain = torch.randint(0, 255, (4, 3, 64, 64), generator=_generator(), dtype=torch.uint8)
    assert PatchPaster(disc, _generator())._blend == cv2.NORMAL_CLONE
    assert PatchPaster(grain, _generator())._blend == cv2.MIXED_CLONE


@pytest.mark.parametrize("size", [64, 70])
def test_shuffled_blocks_are_the_same_blocks_elsewhere(size: int) -> None:
    photo = torch.rand((3, size, size), generator=_generator())
    mixed = shuffled(photo, _generator(1))
    assert mixed.shape == photo.shape
    assert (mixed != photo)[:, :64, :64].float().mean() > 0.8
    torch.testing.assert_close(mixed.flatten(1).sort().values, photo.flatten(1).sort().values)


@pytest.mark.parametrize(("patches", "structure"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_the_batched_simulator_has_them_too(patches: float, structure: float) -> None:
    config = replace(ALWAYS, patches=patches, structure=structure)

    def drawn(config: SimulatorConfig, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        generator = _generator(3)
        simulator = AnomalySimulator(photos(), textures(), config, generator)
        if state is not None:
            generator.set_state(state)
        before = generator.get_state()
        batch = simulator.batch(6)
        return batch.augmented, batch.mask, before

    plain, (image, mask, state) = drawn(ALWAYS), drawn(config)
    assert not torch.equal(plain[0], image)
    assert mask.any()
    # A run that goes on has the generator's state: it alone says what is drawn.
    torch.testing.assert_close(drawn(config, state)[0], image)


def test_a_label_has_no_speckles_and_no_invisible_parts() -> None:
    """A texture that meets the surface's own colour at single pixels is still one piece."""
    before = torch.zeros(1, 3, 32, 32)
    after = before.clone()
    after[:, :, 8:24, 8:24] = 0.2 * (torch.rand((16, 16), generator=_generator()) > 0.3)
    mask = torch.zeros(1, 1, 32, 32)
    mask[:, :, 8:24, 4:24] = 1
    seen = visible(before, after, mask, 0.03)[0, 0]
    assert seen[10:22, 10:22].all()
    assert not seen[:, :5].any()


def test_anomalies_from_another_photo_of_the_same_surface_are_few_pieces() -> None:
    """Grain under grain of its own kind: pixel by pixel it would be dozens."""
    grain = (torch.rand((8, 1, 16, 16), generator=_generator()) > 0.5).float()
    good = (255 * torch.nn.functional.interpolate(grain, size=64)).repeat(1, 3, 1, 1).byte()
    simulator = AnomalySimulator(
        good, textures(), replace(ALWAYS, own_texture=1.0, perlin_max_exponent=2), _generator(1)
    )
    batch = simulator.batch(16)
    pieces = [cv2.connectedComponents(mask[0].numpy().astype(np.uint8))[0] - 1 for mask in batch.mask]
    changed = ((batch.augmented - batch.clean).abs().amax(dim=1) >= 0.03).numpy().astype(np.uint8)
    assert np.mean(pieces) < 0.7 * np.mean([cv2.connectedComponents(one)[0] - 1 for one in changed])
