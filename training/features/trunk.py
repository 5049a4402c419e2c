"""What a trunk is: a pretrained network up to stride 16, frozen, whose batch norms are folded into its convolutions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.errors import UserError

# (N, C, H/4, W/4), (N, C', H/8, W/8), (N, C'', H/16, W/16)
Features = tuple[Tensor, Tensor, Tensor]


class TrunkError(UserError):
    """The trunk's weights are not there or not what they should be; the message names the remedy."""


class Trunk(nn.Module):
    """RGB `(N, 3, H, W)` in [0, 1], of which sides are multiples of 16 -> features at strides 4, 8 and 16."""

    channels: tuple[int, int, int]  # of the features

    @abstractmethod
    def forward(self, x: Tensor) -> Features: ...

    @abstractmethod
    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Weights by the names that they have in files; KeyError or TrunkError where one is not as it should be."""


def fold_norm(layer: nn.Conv2d, weights: Mapping[str, Tensor], convolution: str, norm: str, epsilon: float) -> None:
    """Weights of `layer` that give what the convolution of this name and the batch norm after it give."""
    names = (f"{convolution}.weight", *(f"{norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var")))
    kernel, gain, offset, mean, variance = (weights[name].detach().float() for name in names)
    for name, shape, wanted in (
        (names[0], kernel.shape, layer.weight.shape),
        *((name, weights[name].shape, layer.weight.shape[:1]) for name in names[1:]),
    ):
        if shape != wanted:
            raise TrunkError(f"{name} has the shape {tuple(shape)} instead of {tuple(wanted)}")
    scale = gain / torch.sqrt(variance + epsilon)
    bias = offset - mean * scale
    kernel = kernel * scale.view(-1, 1, 1, 1)
    if not (kernel.isfinite().all() and bias.isfinite().all()):
        raise TrunkError(f"{convolution} or {norm} has values that are not finite")
    with torch.no_grad():
        layer.weight.copy_(kernel)
        layer.get_parameter("bias").copy_(bias)
