"""From networks that give a reconstruction and logits to the map that is served."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


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
