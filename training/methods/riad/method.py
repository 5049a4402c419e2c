"""RIAD, reconstruction by in-painting (Zavrtanik et al. 2021, Pattern Recognition 112), as a method.

It learns from good photos alone: squares are hidden and painted in again from their neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.loop.fit import generator_of, train
from training.loop.runs import Run
from training.losses import msgms_loss, ssim_loss
from training.methods.protocol import Method, TrainingSet
from training.methods.riad.config import PRESETS, RiadConfig
from training.methods.riad.network import SQUARES, InpaintingNetwork, RiadMap, hidden_parts


class HiddenBatch(NamedTuple):
    """Photos `(N, 3, H, W)` in [0, 1], and what of them is hidden in each pass `(parts, 1, H, W)`."""

    photos: Tensor
    hidden: Tensor


class RiadLesson:
    def __init__(self, config: RiadConfig, good: Tensor, generator: torch.Generator) -> None:
        self.weights = {"l2": 1.0, "msgms": 1.0, "ssim": 1.0}
        self.config = config
        self.good = good
        self.generator = generator

    def network(self) -> nn.Module:
        return InpaintingNetwork(self.config.width)

    def draw(self, count: int) -> HiddenBatch:
        index = torch.randint(0, len(self.good), (count,), generator=self.generator)
        photos = self.good.index_select(0, index.to(self.good.device)).float() / 255
        side = SQUARES[int(torch.randint(0, len(SQUARES), (), generator=self.generator))]
        hidden = hidden_parts(self.good.shape[-1], side, self.config.parts, self.generator)
        return HiddenBatch(photos, hidden.to(photos.device))

    def forward(self, network: nn.Module, batch: HiddenBatch) -> Tensor:
        """What was hidden in each pass, painted in, put together."""
        seen = (batch.photos.unsqueeze(1) * (1 - batch.hidden)).flatten(0, 1)
        painted = network(seen.contiguous(memory_format=torch.channels_last))
        passes: Tensor = painted.view(len(batch.photos), -1, *batch.photos.shape[1:])
        return (passes * batch.hidden).sum(dim=1)

    def losses(self, outputs: Tensor, batch: HiddenBatch) -> dict[str, Tensor]:
        whole = outputs.float()
        return {
            "l2": functional.mse_loss(whole, batch.photos),
            "msgms": msgms_loss(whole, batch.photos),
            "ssim": ssim_loss(whole, batch.photos),
        }

    def columns(self, outputs: Tensor, batch: HiddenBatch) -> list[Tensor]:
        """The photo, what is hidden of it in the first pass, and all that was painted in."""
        return [batch.photos, batch.photos * (1 - batch.hidden[:1]), outputs.detach().float().clamp(0, 1)]


def _map(config: RiadConfig, network: nn.Module) -> nn.Module:
    return RiadMap(network, config.size, config.parts, config.seed).eval()


def fit(config: RiadConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    lesson = RiadLesson(config, data.good.to(device), generator_of(config.seed))
    return _map(config, train(config, lesson, lesson.generator, run, photos=len(data.good), device=device))


RIAD = Method(
    name="riad",
    title="RIAD: in-painting of hidden squares, compared with the image by MSGMS",
    presets=PRESETS,
    fit=fit,
    network=lambda config: _map(config, InpaintingNetwork(config.width)),
)
