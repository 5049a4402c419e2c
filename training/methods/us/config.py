"""Settings of Uninformed Students, and its presets."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.features.trunks import TrunkChoice
from training.loop.settings import LoopSettings
from training.methods.simulated import FAST_LOOP
from training.settings import setting


@dataclass(frozen=True)
class UsConfig(LoopSettings):
    width: int = setting(64, "channels of a student's first stage", 1, 1024)
    students: int = setting(3, "networks, each with a random start of its own", 2, 8)
    validation: float = setting(
        0.2, "share of the training photos that only the moments of the errors come from", 0.05, 0.5
    )
    features: TrunkChoice = field(default_factory=TrunkChoice)


PRESETS = {
    "us-edge": UsConfig(preset="us-edge", steps=1500, width=12, **{**FAST_LOOP, "score": "peak"}),
    "us-paper": UsConfig(preset="us-paper", epochs=100, batch=1, weight_decay=1e-5, schedule="constant", score="peak"),
}
