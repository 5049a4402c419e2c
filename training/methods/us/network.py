"""Uninformed Students (Bergmann et al., CVPR 2020): networks that learn what a teacher says of good photos only.

Where they are wrong about a part, or of different minds, it is none that they have seen. The paper's teacher is
distilled from ResNet-18 on ImageNet's images; here it is the pretrained trunk, whose strides 4, 8 and 16 stand for the
paper's patches of 17, 33 and 65 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.features.trunk import Features, Trunk

# What each of M students says at strides 4, 8 and 16: (N, M, C, H/4, W/4), …
StudentFeatures = tuple[Tensor, ...]
_STRIDES = 3


class Student(nn.Module):
    """RGB `(N, 3, H, W)` in [0, 1] -> what the teacher would say, at each stride. No normalisation, as in the paper."""

    def __init__(self, channels: tuple[int, int, int], width: int) -> None:
        super().__init__()
        w = width
        self.stages = nn.ModuleList(
            (
                nn.Sequential(*_layer(3, w, 5, 2), *_layer(w, 2 * w, 5, 2), *_layer(2 * w, 2 * w, 3)),
                nn.Sequential(*_layer(2 * w, 4 * w, 3, 2), *_layer(4 * w, 4 * w, 3)),
                nn.Sequential(*_layer(4 * w, 8 * w, 3, 2), *_layer(8 * w, 8 * w, 3)),
            )
        )
        widths = zip((2 * w, 4 * w, 8 * w), channels, strict=True)
        self.heads = nn.ModuleList(nn.Conv2d(wide, wanted, 1) for wide, wanted in widths)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        said = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            said.append(head(x))
        return tuple(said)


class Students(nn.Module):
    """What each of them says, at each stride `(N, M, C, h, w)`."""

    def __init__(self, channels: tuple[int, int, int], width: int, count: int) -> None:
        super().__init__()
        self.students = nn.ModuleList(Student(channels, width) for _ in range(count))

    def forward(self, x: Tensor) -> StudentFeatures:
        said = [student(x) for student in self.students]
        return tuple(torch.stack(stride, dim=1) for stride in zip(*said, strict=True))


class Teacher(nn.Module):
    """The trunk's features, each channel with zero mean and unit deviation over good photos."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        for place, channels in enumerate(trunk.channels):
            self.register_buffer(f"mean_{place}", torch.zeros(1, channels, 1, 1))
            self.register_buffer(f"deviation_{place}", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Features:
        fine, middle, coarse = (
            (feature - self.get_buffer(f"mean_{place}")) / self.get_buffer(f"deviation_{place}")
            for place, feature in enumerate(self.trunk(x))
        )
        return fine, middle, coarse

    @torch.no_grad()
    def standardise(self, photos: Tensor) -> None:
        """Take mean and deviation of good photos uint8 `(N, 3, S, S)`, which lie where the trunk does."""
        total = [torch.zeros(2, channels, dtype=torch.float64) for channels in self.trunk.channels]
        count = [0] * _STRIDES
        for part in torch.split(photos, 8):
            for place, feature in enumerate(self.trunk(part.float() / 255)):
                values = feature.double().transpose(0, 1).flatten(1)  # (C, N h w)
                total[place] += torch.stack((values.sum(dim=1), values.square().sum(dim=1))).cpu()
                count[place] += values.shape[1]
        for place, (sums, n) in enumerate(zip(total, count, strict=True)):
            mean = sums[0] / n
            deviation = (sums[1] / n - mean.square()).clamp(min=1e-6).sqrt()
            self.get_buffer(f"mean_{place}").copy_(mean.view(1, -1, 1, 1))
            self.get_buffer(f"deviation_{place}").copy_(deviation.view(1, -1, 1, 1))


class UsMap(nn.Module):
    """RGB `(N, 3, H, W)` in [0, 1] -> map `(N, H, W)` in [0, 1].

    At each stride the squared error of the students' mean and the variance among them, each in deviations from what
    good photos give; both added, averaged over strides. Above 0 that becomes 1 - exp(-d / scale).
    """

    moments: Tensor
    scale: Tensor

    def __init__(self, teacher: Teacher, students: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self.students = students
        # Of error and variance at each stride: mean and deviation over good photos.
        self.register_buffer("moments", torch.tensor([[[0.0, 1.0]] * 2] * _STRIDES))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return 1 - torch.exp(-self.surprise(x) / self.scale)

    def surprise(self, x: Tensor) -> Tensor:
        """`(N, H, W)`, 0 or more."""
        total = torch.zeros_like(x[:, :1])
        for place, pair in enumerate(self.errors(x)):
            found = torch.zeros_like(pair[0])
            for one, moments in zip(pair, self.moments[place], strict=True):
                found = found + (one - moments[0]) / moments[1]
            total = total + functional.interpolate(found, size=x.shape[2:], mode="bilinear", align_corners=False)
        return (total[:, 0] / _STRIDES).clamp(min=0)

    def errors(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Error and variance `(N, 1, h, w)` at each stride."""
        return [errors_of(wanted, said) for wanted, said in zip(self.teacher(x), self.students(x), strict=True)]

    @torch.no_grad()
    def calibrate(self, photos: Tensor) -> None:
        """Take moments and scale of good photos uint8 `(N, 3, S, S)` that no student has learned from."""
        parts = [part.float() / 255 for part in torch.split(photos, 8)]
        seen = [self.errors(part) for part in parts]
        for place in range(_STRIDES):
            for which in range(2):
                values = torch.cat([errors[place][which].double().flatten() for errors in seen])
                self.moments[place, which] = torch.stack((values.mean(), values.std().clamp(min=1e-6)))
        # Good photos' brightest pixels come to about a quarter, so that there is room above.
        peaks = torch.cat([self.surprise(part).amax(dim=(1, 2)) for part in parts])
        self.scale.copy_(3 * peaks.median().clamp(min=1e-3))


def errors_of(wanted: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
    """The squared error of the students' mean and the variance among them, summed over channels: `(N, 1, h, w)` each.

    `wanted` by the teacher `(N, C, h, w)`, `said` by the students `(N, M, C, h, w)`.
    """
    mean = said.mean(dim=1)
    error = (mean - wanted).square().sum(dim=1, keepdim=True)
    variance = (said - mean.unsqueeze(1)).square().sum(dim=2).mean(dim=1, keepdim=True)
    return error, variance


def _layer(c_in: int, c_out: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2)
    return convolution, nn.LeakyReLU(0.005)
