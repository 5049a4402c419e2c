"""The whole of it as one graph: trunk, distances, head, and what makes one map of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.features.distances import Distances
from training.features.embedding import Standardised, embed
from training.features.trunk import Trunk

# Evidence is a sum of logits and deviations: good parts reach 3 to 6, defects 20. The map tells all of it apart.
_MIDDLE = 4.0
_TEMPERATURE = 0.35


class FusionMap(nn.Module):
    """RGB `(N, 3, H, W)` in [0, 1] -> map `(N, H, W)` in [0, 1].

    Distances carry defects of a kind that no simulator has; the head carries sharp borders. Their evidence adds up:
    the head's logit, and by how many deviations the distances exceed those of good photos, each as far as it is to be
    relied on with this part.
    """

    typical: Tensor
    deviation: Tensor
    shares: Tensor

    def __init__(
        self,
        trunk: Trunk,
        standardised: Standardised,
        distances: Distances,
        head: nn.Module,
        *,
        good: Tensor,
        shares: Tensor,
        weight: float,
    ) -> None:
        """`good` `(n, 3, h, w)`: distances of good photos, each left out of what its own were fitted on.

        `shares` `(3,)` of the distances add up to 1.
        """
        super().__init__()
        self.trunk = trunk
        self.standardised = standardised
        self.distances = distances
        self.head = head
        self.weight = weight
        self.register_buffer("typical", good.mean(dim=(0, 2, 3)).view(1, 3, 1, 1))
        self.register_buffer("deviation", good.std(dim=(0, 2, 3)).clamp(min=1e-3).view(1, 3, 1, 1))
        self.register_buffer("shares", shares.to(good.device).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        features = self.standardised(self.trunk(x))
        distances = self.distances(embed(features))
        logits = self.head(features, distances, x)
        # One bright pixel is noise: a defect has neighbours.
        logits = functional.avg_pool2d(logits, 3, 1, 1, count_include_pad=False)
        deviations = (self.shares * (distances - self.typical) / self.deviation).sum(dim=1, keepdim=True)
        size = (logits.shape[2], logits.shape[3])
        deviations = functional.interpolate(deviations, size=size, mode="bilinear", align_corners=False)
        evidence = logits + self.weight * deviations
        size = (x.shape[2], x.shape[3])
        evidence = functional.interpolate(evidence, size=size, mode="bilinear", align_corners=False)
        return torch.sigmoid(_TEMPERATURE * (evidence - _MIDDLE))[:, 0]
