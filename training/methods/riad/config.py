"""Settings of RIAD, and its presets."""

from __future__ import annotations

from dataclasses import dataclass

from training.loop.settings import LoopSettings
from training.methods.simulated import FAST_LOOP
from training.settings import setting


@dataclass(frozen=True)
class RiadConfig(LoopSettings):
    width: int = setting(64, "channels of the network's first stage", 1, 4096)
    parts: int = setting(3, "disjoint sets that the squares are split into, each hidden in turn", 2, 8)


PRESETS = {
    "riad-edge": RiadConfig(preset="riad-edge", steps=1500, width=8, **FAST_LOOP),
    # All photos for all epochs: the public ports keep a fifth of them aside and stop early.
    "riad-paper": RiadConfig(
        preset="riad-paper", epochs=300, batch=4, weight_decay=1e-5, schedule="constant", score="paper"
    ),
}
