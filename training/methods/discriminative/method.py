"""The discriminative network alone: it learns to see simulated anomalies without a reconstruction beside them.

The row "Disc." of Zavrtanik et al. 2021, table 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.loop.fit import train
from training.loop.runs import Run
from training.losses import focal_loss
from training.methods.discriminative.config import PRESETS, DiscriminativeConfig
from training.methods.protocol import Method, TrainingSet
from training.methods.simulated import samples_of, simulator_of, textures_from
from training.networks.alone import DiscriminativeAlone, start_at
from training.networks.anomaly_map import AnomalyMap
from training.networks.compact import CompactDraem
from training.networks.draem import Draem
from training.simulation.simulator import AnomalySimulator, Batch


class DiscriminativeLesson:
    def __init__(self, config: DiscriminativeConfig, simulator: AnomalySimulator) -> None:
        self.weights = {"focal": 1.0}
        self.config = config
        self.simulator = simulator

    def network(self) -> nn.Module:
        return build_network(self.config)

    def draw(self, count: int) -> Batch:
        return self.simulator.batch(count)

    def forward(self, network: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = network(batch.augmented.contiguous(memory_format=torch.channels_last))[1]
        return logits

    def losses(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"focal": focal_loss(outputs.float(), batch.mask)}

    def columns(self, outputs: Tensor, batch: Batch) -> list[Tensor]:
        """What the network sees, where the anomaly is, where it finds one."""
        return [batch.augmented, batch.mask, outputs.detach().float().softmax(dim=1)[:, 1:]]


def build_network(config: DiscriminativeConfig) -> DiscriminativeAlone:
    # The other network, which is thrown away, is as narrow as can be.
    both = (CompactDraem if config.compact else Draem)(1, config.width)
    if config.anomaly_prior:
        start_at(both.last_layer, config.anomaly_prior)
    return DiscriminativeAlone(both)


def fit(config: DiscriminativeConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    simulator = simulator_of(config, data, device)
    lesson = DiscriminativeLesson(config, simulator)
    return AnomalyMap(train(config, lesson, simulator.generator, run, photos=len(data.good), device=device))


DISCRIMINATIVE = Method(
    name="discriminative",
    title="DRÆM's discriminative network alone: no reconstruction",
    presets=PRESETS,
    fit=fit,
    learns_defects=True,
    textures=textures_from,
    network=lambda config: AnomalyMap(build_network(config)),
    samples=samples_of,
)
