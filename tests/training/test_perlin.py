import math

import numpy as np
import pytest
import torch

from training.simulation.perlin import perlin_noise


def _slow_perlin(angles: np.ndarray, rows: int, columns: int, size: int) -> np.ndarray:
    """The authors' formula, pixel by pixel."""

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    def lerp(a: float, b: float, w: float) -> float:
        return a + (b - a) * w

    out = np.empty((size, size))
    for y in range(size):
        for x in range(size):
            i, u = divmod(y * rows / size, 1)
            j, v = divmod(x * columns / size, 1)

            def ramp(di: int, dj: int, i: float = i, j: float = j, u: float = u, v: float = v) -> float:
                angle = angles[int(i) + di, int(j) + dj]
                return math.cos(angle) * (u - di) + math.sin(angle) * (v - dj)

            top, bottom = lerp(ramp(0, 0), ramp(1, 0), fade(u)), lerp(ramp(0, 1), ramp(1, 1), fade(u))
            out[y, x] = math.sqrt(2) * lerp(top, bottom, fade(v))
    return out


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 8), (32, 4)])
def test_matrix_form_equals_the_formula(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(3)
    noise = perlin_noise(torch.tensor([[rows, columns]]), 32, generator, torch.device("cpu"))[0]
    angles = torch.rand((1, 33, 33), generator=torch.Generator().manual_seed(3))[0].numpy() * 2 * math.pi
    np.testing.assert_allclose(noise.numpy(), _slow_perlin(angles, rows, columns, 32), atol=2e-5)


def test_noise_is_zero_on_lattice_points() -> None:
    noise = perlin_noise(torch.tensor([[4, 8]]), 64, torch.Generator().manual_seed(0), torch.device("cpu"))[0]
    assert noise[::16, ::8].abs().max() < 1e-5
    assert noise.abs().max() > 0.3
