"""Settings of the reconstructive network alone, and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.methods.simulated import FAST_LOOP, FAST_SIMULATION, SimulatedSettings
from training.settings import setting


@dataclass(frozen=True)
class ReconstructionConfig(SimulatedSettings):
    distance: Literal["ssim", "msgms"] = setting("msgms", "image to reconstruction: what the map is made of")
    width: int = setting(128, "channels of the network's first stage", 1, 4096)
    compact: bool = setting(
        False, "no stage of full resolution: networks of 2x2 pixel blocks, see training/networks/compact.py"
    )


PRESETS = {
    "reconstruction-edge": ReconstructionConfig(
        preset="reconstruction-edge",
        steps=1500,
        width=8,
        compact=True,
        **FAST_LOOP,
        **FAST_SIMULATION,
    ),
    "reconstruction-paper": ReconstructionConfig(preset="reconstruction-paper"),
}
