"""DRÆM's settings: one dataclass, one table of presets. Every difference from the authors' code is a row below.

One is in every row, `paper` too: the photos held out for calibration are not trained on, as the authors' are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from training.methods.simulated import FAST_LOOP, FAST_SIMULATION, SimulatedSettings
from training.settings import setting
from training.simulation.simulator import SimulatorConfig


@dataclass(frozen=True)
class TrainConfig(SimulatedSettings):
    reconstructive_width: int = setting(128, "channels of the reconstructive network's first stage", 1, 4096)
    discriminative_width: int = setting(64, "channels of the discriminative network's first stage", 1, 4096)
    compact: bool = setting(
        False, "no stage of full resolution: networks of 2x2 pixel blocks, see training/networks/compact.py"
    )
    networks: Literal["both", "reconstructive", "discriminative"] = setting("both", "one alone only for ablations")
    distance: Literal["ssim", "msgms"] = setting(
        "ssim", "image to reconstruction: the map of a reconstructive network alone"
    )
    anomaly_prior: float = setting(
        0.0,
        "anomalous share of the pixels as the untrained network has it (Lin et al. 2017, sec. 4.1); "
        "0: the authors' start",
        0.0,
        0.5,
    )
    l2_weight: float = setting(1.0, "of the L2 loss; 0 removes it")
    ssim_weight: float = setting(1.0, "of the SSIM loss; 0 removes it")
    focal_weight: float = setting(1.0, "of the focal loss; 0 removes it")


# A sixteenth and a quarter of the paper's widths, no stage of full resolution: 76 times less arithmetic.
_NARROW: dict[str, Any] = {
    **FAST_LOOP,
    **FAST_SIMULATION,
    "anomaly_prior": 0.01,
    "compact": True,
    "reconstructive_width": 8,
    "discriminative_width": 16,
}

# Where the paper's text says otherwise than the authors' code. It gives no range for the mask's threshold.
_TEXT_SIMULATOR = SimulatorConfig(
    opacity_min=0.1, rotate_degrees=45.0, perlin_threshold=0.0, perlin_threshold_max=1.0, augmenters="text"
)

PRESETS = {
    "paper": TrainConfig(preset="paper"),
    "paper-text": TrainConfig(preset="paper-text", schedule="multistep-text", simulator=_TEXT_SIMULATOR),
    "edge": TrainConfig(preset="edge", steps=3000, **_NARROW),
    "quick": TrainConfig(preset="quick", steps=1500, **_NARROW),
}


def preset(name: str, **changes: Any) -> TrainConfig:
    """The preset's settings with `changes`; unknown names raise TypeError, unknown presets ValueError."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: choose {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)
