"""What methods share that learn from simulated anomalies: settings, textures, and the sheet of samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.evaluation.parts import Sheet
from training.loop.fit import generator_of
from training.loop.settings import LoopSettings
from training.methods.protocol import TrainingSet
from training.settings import setting
from training.simulation.real_defects import RealDefects
from training.simulation.simulator import AnomalySimulator, SimulatorConfig
from training.simulation.textures import load_textures


@dataclass(frozen=True)
class SimulatedSettings(LoopSettings):
    max_textures: int = setting(0, "decoded textures kept in memory; 0: all", 0)
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)


# What the CPU-sized presets differ in from the paper's.
FAST_LOOP: dict[str, Any] = {
    "lr": 2e-3,
    "optimizer": "muon",
    "schedule": "onecycle",
    "weight_decay": 1e-4,
    "batch": 4,
    "bf16": True,
    "score": "windows",
}
FAST_SIMULATION: dict[str, Any] = {
    "max_textures": 1500,
    "simulator": SimulatorConfig(
        anomaly_probability=0.7, match_grey=True, own_texture=0.3, mask_combination=True, visible_min=0.03
    ),
}


def textures_from(config: SimulatedSettings, folder: Path | None) -> Tensor:
    return load_textures(folder, config.size, limit=config.max_textures, seed=config.seed)


def simulator_of(config: SimulatedSettings, data: TrainingSet, device: torch.device) -> AnomalySimulator:
    """Draws from the training set on the device; ValueError where it has no textures."""
    if data.textures is None:
        raise ValueError("anomalies are simulated from textures, and there are none in the training set")
    good, textures = data.good.to(device), data.textures.to(device)
    generator = generator_of(config.seed)
    return AnomalySimulator(good, textures, config.simulator, generator, real_defects(data, generator))


def real_defects(data: TrainingSet, generator: torch.Generator) -> RealDefects | None:
    """The confirmed defects of a training set; None where it has none."""
    if data.defects is None or data.masks is None:
        return None
    return RealDefects(data.defects, data.masks, generator)


def samples_of(config: SimulatedSettings, data: TrainingSet) -> Sheet:
    batch = simulator_of(config, data, torch.device("cpu")).batch(8)
    return Sheet(
        "Good photo, the same with a simulated anomaly, where the anomaly is. Some samples stay as they are.",
        [batch.clean, batch.augmented, batch.mask],
    )
