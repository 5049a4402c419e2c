"""The reconstructive network alone: it restores photos from simulated anomalies, and the map is what it changes.

The rows "Recon.-AE" of Zavrtanik et al. 2021, table 3, scored by SSIM or by MSGMS.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.loop.fit import train
from training.loop.runs import Run
from training.losses import ssim_loss
from training.methods.protocol import Method, TrainingSet
from training.methods.reconstruction.config import PRESETS, ReconstructionConfig
from training.methods.simulated import samples_of, simulator_of, textures_from
from training.networks.alone import ReconstructiveAlone
from training.networks.anomaly_map import AnomalyMap
from training.networks.compact import CompactDraem
from training.networks.draem import Draem
from training.simulation.simulator import AnomalySimulator, Batch


class ReconstructionLesson:
    def __init__(self, config: ReconstructionConfig, simulator: AnomalySimulator) -> None:
        self.weights = {"l2": 1.0, "ssim": 1.0}
        self.config = config
        self.simulator = simulator

    def network(self) -> nn.Module:
        return build_network(self.config)

    def draw(self, count: int) -> Batch:
        return self.simulator.batch(count)

    def forward(self, network: nn.Module, batch: Batch) -> Tensor:
        reconstruction: Tensor = network(batch.augmented.contiguous(memory_format=torch.channels_last))[0]
        return reconstruction

    def losses(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        reconstruction = outputs.float()
        return {
            "l2": functional.mse_loss(reconstruction, batch.clean),
            "ssim": ssim_loss(reconstruction, batch.clean),
        }

    def columns(self, outputs: Tensor, batch: Batch) -> list[Tensor]:
        """The photo with an anomaly, what the network makes of it, and what it should."""
        return [batch.augmented, outputs.detach().float().clamp(0, 1), batch.clean]


def build_network(config: ReconstructionConfig) -> ReconstructiveAlone:
    # The other network, which is thrown away, is as narrow as can be.
    return ReconstructiveAlone((CompactDraem if config.compact else Draem)(config.width, 1), config.distance)


def fit(config: ReconstructionConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    simulator = simulator_of(config, data, device)
    lesson = ReconstructionLesson(config, simulator)
    return AnomalyMap(train(config, lesson, simulator.generator, run, photos=len(data.good), device=device))


RECONSTRUCTION = Method(
    name="reconstruction",
    title="DRÆM's reconstructive network alone: the map is the distance of image and reconstruction",
    presets=PRESETS,
    fit=fit,
    learns_defects=True,
    textures=textures_from,
    network=lambda config: AnomalyMap(build_network(config)),
    samples=samples_of,
    untrained={"distance": "ssim"},
)
