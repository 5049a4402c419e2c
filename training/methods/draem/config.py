"""Training settings: one dataclass, one table of presets. Every difference from the authors' code is a row below.

One is in every row, `paper` too: the photos held out for calibration are not trained on, as the authors' are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from service.bundle.manifest import ScoreFormula
from training.methods.draem.simulator import SimulatorConfig, require_ranges

# Lowest and highest value of the fields that have one.
_RANGES = {
    "size": (32, 4096),
    "reconstructive_width": (1, 4096),
    "discriminative_width": (1, 4096),
    "anomaly_prior": (0.0, 0.5),
    "epochs": (1, math.inf),
    "steps": (0, math.inf),
    "batch": (1, math.inf),
    "lr": (0.0, math.inf),
    "warmup": (0.0, 0.9),
    "weight_decay": (0.0, 1.0),
    "max_textures": (0, math.inf),
    "holdout": (0.0, 0.9),
}


@dataclass(frozen=True)
class TrainConfig:
    preset: str = "paper"
    seed: int = 0
    size: int = 256  # pixels, images are resized to size x size; divisible by 32
    reconstructive_width: int = 128  # channels of the first stage
    discriminative_width: int = 64
    compact: bool = (
        False  # no stage of full resolution: networks of 2x2 pixel blocks, see training.methods.draem.compact
    )
    networks: Literal["both", "reconstructive", "discriminative"] = "both"  # one alone only for ablations
    distance: Literal["ssim", "msgms"] = "ssim"  # image to reconstruction: the map of a reconstructive network alone
    # Anomalous share of the pixels as the untrained network has it (Lin et al. 2017, sec. 4.1); 0: the authors' start.
    anomaly_prior: float = 0.0
    score: ScoreFormula = "paper"  # what makes one number of the map, see training.bundling.scores
    epochs: int = 700  # of ceil(images / batch) steps
    steps: int = 0  # optimiser steps; 0: epochs decide
    batch: int = 8
    optimizer: Literal["adam", "muon"] = "adam"
    lr: float = 1e-4
    schedule: Literal["multistep", "multistep-text", "onecycle"] = "multistep"  # see training.loop.fit.learning_rate
    warmup: float = 0.1  # share of the steps, onecycle only
    weight_decay: float = 0.0  # muon only
    l2_weight: float = 1.0
    ssim_weight: float = 1.0
    focal_weight: float = 1.0
    bf16: bool = False  # autocast to bfloat16 (float16 on GPUs without it); losses and weights stay float32
    max_textures: int = 0  # decoded textures kept in memory; 0: all
    holdout: float = 0.15  # share of the good photos kept for calibration, never trained on
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)

    def __post_init__(self) -> None:
        require_ranges(self, _RANGES)
        if self.size % 32:
            raise ValueError(f"size {self.size}: choose a multiple of 32")


_NARROW_SIMULATOR = SimulatorConfig(
    anomaly_probability=0.7, match_grey=True, own_texture=0.3, mask_combination=True, visible_min=0.03
)
# A sixteenth and a quarter of the paper's widths, no stage of full resolution: 76 times less arithmetic.
_NARROW: dict[str, Any] = {
    "anomaly_prior": 0.01,
    "compact": True,
    "reconstructive_width": 8,
    "discriminative_width": 16,
    "lr": 2e-3,
    "optimizer": "muon",
    "schedule": "onecycle",
    "weight_decay": 1e-4,
    "batch": 4,
    "bf16": True,
    "score": "windows",
    "max_textures": 1500,
    "simulator": _NARROW_SIMULATOR,
}

# Where the paper's text says otherwise than the authors' code. It gives no range for the mask's threshold.
_TEXT_SIMULATOR = SimulatorConfig(
    opacity_min=0.1, rotate_degrees=45.0, perlin_threshold=0.0, perlin_threshold_max=1.0, augmenters="text"
)

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "paper-text": {"schedule": "multistep-text", "simulator": _TEXT_SIMULATOR},
    "edge": {"steps": 3000, **_NARROW},
    "quick": {"steps": 1500, **_NARROW},
}


def preset(name: str, **changes: Any) -> TrainConfig:
    """The preset's settings with `changes`; unknown names raise TypeError, unknown presets ValueError."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: choose {', '.join(PRESETS)}")
    return replace(TrainConfig(preset=name, **PRESETS[name]), **changes)
