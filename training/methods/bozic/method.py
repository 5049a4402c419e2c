"""Božič et al. (Computers in Industry, 2021) as a method: trained on simulated anomalies instead of labelled defects.

As in the row of that name in Zavrtanik et al. 2021, table 3. The weight of the segmentation falls while that of the
decision rises; masks are grown, and an anomaly's middle counts more than its rim.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.loop.fit import train
from training.loop.runs import Run
from training.methods.bozic.config import PRESETS, BozicConfig
from training.methods.bozic.network import STRIDE, BozicMap, SegmentationDecision
from training.methods.protocol import Method, TrainingSet
from training.methods.simulated import samples_of, simulator_of, textures_from
from training.simulation.simulator import AnomalySimulator, Batch


class Outputs(NamedTuple):
    """Logits of the segmentation `(N, 1, H/8, W/8)` and of the decision `(N,)`; batches learned from `()`."""

    segmented: Tensor
    decided: Tensor
    learned: Tensor


class BozicLesson:
    def __init__(self, config: BozicConfig, simulator: AnomalySimulator, steps: int) -> None:
        self.weights = {"segmentation": 1.0, "decision": 1.0}
        self.config = config
        self.simulator = simulator
        self.steps = steps

    def network(self) -> nn.Module:
        return SegmentationDecision(self.config.width)

    def draw(self, count: int) -> Batch:
        return self.simulator.batch(count)

    def forward(self, network: nn.Module, batch: Batch) -> Outputs:
        return Outputs(*network(batch.augmented.contiguous(memory_format=torch.channels_last)))

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Both already with the weight that they have at this point of the training."""
        config = self.config
        grown, weight = targets(batch.mask, config.dilation, config.peak_weight, config.peak_power)
        anomalous = batch.mask.amax(dim=(1, 2, 3))
        segmentation = functional.binary_cross_entropy_with_logits(outputs.segmented.float(), grown, weight)
        decision = functional.binary_cross_entropy_with_logits(outputs.decided.float(), anomalous)
        done = (outputs.learned.detach() / self.steps).clamp(max=1.0)
        return {"segmentation": (1 - done) * segmentation, "decision": config.decision_weight * done * decision}

    def columns(self, outputs: Outputs, batch: Batch) -> list[Tensor]:
        """What the network sees, where the anomaly is, where it finds one."""
        found = torch.sigmoid(outputs.segmented.detach().float())
        return [batch.augmented, batch.mask, functional.interpolate(found, size=batch.mask.shape[2:])]


def targets(mask: Tensor, dilation: int, peak_weight: float, peak_power: float) -> tuple[Tensor, Tensor]:
    """Of a mask `(N, 1, H, W)`: the grown one and the weight of each of its pixels, `(N, 1, H/8, W/8)`.

    Anomalous pixels weigh `peak_weight` times their distance from the rim, of the largest, to the power `peak_power`.
    """
    from scipy.ndimage import distance_transform_edt  # not with every command

    grown = functional.max_pool2d(mask, dilation, stride=1, padding=dilation // 2)
    depth = np.stack([distance_transform_edt(one) for one in grown[:, 0].cpu().numpy()])
    share = depth / np.maximum(depth.max(axis=(1, 2), keepdims=True), 1)
    inner = torch.from_numpy(peak_weight * share**peak_power).to(mask)[:, None]
    target = functional.max_pool2d(grown, STRIDE)
    return target, torch.where(target > 0, functional.max_pool2d(inner, STRIDE), torch.ones_like(target))


def fit(config: BozicConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    simulator, photos = simulator_of(config, data, device), len(data.good)
    lesson = BozicLesson(config, simulator, config.steps_for(photos))
    return BozicMap(train(config, lesson, simulator.generator, run, photos=photos, device=device)).eval()


BOZIC = Method(
    name="bozic",
    title="Božič et al. 2021: segmentation and decision, trained on simulated anomalies",
    presets=PRESETS,
    fit=fit,
    learns_defects=True,
    textures=textures_from,
    network=lambda config: BozicMap(SegmentationDecision(config.width)),
    samples=samples_of,
)
