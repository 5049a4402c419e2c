"""What the head learns from: simulated anomalies whose features and distances were computed once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from training.features.distances import Distances
from training.features.embedding import Standardised, embeddings_of, features_of
from training.features.trunk import Features, Trunk
from training.features.trunks import load_trunk
from training.loop.fit import generator_of, train
from training.loop.runs import Run
from training.methods.fusion.anomalies import AnomalyMixture
from training.methods.fusion.config import FusionConfig
from training.methods.fusion.head import DiscriminativeHead
from training.methods.fusion.network import FusionMap
from training.methods.fusion.weighing import WEIGHTS
from training.methods.protocol import TrainingSet

_AT_ONCE = 16
_SHARPNESS = 20.0  # 5 points of pixel AP more are worth 2.7 times the share
_MEASURED = 64  # good photos that tell how far good parts lie


class Samples(NamedTuple):
    """Simulated images uint8 `(N, 3, S, S)`, masks uint8 `(N, S, S)`, and what the head reads of them, float16.

    `distances` do not know the good photo that the image was made of, `known` do.
    """

    images: Tensor
    masks: Tensor
    features: Features
    distances: Tensor
    known: Tensor


class Batch(NamedTuple):
    image: Tensor
    mask: Tensor
    features: Features
    distances: Tensor


class HeadLesson:
    """Focal loss finds the few anomalous pixels, dice loss draws their borders."""

    weights = {"focal": 20.0, "dice": 1.0}  # noqa: RUF012

    def __init__(
        self,
        config: FusionConfig,
        samples: Samples,
        channels: tuple[int, int, int],
        standardised: Standardised,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.config = config
        self.samples = samples
        self.channels = channels
        self.standardised = standardised
        self.generator = generator
        self.device = device

    def network(self) -> nn.Module:
        return DiscriminativeHead(self.channels, self.config.width, self.config.anomaly_prior)

    def draw(self, count: int) -> Batch:
        """Samples, all of them mirrored by chance along either axis.

        How far their distances know the photo is drawn for each. From distances of photos left out alone the head
        learns when to doubt them, and turns to features; but these know simulated anomalies better than real defects.
        """
        index = torch.randint(0, len(self.samples.images), (count,), generator=self.generator)
        axes = [
            axis for axis, drawn in zip((-2, -1), torch.rand(2, generator=self.generator), strict=True) if drawn < 0.5
        ]

        def taken(source: Tensor) -> Tensor:
            chosen = source[index].to(self.device).float()
            return (chosen.flip(axes) if axes else chosen).contiguous(memory_format=torch.channels_last)

        fine, middle, coarse = map(taken, self.samples.features)
        left_out = torch.rand((count, 1, 1, 1), generator=self.generator).to(self.device)
        return Batch(
            taken(self.samples.images) / 255,
            taken(self.samples.masks[:, None]),
            self.standardised((fine, middle, coarse)),
            torch.lerp(taken(self.samples.known), taken(self.samples.distances), left_out),
        )

    def forward(self, network: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = network(batch.features, batch.distances, batch.image)
        return logits

    def losses(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return head_losses(outputs.float(), batch.mask)

    def columns(self, outputs: Tensor, batch: Batch) -> list[Tensor]:
        """What the trunk saw, where the anomaly is, where the head finds one."""
        found = outputs.detach().float().sigmoid()
        return [batch.image, batch.mask, functional.interpolate(found, size=batch.mask.shape[2:])]


def head_losses(logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Of logits `(N, 1, h, w)` against a finer mask `(N, 1, H, W)`, whose mean over each pixel is the target."""
    target = functional.adaptive_avg_pool2d(mask, (logits.shape[2], logits.shape[3]))
    found = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    overlap = (2 * (found * target).sum(dim=(1, 2, 3)) + 1) / (
        (found.square() + target.square()).sum(dim=(1, 2, 3)) + 1
    )
    return {"focal": (entropy * (target - found).square()).mean(), "dice": (1 - overlap).mean()}


def fit(config: FusionConfig, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    """Fit the distances, train the head on simulated anomalies; returns the map of both."""
    trunk = load_trunk(config.features).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    features = features_of(trunk, data.good, device)
    standardised = Standardised(features).to(device)
    embeddings = embeddings_of(standardised, features, device)
    generator = torch.Generator().manual_seed(config.seed)
    distances = Distances(embeddings, channels=config.channels, bank=config.bank, generator=generator)
    samples = make_samples(config, data, trunk, standardised, distances, embeddings, device)
    draws = generator_of(config.seed)
    lesson = HeadLesson(config, samples, trunk.channels, standardised, draws, device)
    head = train(config, lesson, draws, run, photos=len(data.good), device=device)
    measured = torch.arange(min(_MEASURED, len(embeddings)))
    good = distances.without(embeddings[measured], embeddings, measured)
    weight = config.distance_weight or WEIGHTS[0]
    return FusionMap(trunk, standardised, distances, head, good=good, shares=reliability(samples), weight=weight).eval()


def make_samples(
    config: FusionConfig,
    data: TrainingSet,
    trunk: Trunk,
    standardised: Standardised,
    distances: Distances,
    embeddings: Tensor,
    device: torch.device,
) -> Samples:
    """Simulated anomalies, and distances that do not know the good photo that each was made of, and those that do."""
    mixture = mixture_of(config, data)
    size = data.good.shape[-1]
    images = torch.empty((config.samples, 3, size, size), dtype=torch.uint8)
    masks = torch.empty((config.samples, size, size), dtype=torch.uint8)
    photos = torch.empty(config.samples, dtype=torch.long)
    for i in tqdm(range(config.samples), desc="simulating", unit="img", leave=False):
        drawn = mixture.draw()
        images[i], masks[i], photos[i] = (255 * drawn.image).round(), drawn.mask, drawn.photo
    features = features_of(trunk, images, device)
    left_out, known = [], []
    for start in range(0, len(images), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        fine, middle, coarse = (feature[part] for feature in features)
        patches = embeddings_of(standardised, (fine, middle, coarse), device)
        left_out.append(distances.without(patches, embeddings, photos[part]).half().cpu())
        known.append(distances(patches).half().cpu())
    return Samples(images, masks, features, torch.cat(left_out), torch.cat(known))


def reliability(samples: Samples) -> Tensor:
    """`(3,)`, adding up to 1: how far each distance is to be relied on, by how well it alone finds simulated anomalies.

    The distance to a position's Gaussian is the best where parts lie still, and no help where they lie anyhow or where
    photos are few.
    """
    from sklearn.metrics import average_precision_score  # not with every command

    smooth = functional.avg_pool2d(samples.distances.float(), 3, 1, 1, count_include_pad=False)
    masks = functional.adaptive_avg_pool2d(samples.masks.float(), (smooth.shape[2], smooth.shape[3])) > 0.5
    if not masks.any():
        return torch.full((3,), 1 / 3)
    found = [average_precision_score(masks.flatten().numpy(), one.flatten().numpy()) for one in smooth.unbind(dim=1)]
    return torch.softmax(_SHARPNESS * torch.tensor(found, dtype=torch.float32), dim=0)


def mixture_of(config: FusionConfig, data: TrainingSet) -> AnomalyMixture:
    if data.textures is None:
        raise ValueError("the head learns from textures among others, and there are none in the training set")
    defects = None if data.defects is None or data.masks is None else (data.defects, data.masks)
    return AnomalyMixture(data.good, data.textures, config.anomalies, config.seed, defects)
