"""DRÆM (Zavrtanik et al., ICCV 2021) as a method: see `training.methods.protocol`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from training.evaluation.parts import Sheet
from training.methods.draem.ablations import ABLATIONS
from training.methods.draem.checkpoints import load_official
from training.methods.draem.config import PRESETS, TrainConfig
from training.methods.draem.lesson import AnomalyMap, fit, textures_of
from training.methods.draem.variants import build_network
from training.methods.protocol import CheckpointImport, Method, TrainingSet
from training.simulation.simulator import AnomalySimulator, SimulatorConfig
from training.simulation.textures import load_textures


def _textures(config: TrainConfig, folder: Path | None) -> Tensor:
    return load_textures(folder, config.size, limit=config.max_textures, seed=config.seed)


def _samples(config: TrainConfig, data: TrainingSet) -> Sheet:
    generator = torch.Generator().manual_seed(config.seed)
    batch = AnomalySimulator(data.good, textures_of(data), config.simulator, generator).batch(8)
    return Sheet(
        "Good photo, the same with a simulated anomaly, where the anomaly is. Some samples stay as they are.",
        [batch.clean, batch.augmented, batch.mask],
    )


def _network(config: TrainConfig) -> nn.Module:
    return AnomalyMap(build_network(config))


def _load(files: Mapping[str, Path]) -> nn.Module:
    return AnomalyMap(load_official(files["reconstructive"], files.get("discriminative")))


DRAEM = Method(
    name="draem",
    title="DRÆM: a reconstructive and a discriminative network, trained on simulated anomalies",
    presets=PRESETS,
    fit=fit,
    textures=_textures,
    network=_network,
    samples=_samples,
    untrained={"distance": "ssim"},
    ablations=ABLATIONS,
    set_by_ablations=frozenset({"networks", "distance", "max_textures", *SimulatorConfig.__dataclass_fields__}),
    checkpoint=CheckpointImport(
        {
            "reconstructive": "the authors' *.pckl, or anomalib's file of both",
            "discriminative": "the authors' *_seg.pckl",
        },
        _load,
    ),
)
