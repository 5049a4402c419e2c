"""Patch embeddings: the trunk's features of all strides on the grid of stride 8, each channel standardised."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.features.trunk import Features, Trunk


class Standardised(nn.Module):
    """Features with zero mean and unit deviation over good photos, channel by channel."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        for stride, feature in zip(("fine", "middle", "coarse"), features, strict=True):
            values = feature.float()
            self.register_buffer(f"{stride}_mean", values.mean(dim=(0, 2, 3), keepdim=True))
            deviation = values.std(dim=(0, 2, 3), keepdim=True)
            self.register_buffer(f"{stride}_scale", 1 / deviation.clamp(min=1e-3))

    def forward(self, features: Features) -> Features:
        fine, middle, coarse = features
        return (
            (fine - self.get_buffer("fine_mean")) * self.get_buffer("fine_scale"),
            (middle - self.get_buffer("middle_mean")) * self.get_buffer("middle_scale"),
            (coarse - self.get_buffer("coarse_mean")) * self.get_buffer("coarse_scale"),
        )


def embed(features: Features) -> Tensor:
    """`(N, H/8, W/8, C)`, C all channels: fine features averaged, coarse ones interpolated."""
    fine, middle, coarse = features
    size = (middle.shape[2], middle.shape[3])
    coarse = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return torch.cat((functional.avg_pool2d(fine, 2), middle, coarse), dim=1).permute(0, 2, 3, 1)


@torch.inference_mode()
def features_of(trunk: Trunk, photos: Tensor, device: torch.device, batch: int = 8) -> Features:
    """Float16 features on the CPU of photos uint8 `(N, 3, S, S)`."""
    parts = []
    for chunk in torch.split(photos, batch):
        x = (chunk.to(device).float() / 255).contiguous(memory_format=torch.channels_last)
        parts.append(tuple(feature.half().cpu().contiguous() for feature in trunk(x)))
    fine, middle, coarse = (torch.cat(part) for part in zip(*parts, strict=True))
    return fine, middle, coarse


@torch.inference_mode()
def embeddings_of(standardised: Standardised, features: Features, device: torch.device, batch: int = 16) -> Tensor:
    """Embeddings `(N, H/8, W/8, C)` of features as `features_of` gives them."""
    parts = []
    for start in range(0, len(features[0]), batch):
        fine, middle, coarse = (feature[start : start + batch].to(device).float() for feature in features)
        parts.append(embed(standardised((fine, middle, coarse))))
    return torch.cat(parts).clone()
