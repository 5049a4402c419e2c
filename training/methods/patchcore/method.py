"""PatchCore (Roth et al., CVPR 2022): a bank of good patches, no training. See `training.methods.protocol`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from training.features.coreset import farthest_points, projected
from training.features.distances import NearestPatch
from training.features.embedding import Standardised, embeddings_of, features_of
from training.features.map import DistanceMap
from training.features.trunks import TrunkChoice, load_trunk, pretrained_of
from training.loop.runs import Run
from training.methods.patchcore.reweighting import ReweightedPatches
from training.methods.protocol import Method, TrainingSet
from training.settings import RecipeSettings, setting

_MEASURED = 64  # good photos that tell how far good parts lie
MOST_PATCHES = 100_000  # that the bank is chosen from, drawn by the seed where there are more


@dataclass(frozen=True)
class PatchcoreConfig(RecipeSettings):
    bank: int = setting(2048, "good patches in the bank: time and memory of an inspection grow with it", 16, 65536)
    neighbours: int = setting(
        9, "good patches around the nearest one, by which an image's distances are weighed; 1: they are not", 1, 64
    )
    features: TrunkChoice = field(default_factory=TrunkChoice)


def fit(config: PatchcoreConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    """The map of the distances to the nearest patch of the bank."""
    trunk = load_trunk(config.features).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    features = features_of(trunk, data.good, device)
    standardised = Standardised(features).to(device)
    embeddings = embeddings_of(standardised, features, device)
    generator = torch.Generator().manual_seed(config.seed)
    patches = embeddings.flatten(0, 2)
    drawn = torch.randperm(len(patches), generator=generator)[:MOST_PATCHES].to(device)
    chosen = drawn[farthest_points(projected(patches[drawn], generator), config.bank, generator)]
    distance = NearestPatch(embeddings, chosen)
    some = torch.arange(min(_MEASURED, len(embeddings)))
    good = torch.cat([distance.without(embeddings[part], part) for part in torch.split(some, 8)])
    # Of patches left out no weight is known; it would move the middle of the map by a ninth at most.
    weighed = ReweightedPatches(distance, min(config.neighbours, len(chosen))) if config.neighbours > 1 else distance
    return DistanceMap(trunk, standardised, weighed, good).eval()


PATCHCORE = Method(
    name="patchcore",
    title="PatchCore on EfficientNet-lite0: distances to the nearest of a bank of good patches",
    presets={"coreset": PatchcoreConfig(preset="coreset", score="peak")},
    fit=fit,
    pretrained=lambda config: pretrained_of(config.features),
)
