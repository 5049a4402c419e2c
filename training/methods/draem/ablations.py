"""DRÆM's ablations: rows of differences over a preset, beside the paper's table 3 and figure 9.

Every row differs from the full method, the paper's simulator on the preset's networks and schedule, in what its title
says and in nothing else. The row `preset` is the preset as it ships.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from training.methods.draem.config import TrainConfig
from training.simulation.simulator import SimulatorConfig

# Image AUROC, pixel AUROC, pixel AP in percent.
Figures = tuple[float, float, float]


@dataclass(frozen=True)
class Ablation:
    """What differs from the full method: fields of TrainConfig and of SimulatorConfig, or the texture folder."""

    title: str
    paper: Figures | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    simulator: dict[str, Any] = field(default_factory=dict)
    other_textures: bool = False
    as_shipped: bool = False  # the preset's own simulator and number of textures

    def apply(self, preset: TrainConfig) -> TrainConfig:
        """The row's settings; a field that does not exist raises TypeError."""
        if self.as_shipped:
            return preset
        full = {"score": "paper", "max_textures": 0, "simulator": SimulatorConfig(**self.simulator)}
        return replace(preset, **{**full, **self.changes})


_RECONSTRUCTIVE = {"networks": "reconstructive", "focal_weight": 0.0}

ABLATIONS: dict[str, Ablation] = {
    "discriminative": Ablation(
        "discriminative network only: it sees the image twice, no reconstruction",
        (93.9, 92.7, 62.5),
        {"networks": "discriminative", "l2_weight": 0.0, "ssim_weight": 0.0},
    ),
    "reconstructive-ssim": Ablation(
        "reconstructive network and its losses only, map by SSIM", (83.9, 89.7, 47.5), _RECONSTRUCTIVE
    ),
    "reconstructive-msgms": Ablation(
        "reconstructive network and its losses only, map by MSGMS",
        (90.7, 93.4, 50.9),
        {**_RECONSTRUCTIVE, "distance": "msgms"},
    ),
    "imagenet": Ablation("textures from an ImageNet-like folder", (97.9, 97.0, 67.9), other_textures=True),
    "colours": Ablation(
        "homogeneous colours as textures",
        (96.2, 92.6, 56.5),
        simulator={"plain_colours": True, "texture_augmentation": False},
    ),
    "rectangles": Ablation(
        "rectangles instead of Perlin masks", (96.9, 96.8, 65.1), simulator={"mask_shape": "rectangles"}
    ),
    "no-augmentation-no-opacity": Ablation(
        "neither texture augmentation nor random opacity",
        (97.4, 94.5, 64.3),
        simulator={"texture_augmentation": False, "opacity_min": 1.0},
    ),
    "no-opacity": Ablation("no random opacity", (97.4, 95.0, 64.5), simulator={"opacity_min": 1.0}),
    "no-augmentation": Ablation(
        "no texture augmentation", (97.9, 97.1, 68.4), simulator={"texture_augmentation": False}
    ),
    "full": Ablation("the full method; all textures", (98.0, 97.3, 68.4)),
    "textures-1": Ablation("1 texture", changes={"max_textures": 1}),
    "textures-10": Ablation("10 textures", changes={"max_textures": 10}),
    "textures-100": Ablation("100 textures", changes={"max_textures": 100}),
    "focal-only": Ablation(
        "both networks, the discriminative loss only: no L2, no SSIM", changes={"l2_weight": 0.0, "ssim_weight": 0.0}
    ),
    "no-l2": Ablation("no L2 in the reconstruction loss", changes={"l2_weight": 0.0}),
    "no-ssim": Ablation("no SSIM in the reconstruction loss", changes={"ssim_weight": 0.0}),
    "score-mean": Ablation("the full method, score `mean`", changes={"score": "mean"}),
    "score-windows": Ablation("the full method, score `windows`", changes={"score": "windows"}),
    "score-top": Ablation("the full method, score `top`", changes={"score": "top"}),
    "preset": Ablation("the preset as it ships, with its own simulator and score", as_shipped=True),
}
