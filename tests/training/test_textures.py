from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from training.simulation.textures import AUGMENTERS, augment_textures, load_textures, procedural_textures, rotate

BY_NAME = {augmenter.__name__.strip("_"): augmenter for augmenter in AUGMENTERS}


@pytest.fixture
def photo() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    noise = torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(0)) * 40
    return (torch.stack((2 * x, 3 * y, x + y)) + noise + 20).round().clamp(0, 255)


def _pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).byte().numpy())


def _apply(name: str, image: torch.Tensor, *draw: float) -> np.ndarray:
    draws = torch.tensor([*draw, *[0.0] * (6 - len(draw))])
    return BY_NAME[name](image, draws).clamp(0, 255).round().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.9])
def test_sharpness_equals_pillow(photo: torch.Tensor, factor: float) -> None:
    expected = np.asarray(ImageEnhance.Sharpness(_pil(photo)).enhance(factor), float)
    assert np.abs(_apply("sharpness", photo, factor / 2) - expected).max() <= 2


def test_equalize_follows_pillow(photo: torch.Tensor) -> None:
    expected = np.asarray(ImageOps.equalize(_pil(photo)), float)
    assert np.abs(_apply("equalize", photo) - expected).mean() < 3


def test_autocontrast_follows_pillow(photo: torch.Tensor) -> None:
    expected = np.asarray(ImageOps.autocontrast(_pil(photo), cutoff=10), float)
    assert np.abs(_apply("autocontrast", photo, 10.5 / 21) - expected).max() <= 2


def test_solarize_and_invert_equal_pillow(photo: torch.Tensor) -> None:
    np.testing.assert_array_equal(_apply("invert", photo), np.asarray(ImageOps.invert(_pil(photo)), float))
    expected = np.asarray(ImageOps.solarize(_pil(photo), 32), float)
    np.testing.assert_array_equal(_apply("solarize", photo, 0.0, 0.0), expected)
    np.testing.assert_array_equal(_apply("solarize", photo, 0.9, 0.0), photo.permute(1, 2, 0).numpy())


def test_hue_and_saturation_follow_opencv(photo: torch.Tensor) -> None:
    hsv = cv2.cvtColor(photo.permute(1, 2, 0).numpy() / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * 25 / 255) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] - 25 / 255, 0, 1)
    expected = cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2RGB) * 255
    assert np.abs(_apply("hue_and_saturation", photo, 0.75, 0.25) - expected).max() < 1.5


def test_posterize_keeps_so_many_levels(photo: torch.Tensor) -> None:
    assert len(np.unique(_apply("posterize", photo, 0.0))) == 2
    assert len(np.unique(_apply("posterize", photo, 0.2))) <= 4


def test_rotation_follows_opencv() -> None:
    image = torch.zeros((1, 1, 65, 65))
    image[..., 10:30, 20:50] = 200
    matrix = cv2.getRotationMatrix2D((32, 32), 30, 1.0)
    expected = cv2.warpAffine(image[0, 0].numpy(), matrix, (65, 65), flags=cv2.INTER_LINEAR)
    turned = rotate(image, torch.tensor([30.0]))[0, 0].numpy()
    back = rotate(image, torch.tensor([-30.0]))[0, 0].numpy()
    assert min(np.abs(turned - expected).mean(), np.abs(back - expected).mean()) < 1


def test_every_augmenter_is_drawn_and_changes_pictures(photo: torch.Tensor) -> None:
    out = augment_textures(photo.repeat(64, 1, 1, 1), torch.Generator().manual_seed(0))
    assert out.min() >= 0
    assert out.max() <= 255
    assert (out != photo).flatten(1).any(dim=1).all()
    assert len(torch.unique(out.mean(dim=(1, 2, 3)))) > 60


def test_procedural_textures_differ_and_repeat_by_seed() -> None:
    first = procedural_textures(8, 64, torch.Generator().manual_seed(1))
    assert torch.equal(first, procedural_textures(8, 64, torch.Generator().manual_seed(1)))
    assert len({texture.numpy().tobytes() for texture in first}) == 8
    assert (first.float().flatten(1).std(dim=1) > 3).all()


def test_folder_is_read_and_limited(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"kind{i % 2}").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"kind{i % 2}" / f"{i}.png"), np.full((20, 30, 3), 40 * i, np.uint8))
    assert load_textures(tmp_path, 32, limit=0, seed=0).shape == (5, 3, 32, 32)
    limited = load_textures(tmp_path, 32, limit=3, seed=0)
    assert limited.shape == (3, 3, 32, 32)
    assert torch.equal(limited, load_textures(tmp_path, 32, limit=3, seed=0))
