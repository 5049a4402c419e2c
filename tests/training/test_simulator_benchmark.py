from pathlib import Path

import cv2
import numpy as np
import pytest

from training.benchmarks.simulator import AuthorsLoader, authors_perlin, main


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (80, 60, 3), dtype=np.uint8))
    return tmp_path


def test_reference_makes_the_authors_masks(pictures: Path) -> None:
    """Half normal by draw and 5.5 % of the rest by empty masks; coverage of the others about 5 %."""
    files = sorted(pictures.iterdir())
    loader = AuthorsLoader(files, files, 256, seed=0)
    coverage = np.array([loader.sample()[2].mean() for _ in range(300)])
    assert 0.43 < (coverage == 0).mean() < 0.62
    assert 0.04 < coverage[coverage > 0].mean() < 0.063


def test_reference_changes_pictures_only_inside_the_mask(pictures: Path) -> None:
    files = sorted(pictures.iterdir())
    loader = AuthorsLoader(files, files, 64, seed=1)
    samples = [loader.sample() for _ in range(20)]
    assert any(mask.any() for _, _, mask in samples)
    for augmented, clean, mask in samples:
        assert (augmented.dtype, augmented.shape, mask.shape) == (np.float32, (3, 64, 64), (1, 64, 64))
        np.testing.assert_allclose(augmented * (1 - mask), clean * (1 - mask), atol=1e-6)


def test_reference_noise_is_zero_on_lattice_points() -> None:
    noise = authors_perlin(4, 8, 64, np.random.default_rng(0))
    assert np.abs(noise[::16, ::8]).max() < 1e-9
    assert np.abs(noise).max() > 0.3


def test_benchmark_prints_both_formulas(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data", str(pictures), "--textures", str(pictures), "--size", "64", "--repeats", "3"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["authors", "paper", "edge and quick"]
    assert all(float(row[1]) > 0 for row in rows)
