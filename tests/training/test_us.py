import numpy as np
import pytest
import torch

from training.features.efficientnet_lite import EfficientNetLite0
from training.methods.us.network import Students, Teacher, UsMap, errors_of


def test_error_and_variance_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    wanted, said = rng.normal(size=(2, 5, 3, 4)), rng.normal(size=(2, 3, 5, 3, 4))
    error, variance = errors_of(torch.from_numpy(wanted), torch.from_numpy(said))
    expected = ((said.mean(axis=1) - wanted) ** 2).sum(axis=1)
    np.testing.assert_allclose(error[:, 0], expected)
    np.testing.assert_allclose(variance[:, 0], said.var(axis=1).sum(axis=1))


def test_the_teacher_has_no_mean_and_unit_deviation_on_what_it_was_standardised_on() -> None:
    torch.manual_seed(0)
    teacher = Teacher(EfficientNetLite0().requires_grad_(False).eval())
    photos = torch.randint(0, 256, (3, 3, 64, 64)).byte()
    teacher.standardise(photos)
    for feature, channels in zip(teacher(photos.float() / 255), EfficientNetLite0.channels, strict=True):
        assert feature.shape[1] == channels
        assert feature.mean(dim=(0, 2, 3)).abs().max() < 1e-3
        deviations = feature.std(dim=(0, 2, 3))
        # An untrained trunk has channels that say nothing.
        assert ((deviations - 1).abs() < 0.05)[deviations > 0.5].all()


def test_good_photos_come_to_a_quarter_and_students_that_know_nothing_else_to_more_on_noise() -> None:
    torch.manual_seed(0)
    teacher = Teacher(EfficientNetLite0().requires_grad_(False).eval())
    photos = torch.randint(100, 140, (4, 3, 64, 64)).byte()
    teacher.standardise(photos)
    us = UsMap(teacher, Students(EfficientNetLite0.channels, 2, 3)).eval()
    us.calibrate(photos)
    with torch.no_grad():
        peaks = us(photos.float() / 255).amax(dim=(1, 2))
        assert float(peaks.median()) == pytest.approx(1 - np.exp(-1 / 3), abs=0.1)
        for place in range(3):
            error = torch.cat([us.errors(photos.float() / 255)[place][0]])
            shown = (error - us.moments[place, 0, 0]) / us.moments[place, 0, 1]
            assert abs(float(shown.mean())) < 1e-2
            assert float(shown.std()) == pytest.approx(1, abs=1e-2)
        noise = torch.rand(1, 3, 64, 64)
        assert us(noise).max() > peaks.max()
        assert us(noise).max() < 1


def test_students_begin_apart() -> None:
    said = Students(EfficientNetLite0.channels, 2, 3)(torch.rand(1, 3, 64, 64))
    assert [stride.shape for stride in said] == [(1, 3, 24, 16, 16), (1, 3, 40, 8, 8), (1, 3, 112, 4, 4)]
    assert all(stride.var(dim=1).min() > 0 for stride in said)
