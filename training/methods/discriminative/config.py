"""Settings of the discriminative network alone, and its presets."""

from __future__ import annotations

from dataclasses import dataclass

from training.methods.simulated import FAST_LOOP, FAST_SIMULATION, SimulatedSettings
from training.settings import setting


@dataclass(frozen=True)
class DiscriminativeConfig(SimulatedSettings):
    width: int = setting(64, "channels of the network's first stage", 1, 4096)
    compact: bool = setting(
        False, "no stage of full resolution: networks of 2x2 pixel blocks, see training/networks/compact.py"
    )
    anomaly_prior: float = setting(
        0.0, "anomalous share of the pixels as the untrained network has it; 0: the authors' start", 0.0, 0.5
    )


PRESETS = {
    "discriminative-edge": DiscriminativeConfig(
        preset="discriminative-edge",
        steps=1500,
        width=16,
        compact=True,
        anomaly_prior=0.01,
        **FAST_LOOP,
        **FAST_SIMULATION,
    ),
    "discriminative-paper": DiscriminativeConfig(preset="discriminative-paper"),
}
