"""Settings of every method that learns in steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from training.settings import RecipeSettings, setting


@dataclass(frozen=True)
class LoopSettings(RecipeSettings):
    epochs: int = setting(700, "of ceil(photos / batch) steps", 1)
    steps: int = setting(0, "optimiser steps; 0: epochs decide", 0)
    batch: int = setting(8, "samples a step", 1)
    optimizer: Literal["adam", "muon", "sgd"] = setting(
        "adam", "muon: see training/loop/muon.py; sgd: without momentum"
    )
    lr: float = setting(1e-4, "learning rate", 0.0)
    schedule: Literal["multistep", "multistep-text", "onecycle", "constant"] = setting(
        "multistep", "how the rate falls, see learning_rate in training/loop/fit.py"
    )
    warmup: float = setting(0.1, "share of the steps in which the rate rises, onecycle only", 0.0, 0.9)
    weight_decay: float = setting(0.0, "muon: taken off the weights; adam: L2, added to the gradients", 0.0, 1.0)
    bf16: bool = setting(False, "autocast to bfloat16 (float16 on GPUs without it); losses and weights stay float32")

    def steps_for(self, photos: int) -> int:
        """Optimiser steps of a training with so many photos."""
        return self.steps or self.epochs * math.ceil(photos / self.batch)
