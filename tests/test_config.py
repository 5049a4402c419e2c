from pathlib import Path

import pytest

from training.anomalies import SimulatorConfig
from training.config import PRESETS, TrainConfig, load_config, preset, save_config


def test_paper_preset_is_the_authors_code() -> None:
    config = preset("paper")
    assert (config.reconstructive_width, config.discriminative_width) == (128, 64)
    assert (config.epochs, config.steps, config.batch, config.lr) == (700, 0, 8, 1e-4)
    assert (config.optimizer, config.schedule, config.bf16) == ("adam", "multistep", False)
    assert config.simulator == SimulatorConfig()


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_its_file(tmp_path: Path, name: str) -> None:
    save_config(preset(name, seed=3), tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == preset(name, seed=3)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no preset 'papers': choose paper"):
        preset("papers")
    with pytest.raises(TypeError):
        preset("paper", learning_rate=1)
    with pytest.raises(TypeError):
        TrainConfig(widths=3)  # type: ignore[call-arg]
