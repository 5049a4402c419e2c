from collections.abc import Callable

import pytest

from training.methods.draem.config import TrainConfig, preset
from training.simulation.simulator import SimulatorConfig


def test_paper_preset_is_the_authors_code() -> None:
    config = preset("paper")
    assert (config.reconstructive_width, config.discriminative_width) == (128, 64)
    assert (config.epochs, config.steps, config.batch, config.lr) == (700, 0, 8, 1e-4)
    assert (config.optimizer, config.schedule, config.bf16) == ("adam", "multistep", False)
    assert config.simulator == SimulatorConfig()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: preset("quick", size=300), "size 300: choose a multiple of 32"),
        (lambda: preset("quick", holdout=1.0), r"holdout 1\.0: choose 0\.0 to 0\.9"),
        (lambda: preset("quick", lr=float("nan")), "lr nan"),
        (lambda: SimulatorConfig(perlin_max_exponent=6), "perlin-max-exponent 6: choose 0 to 5"),
    ],
)
def test_values_that_cannot_work_are_named_with_what_can(settings: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no preset 'papers': choose paper"):
        preset("papers")
    with pytest.raises(TypeError):
        preset("paper", learning_rate=1)
    with pytest.raises(TypeError):
        TrainConfig(widths=3)  # type: ignore[call-arg]
