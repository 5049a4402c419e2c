"""Settings of every method that learns in steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.settings import RecipeSettings, setting


@dataclass(frozen=True)
class LoopSettings(RecipeSettings):
    epochs: int = setting(700, "of ceil(photos / batch) steps", 1)
    steps: int = setting(0, "optimiser steps; 0: epochs decide", 0)
    batch: int = setting(8, "samples a step", 1)
    optimizer: Literal["adam", "muon"] = setting("adam", "see training/loop/muon.py")
    lr: float = setting(1e-4, "learning rate", 0.0)
    schedule: Literal["multistep", "multistep-text", "onecycle"] = setting(
        "multistep", "how the rate falls, see learning_rate in training/loop/fit.py"
    )
    warmup: float = setting(0.1, "share of the steps in which the rate rises, onecycle only", 0.0, 0.9)
    weight_decay: float = setting(0.0, "muon only", 0.0, 1.0)
    bf16: bool = setting(False, "autocast to bfloat16 (float16 on GPUs without it); losses and weights stay float32")
