"""Uninformed Students (Bergmann et al., CVPR 2020) as a method, with a stand-in for its teacher."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.bundle.manifest import Pretrained
from training.features.trunk import Features
from training.features.trunks import load_trunk, pretrained_of
from training.loop.fit import generator_of, train
from training.loop.runs import Run
from training.methods.protocol import Method, TrainingSet
from training.methods.us.config import PRESETS, UsConfig
from training.methods.us.network import StudentFeatures, Students, Teacher, UsMap, errors_of

_STRIDES = tuple(f"stride_{4 * 2**place}" for place in range(3))


class Taught(NamedTuple):
    """Photos `(N, 3, H, W)` in [0, 1], and what the teacher says of them."""

    photos: Tensor
    wanted: Features


class UsLesson:
    def __init__(self, config: UsConfig, teacher: Teacher, good: Tensor, generator: torch.Generator) -> None:
        self.weights = dict.fromkeys(_STRIDES, 1.0)
        self.config = config
        self.teacher = teacher
        self.good = good
        self.generator = generator

    def network(self) -> nn.Module:
        return Students(self.teacher.trunk.channels, self.config.width, self.config.students)

    def draw(self, count: int) -> Taught:
        index = torch.randint(0, len(self.good), (count,), generator=self.generator)
        photos = self.good.index_select(0, index.to(self.good.device)).float() / 255
        with torch.no_grad():
            return Taught(photos, self.teacher(photos))

    def forward(self, network: nn.Module, batch: Taught) -> StudentFeatures:
        said: StudentFeatures = network(batch.photos.contiguous(memory_format=torch.channels_last))
        return said

    def losses(self, outputs: StudentFeatures, batch: Taught) -> dict[str, Tensor]:
        """Every student's own error: what they agree on must not be learned from each other."""
        pairs = zip(_STRIDES, outputs, batch.wanted, strict=True)
        return {
            stride: functional.mse_loss(said.float(), wanted.unsqueeze(1).expand_as(said))
            for stride, said, wanted in pairs
        }

    def columns(self, outputs: StudentFeatures, batch: Taught) -> list[Tensor]:
        """The photo, and at the finest stride the students' error, of the largest one."""
        error, _ = errors_of(batch.wanted[0], outputs[0].detach().float())
        return [batch.photos, functional.interpolate(error / error.amax(), size=batch.photos.shape[2:])]


def fit(config: UsConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    good = data.good.to(device)
    order = torch.randperm(len(good), generator=torch.Generator().manual_seed(config.seed)).to(device)
    count = max(1, round(config.validation * len(good)))
    unseen, learned = good[order[:count]], good[order[count:]]
    teacher = Teacher(load_trunk(config.features)).to(device)
    teacher.standardise(learned)
    lesson = UsLesson(config, teacher, learned, generator_of(config.seed))
    students = train(config, lesson, lesson.generator, run, photos=len(learned), device=device)
    made = UsMap(teacher, students).to(device).eval()
    made.calibrate(unseen)
    return made


def _untrained(config: UsConfig) -> nn.Module:
    trunk = load_trunk(config.features)
    return UsMap(Teacher(trunk), Students(trunk.channels, config.width, config.students))


def _teacher(config: UsConfig) -> Pretrained:
    weights = pretrained_of(config.features)
    return weights.model_copy(
        update={"name": f"{weights.name} as the teacher, in place of one distilled from ResNet-18"}
    )


US = Method(
    name="us",
    title="Uninformed Students; teacher: EfficientNet-lite0 in place of one distilled from ResNet-18",
    presets=PRESETS,
    fit=fit,
    pretrained=_teacher,
    network=_untrained,
)
