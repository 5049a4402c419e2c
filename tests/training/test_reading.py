from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.folders import DataError, find_images
from training.data.reading import load_images, require_readable
from training.simulation.textures import load_textures


def _write(path: Path, value: int = 128, size: int = 40) -> None:
    cv2.imwrite(str(path), np.full((size, size, 3), value, np.uint8))


def test_images_become_rgb_tensors_of_one_size(tmp_path: Path) -> None:
    red = np.zeros((50, 30, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    loaded = load_images([tmp_path / "red.png"], 32, "photos")
    assert loaded.shape == (1, 3, 32, 32)
    assert loaded[0, :, 0, 0].tolist() == [255, 0, 0]


def test_unreadable_images_are_all_named_at_once_with_the_remedy(tmp_path: Path) -> None:
    _write(tmp_path / "fine.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "empty.jpg").touch()
    for read in (
        lambda paths: load_images(paths, 32, "good photos"),
        lambda paths: require_readable(paths, "good photos"),
    ):
        with pytest.raises(DataError, match=r"2 of 3 good photos cannot be read: replace or remove them") as caught:
            read(find_images(tmp_path))
        assert all(name in str(caught.value) for name in ("broken.png", "empty.jpg"))
        assert "fine.png" not in str(caught.value)


def test_unreadable_textures_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        _write(tmp_path / f"{number}.png", 50 * number)
    (tmp_path / "1.png").write_bytes(b"text")
    assert load_textures(tmp_path, 8, limit=0, seed=0)[:, 0, 0, 0].tolist() == [0, 100]
    assert "1 of 3 textures cannot be read and are left out" in capsys.readouterr().err
    for number in (0, 2):
        (tmp_path / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 3 textures cannot be read"):
        load_textures(tmp_path, 8, limit=0, seed=0)
