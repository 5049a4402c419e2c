"""PaDiM (Defard et al., ICPR 2021): a Gaussian for each position, no training. See `training.methods.protocol`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from training.features.distances import PositionGaussian
from training.features.embedding import Standardised, embeddings_of, features_of
from training.features.map import DistanceMap
from training.features.trunks import TrunkChoice, load_trunk, pretrained_of
from training.loop.runs import Run
from training.methods.protocol import Method, TrainingSet
from training.settings import RecipeSettings, setting

_MEASURED = 64  # good photos that tell how far good parts lie


@dataclass(frozen=True)
class PadimConfig(RecipeSettings):
    channels: int = setting(100, "of the trunk's (the default one has 176), drawn by the seed", 8, 4096)
    square: int = setting(1, "positions along an edge that share a covariance: with 2, a quarter of the memory", 1, 2)
    features: TrunkChoice = field(default_factory=TrunkChoice)


def fit(config: PadimConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    """The map of the distances to what the positions of the good photos look like."""
    trunk = load_trunk(config.features).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    features = features_of(trunk, data.good, device)
    standardised = Standardised(features).to(device)
    embeddings = embeddings_of(standardised, features, device)
    generator = torch.Generator().manual_seed(config.seed)
    distance = PositionGaussian(embeddings, config.channels, generator, config.square)
    some = embeddings[:_MEASURED]
    return DistanceMap(trunk, standardised, distance, distance.without(some, some)).eval()


PADIM = Method(
    name="padim",
    title="PaDiM on EfficientNet-lite0: distances to a Gaussian of each position",
    presets={"gaussian": PadimConfig(preset="gaussian", score="peak")},
    fit=fit,
    of_positions=True,
    pretrained=lambda config: pretrained_of(config.features),
)
