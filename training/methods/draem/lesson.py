"""What DRÆM's networks learn from: simulated anomalies and three losses (Zavrtanik et al. 2021, eq. 2, 3 and 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.loop.fit import train
from training.loop.runs import Run
from training.losses import focal_loss, ssim_loss
from training.methods.draem.config import TrainConfig
from training.methods.draem.variants import build_network
from training.methods.protocol import TrainingSet
from training.methods.simulated import simulator_of
from training.networks.anomaly_map import AnomalyMap
from training.simulation.simulator import AnomalySimulator, Batch

# Reconstruction (N, 3, H, W) and logits (N, 2, H, W).
Outputs = tuple[Tensor, Tensor]


class DraemLesson:
    def __init__(self, config: TrainConfig, simulator: AnomalySimulator) -> None:
        self.config = config
        self.simulator = simulator
        self.weights = {"l2": config.l2_weight, "ssim": config.ssim_weight, "focal": config.focal_weight}

    def network(self) -> nn.Module:
        return build_network(self.config)

    def draw(self, count: int) -> Batch:
        return self.simulator.batch(count)

    def forward(self, network: nn.Module, batch: Batch) -> Outputs:
        outputs: Outputs = network(batch.augmented.contiguous(memory_format=torch.channels_last))
        return outputs

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        return draem_losses(*outputs, batch.clean, batch.mask)

    def columns(self, outputs: Outputs, batch: Batch) -> list[Tensor]:
        """What the network sees, what it restores, where the anomaly is, where it finds one."""
        reconstruction, logits = outputs
        anomaly_map = logits.detach().float().softmax(dim=1)[:, 1:]
        return [batch.augmented, reconstruction.detach().float().clamp(0, 1), batch.mask, anomaly_map]


def draem_losses(reconstruction: Tensor, logits: Tensor, clean: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Named, unweighted losses in float32, whatever the network ran in: images `(N, 3, H, W)` in [0, 1], logits
    `(N, 2, H, W)`, mask `(N, 1, H, W)`.
    """
    reconstruction = reconstruction.float()
    return {
        "l2": functional.mse_loss(reconstruction, clean),
        "ssim": ssim_loss(reconstruction, clean),
        "focal": focal_loss(logits.float(), mask),
    }


def fit(config: TrainConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    """Train both networks; returns the anomaly map that the trained ones make."""
    return AnomalyMap(train_networks(config, data, run, device))


def train_networks(config: TrainConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    """The trained networks, in eval mode: reconstruction and logits."""
    simulator = simulator_of(config, data, device)
    lesson = DraemLesson(config, simulator)
    return train(config, lesson, simulator.generator, run, photos=len(data.good), device=device)
