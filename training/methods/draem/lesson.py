"""What DRÆM's networks learn from: simulated anomalies and three losses (Zavrtanik et al. 2021, eq. 2, 3 and 5)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.loop.fit import generator_of, train
from training.loop.runs import Run
from training.losses import focal_loss, ssim_loss
from training.methods.draem.config import TrainConfig
from training.methods.draem.variants import build_network
from training.methods.protocol import TrainingSet
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


class AnomalyMap(nn.Module):
    """The map of a trained network: RGB `(N, 3, H, W)` in [0, 1] -> `(N, H, W)` in [0, 1].

    Softmax over two channels, channel 1, is a sigmoid of their difference. The last layer gives that difference
    itself, half as many channels, where the network has one: softmax depends on nothing else.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        last = getattr(self.network, "last_layer", None)
        if isinstance(last, nn.Conv2d):
            for name in ("weight", "bias"):
                normal, anomalous = last.get_parameter(name).detach().chunk(2)
                setattr(last, name, nn.Parameter(anomalous - normal))
            last.out_channels //= 2

    def forward(self, x: Tensor) -> Tensor:
        _, logits = self.network(x)
        return torch.sigmoid(logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0])


def fit(config: TrainConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    """Train both networks; returns the anomaly map that the trained ones make."""
    return AnomalyMap(train_networks(config, data, run, device))


def train_networks(config: TrainConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    """The trained networks, in eval mode: reconstruction and logits."""
    generator = generator_of(config.seed)
    simulator = AnomalySimulator(data.good.to(device), textures_of(data).to(device), config.simulator, generator)
    return train(config, DraemLesson(config, simulator), generator, run, photos=len(data.good), device=device)


def textures_of(data: TrainingSet) -> Tensor:
    """Its textures; ValueError where it was given none."""
    if data.textures is None:
        raise ValueError("DRÆM learns from textures, and there are none in the training set")
    return data.textures
