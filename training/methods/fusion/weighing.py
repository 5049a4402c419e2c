"""How much the distances count beside the head: chosen on photos that neither of them has seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.evaluation.metrics import image_auroc
from training.methods.fusion.config import FusionConfig
from training.methods.fusion.network import FusionMap

# Never less than the first: only distances know what no simulated anomaly looks like. Where photos are few, the head
# knows those it has seen too well, and distances are worth more.
WEIGHTS = (0.25, 0.4, 0.6)
# Of image AUROC, by which a larger weight must beat a smaller one: defects on ten photos tell less than that apart.
_WORTH = 0.005
_AT_ONCE = 8


def weigh(config: FusionConfig, network: nn.Module, good: Tensor, defects: Tensor) -> dict[str, Any]:
    """The weight of the distances with which held-out photos `good` and `defects` rendered on some of them, uint8
    `(N, 3, H, W)`, are told apart best, by image AUROC; `network` has it afterwards. A smaller one that is as good but
    for chance comes first. Nothing where the settings have one, or where there is nothing to choose by.
    """
    if config.distance_weight or not len(good) or not len(defects):
        return {}
    (fused,) = (part for part in network.modules() if isinstance(part, FusionMap))
    told_apart = {}
    for weight in WEIGHTS:
        fused.weight = weight
        scores = torch.cat((_peaks(network, good), _peaks(network, defects)))
        told_apart[weight] = image_auroc(scores.numpy(), np.arange(len(scores)) >= len(good))
    chosen = WEIGHTS[0]
    for weight in WEIGHTS[1:]:
        if told_apart[weight] >= told_apart[chosen] + _WORTH:
            chosen = weight
    fused.weight = chosen
    return {"distance_weight": fused.weight}


@torch.inference_mode()
def _peaks(network: nn.Module, images: Tensor) -> Tensor:
    device = next(network.parameters()).device
    parts = (network(part.to(device).float() / 255).amax(dim=(1, 2)).cpu() for part in torch.split(images, _AT_ONCE))
    return torch.cat(list(parts))
