"""One of DRÆM's two networks alone (Zavrtanik et al. 2021, table 3), used like the whole; and where they start."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from training.losses import gaussian_window, msgms_distance, prewitt_kernels, ssim_map
from training.networks.compact import CompactDraem
from training.networks.draem import Draem


@torch.no_grad()
def start_at(last_layer: nn.Conv2d, prior: float) -> None:
    """Normal is what the last layer says unless its inputs speak up.

    From the authors' start a narrow network may learn the reverse: anomalous where all its last features are 0. Its
    maps then end at what the bias has reached, 0.5 in one such training, for Adam moves a bias slowly.
    """
    normal, anomalous = last_layer.get_parameter("bias").view(2, -1)
    normal.fill_(0.5 * math.log((1 - prior) / prior))
    anomalous.fill_(-0.5 * math.log((1 - prior) / prior))


class DiscriminativeAlone(nn.Module):
    """The discriminative network sees the image twice instead of reconstruction and image.

    So its layers and their sizes stay, and only what the reconstruction adds is taken away.
    """

    def __init__(self, network: Draem | CompactDraem) -> None:
        super().__init__()
        del network.reconstructive
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.network.discriminate(x, x)


class ReconstructiveAlone(nn.Module):
    """The anomaly map is a distance between image and reconstruction, given as the logits it is the softmax of."""

    window: Tensor
    prewitt: Tensor

    def __init__(self, network: Draem | CompactDraem, distance: Literal["ssim", "msgms"]) -> None:
        super().__init__()
        del network.discriminative
        self.network = network
        self.distance = distance
        self.register_buffer("window", gaussian_window(), persistent=False)
        self.register_buffer("prewitt", prewitt_kernels(), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction = self.network.reconstruct(x)
        if self.training:  # nothing learns from the map
            return reconstruction, reconstruction.new_zeros((len(x), 2, *x.shape[2:]))
        if self.distance == "ssim":
            anomaly_map = (1 - ssim_map(reconstruction, x, self.window).mean(dim=1, keepdim=True)) / 2
        else:
            anomaly_map = msgms_distance(reconstruction, x, self.prewitt)
        anomaly = torch.logit(anomaly_map, eps=1e-6)
        return reconstruction, torch.cat((torch.zeros_like(anomaly), anomaly), dim=1)
