"""Settings of the fusion of distances and head, and its presets."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.features.trunks import TrunkChoice
from training.loop.settings import LoopSettings
from training.methods.fusion.anomalies import AnomalyShares
from training.settings import setting


@dataclass(frozen=True)
class FusionConfig(LoopSettings):
    width: int = setting(32, "channels of the head at stride 4; more at stride 8, fewer at stride 2", 8, 512)
    samples: int = setting(2800, "simulated images, made once: 0.6 MB of memory each at 256x256", 8)
    channels: int = setting(112, "channels, drawn by the seed, of the distance to a position's Gaussian", 8, 4096)
    bank: int = setting(768, "good patches among which the nearest one is looked for", 16)
    distance_weight: float = setting(
        0.0,
        "logits that a deviation of the distances counts for, beside what the head makes of them; 0: chosen on defects "
        "rendered on held-out photos",
        0.0,
    )
    anomaly_prior: float = setting(0.02, "anomalous share of the pixels as the untrained head has it", 0.001, 0.5)
    max_textures: int = setting(300, "decoded textures kept in memory; 0: all", 0)
    features: TrunkChoice = field(default_factory=TrunkChoice)
    anomalies: AnomalyShares = field(default_factory=AnomalyShares)


_LEARNING = {
    "optimizer": "muon",
    "lr": 2e-3,
    "schedule": "onecycle",
    "weight_decay": 1e-3,
    "batch": 4,
    "score": "peak",
}
PRESETS = {
    "station": FusionConfig(preset="station", steps=2400, **_LEARNING),  # type: ignore[arg-type]
    "short": FusionConfig(preset="short", steps=600, samples=800, **_LEARNING),  # type: ignore[arg-type]
}
