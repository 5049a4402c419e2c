"""DRÆM (Zavrtanik et al., ICCV 2021) as a method: see `training.methods.protocol`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from training.methods.draem.ablations import ABLATIONS
from training.methods.draem.checkpoints import load_official
from training.methods.draem.config import PRESETS, TrainConfig
from training.methods.draem.lesson import fit
from training.methods.draem.variants import build_network
from training.methods.protocol import CheckpointImport, Method
from training.methods.simulated import samples_of, textures_from
from training.networks.anomaly_map import AnomalyMap
from training.simulation.simulator import SimulatorConfig


def _network(config: TrainConfig) -> nn.Module:
    return AnomalyMap(build_network(config))


def _load(files: Mapping[str, Path]) -> nn.Module:
    return AnomalyMap(load_official(files["reconstructive"], files.get("discriminative")))


DRAEM = Method(
    name="draem",
    title="DRÆM: a reconstructive and a discriminative network, trained on simulated anomalies",
    presets=PRESETS,
    fit=fit,
    learns_defects=True,
    textures=textures_from,
    network=_network,
    samples=samples_of,
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
