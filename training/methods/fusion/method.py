"""Fusion as a method: see `training.methods.protocol`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from training.evaluation.parts import Sheet
from training.features.trunks import pretrained_of
from training.methods.fusion.config import PRESETS, FusionConfig
from training.methods.fusion.lesson import fit, mixture_of
from training.methods.fusion.weighing import weigh
from training.methods.protocol import Method, TrainingSet
from training.simulation.textures import load_textures


def _textures(config: FusionConfig, folder: Path | None) -> Tensor:
    return load_textures(folder, config.size, limit=config.max_textures, seed=config.seed)


def _samples(config: FusionConfig, data: TrainingSet) -> Sheet:
    mixture = mixture_of(config, data)
    drawn = [mixture.draw() for _ in range(8)]
    return Sheet(
        "Good photo, the same with a simulated anomaly, where the anomaly is. Some samples stay as they are.",
        [
            torch.stack([data.good[one.photo].float() / 255 for one in drawn]),
            torch.stack([one.image for one in drawn]),
            torch.stack([one.mask[None] for one in drawn]),
        ],
    )


def _memory(config: FusionConfig, images: int) -> int:
    """Bytes at the worst moment: samples with their features, in parts and joined; embeddings likewise; Gaussians."""
    pixels = config.size**2
    gaussians = 3 * 4 * (config.size // 16) ** 2 * config.channels**2
    return int(14.4 * pixels * config.samples + 38 * pixels * images) + gaussians


FUSION = Method(
    name="fusion",
    title="DRÆM's discriminative network on pretrained features, fused with distances to good patches",
    presets=PRESETS,
    fit=fit,
    settle=weigh,
    memory=_memory,
    learns_defects=True,
    pretrained=lambda config: pretrained_of(config.features),
    textures=_textures,
    samples=_samples,
)
