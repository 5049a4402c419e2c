"""Settings of the network of Božič et al., and its presets."""

from __future__ import annotations

from dataclasses import dataclass

from training.methods.simulated import FAST_LOOP, FAST_SIMULATION, SimulatedSettings
from training.settings import setting


@dataclass(frozen=True)
class BozicConfig(SimulatedSettings):
    width: int = setting(32, "channels of the network's first stage", 1, 4096)
    decision_weight: float = setting(1.0, "of the decision's loss at the end of the training; 0 at its start", 0.0)
    dilation: int = setting(7, "pixels: masks are grown by windows of this odd side before they are learned", 1, 63)
    peak_weight: float = setting(3.0, "of the innermost pixel of an anomaly in the loss; normal ones count 1", 0.0)
    peak_power: float = setting(2.0, "how fast that weight falls towards the anomaly's rim", 0.0, 8.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dilation % 2 == 0:
            raise ValueError(f"dilation {self.dilation}: choose an odd number")


PRESETS = {
    "bozic-edge": BozicConfig(preset="bozic-edge", steps=1500, width=8, **FAST_LOOP, **FAST_SIMULATION),
    # Rate, epochs and batch are those that the authors use on DAGM.
    "bozic-paper": BozicConfig(preset="bozic-paper", epochs=70, batch=1, optimizer="sgd", lr=0.05, schedule="constant"),
}
