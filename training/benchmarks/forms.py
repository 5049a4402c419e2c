"""Cheaper forms of PaDiM and PatchCore: what each costs and what it is worth, on the same features.

`python -m training.benchmarks forms --data A B`: folders in MVTec layout. Rendered defects on held-out photos may
choose a form; labelled test images are printed beside them and choose nothing. Milliseconds and bytes are those of the
distance alone, from patch embeddings on, as ONNX on one thread of ONNX Runtime: the trunk is the same for all. Times
are those of the processor, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from service.images.decoding import read
from service.images.resizing import resize
from training.bundling.held_out import simulate_defects
from training.bundling.scores import build_score
from training.data.folders import good_images, split
from training.data.labels import labelled_images
from training.data.masks import read_mask
from training.data.reading import load_images
from training.evaluation.pixels import PixelFigures
from training.evaluation.ranking import auroc
from training.features.coreset import farthest_points, projected
from training.features.distances import NearestPatch, PositionGaussian
from training.features.embedding import Standardised, embeddings_of, features_of
from training.features.map import DistanceMap
from training.features.trunk import Trunk
from training.features.trunks import load_trunk
from training.methods.patchcore.method import MOST_PATCHES
from training.methods.patchcore.reweighting import ReweightedPatches
from training.settings import RecipeSettings

_SIZE = 256
_ROUNDS = 30
_CPU = torch.device("cpu")

# Embeddings of good photos `(N, h, w, C)` and the draws of a seed -> `(N, h, w, C)` to distances `(N, h, w)`.
Form = Callable[[Tensor, torch.Generator], nn.Module]


class _Components(nn.Module):
    """A Gaussian of each position over the main components of all channels instead of some of the channels."""

    def __init__(self, embeddings: Tensor, generator: torch.Generator, count: int) -> None:
        super().__init__()
        patches = embeddings.flatten(0, 2)
        rest = (patches - patches.mean(dim=0)).double()
        self.components = nn.Buffer(torch.linalg.eigh(rest.T @ rest).eigenvectors.flip(1)[:, :count].float())
        self.gaussian = PositionGaussian(embeddings @ self.components, count, generator, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        distances: Tensor = self.gaussian(embeddings @ self.components)
        return distances


class _Coarse(nn.Module):
    """A Gaussian of each square of 2x2 positions, of their mean."""

    def __init__(self, embeddings: Tensor, generator: torch.Generator, channels: int) -> None:
        super().__init__()
        self.gaussian = PositionGaussian(_halved(embeddings), channels, generator, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        return functional.interpolate(self.gaussian(_halved(embeddings))[:, None], scale_factor=2.0)[:, 0]


class _Half(PositionGaussian):
    """Whitening in float16; computed in float32."""

    def __init__(self, embeddings: Tensor, generator: torch.Generator, channels: int) -> None:
        super().__init__(embeddings, channels, generator, 1)
        self.whitening = self.whitening.half()

    def _white(self, residuals: Tensor) -> Tensor:
        return self._squares(residuals) @ self.whitening.float()


def _halved(embeddings: Tensor) -> Tensor:
    return functional.avg_pool2d(embeddings.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def _gaussian(embeddings: Tensor, generator: torch.Generator, channels: int, side: int) -> nn.Module:
    return PositionGaussian(embeddings, channels, generator, side)


def _directions(embeddings: Tensor, generator: torch.Generator, channels: int, kept: int) -> nn.Module:
    """Of each position only the directions in which good photos vary least: whitening of low rank."""
    made = PositionGaussian(embeddings, channels, generator, 1)
    for place in torch.split(torch.arange(len(made.whitening)), 128):
        values, vectors = torch.linalg.eigh(made.whitening[place] @ made.whitening[place].mT)
        made.whitening[place, :, :kept] = vectors[..., -kept:] * values[:, None, -kept:].clamp(min=0).sqrt()
    made.whitening = made.whitening[..., :kept].clone()
    return made


def _patches(embeddings: Tensor, generator: torch.Generator, bank: int, neighbours: int) -> nn.Module:
    patches = embeddings.flatten(0, 2)
    drawn = torch.randperm(len(patches), generator=generator)[:MOST_PATCHES]
    nearest = NearestPatch(embeddings, drawn[farthest_points(projected(patches[drawn], generator), bank, generator)])
    return ReweightedPatches(nearest, neighbours) if neighbours > 1 else nearest


def _drawn_patches(embeddings: Tensor, generator: torch.Generator, bank: int) -> nn.Module:
    return NearestPatch(embeddings, torch.randperm(embeddings.shape[:3].numel(), generator=generator)[:bank])


FORMS: dict[str, Form] = {
    "padim: all 176 channels": partial(_gaussian, channels=176, side=1),
    "padim: 100 channels (the preset)": partial(_gaussian, channels=100, side=1),
    "padim: 64 channels": partial(_gaussian, channels=64, side=1),
    "padim: 32 channels": partial(_gaussian, channels=32, side=1),
    "padim: 64 main components": partial(_Components, count=64),
    "padim: 32 main components": partial(_Components, count=32),
    "padim: 100 channels, 32 directions a position": partial(_directions, channels=100, kept=32),
    "padim: 100 channels, 2x2 positions share a covariance": partial(_gaussian, channels=100, side=2),
    "padim: 176 channels, 2x2 positions share a covariance": partial(_gaussian, channels=176, side=2),
    "padim: 100 channels, grid of 16x16": partial(_Coarse, channels=100),
    "padim: 100 channels, whitening in float16": partial(_Half, channels=100),
    "patchcore: 128 patches": partial(_patches, bank=128, neighbours=9),
    "patchcore: 512 patches": partial(_patches, bank=512, neighbours=9),
    "patchcore: 2048 patches (the preset)": partial(_patches, bank=2048, neighbours=9),
    "patchcore: 2048 patches, not re-weighted": partial(_patches, bank=2048, neighbours=1),
    "patchcore: 2048 patches drawn at random": partial(_drawn_patches, bank=2048),
    "patchcore: 8192 patches": partial(_patches, bank=8192, neighbours=9),
}


@dataclass(frozen=True)
class _Group:
    """Embeddings of parts, and where each is defective."""

    embeddings: Tensor
    masks: list[NDArray[np.bool_]]


@dataclass(frozen=True)
class _Category:
    trunk: Trunk
    standardised: Standardised
    good: Tensor
    rendered: _Group
    labelled: _Group

    @staticmethod
    def of(folder: Path, seed: int) -> _Category:
        trunk = load_trunk().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        learned, held_out = split(good_images(folder), RecipeSettings().holdout, seed)
        features = features_of(trunk, load_images(learned, _SIZE, "good photos"), _CPU)
        standardised = Standardised(features)

        def group(pictures: list[NDArray[np.uint8]], masks: list[NDArray[np.bool_]]) -> _Group:
            seen = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
            return _Group(embeddings_of(standardised, features_of(trunk, seen, _CPU), _CPU), masks)

        nothing = np.zeros((_SIZE, _SIZE), np.bool_)
        photos = [resize(read(path), _SIZE, _SIZE) for path in held_out]
        defects = simulate_defects(photos, seed)
        labelled = labelled_images(folder)
        return _Category(
            trunk,
            standardised,
            embeddings_of(standardised, features, _CPU),
            group(
                [*photos, *(one.picture for one in defects)], [nothing] * len(photos) + [one.mask for one in defects]
            ),
            group(
                [resize(read(one.path), _SIZE, _SIZE) for one in labelled],
                [read_mask(one.mask, _SIZE, _SIZE) if one.mask else nothing for one in labelled],
            ),
        )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks forms", description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders in MVTec layout")
    parser.add_argument("--forms", nargs="+", default=[""], help="only forms whose names begin so")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    forms = {name: form for name, form in FORMS.items() if name.startswith(tuple(chosen.forms))}
    print("| category | form | rendered: image AUROC, pixel AP | test: image AUROC, pixel AP | MB | ms | fit, s |")
    print("|---|---|---|---|---|---|---|")
    for folder in chosen.data:
        category = _Category.of(folder, chosen.seed)
        for name, form in forms.items():
            started = time.process_time()
            with torch.inference_mode():
                distance = form(category.good, torch.Generator().manual_seed(chosen.seed)).eval()
            took = time.process_time() - started
            rendered, labelled = (
                _figures(category, distance, group) for group in (category.rendered, category.labelled)
            )
            size, ms = _cost(distance, category.good[:1])
            figures = " | ".join(f"{100 * image:.1f}, {100 * pixel:.1f}" for image, pixel in (rendered, labelled))
            print(f"| {folder.name} | {name} | {figures} | {size / 1e6:.1f} | {ms:.1f} | {took:.0f} |", flush=True)


@torch.inference_mode()
def _figures(category: _Category, distance: nn.Module, group: _Group) -> tuple[float, float]:
    """Image AUROC and pixel AP."""
    normal = torch.tensor([not mask.any() for mask in group.masks])
    found = torch.cat([distance(part) for part in torch.split(group.embeddings, 16)])
    made = DistanceMap(category.trunk, category.standardised, distance, found[normal])
    score = build_score("peak", None)
    pixels, scores = PixelFigures(), []
    for one, mask in zip(found, group.masks, strict=True):
        drawn = made.of_distances(one[None], (_SIZE, _SIZE))
        pixels.add(drawn[0].numpy(), mask)
        scores.append(float(score(drawn)[0]))
    ranked = np.array(scores)
    return auroc(ranked[normal.numpy()], ranked[~normal.numpy()]), pixels.average_precision()


def _cost(distance: nn.Module, embeddings: Tensor) -> tuple[int, float]:
    """Bytes of the distance as ONNX, and the median milliseconds of its only thread that an image takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(distance, (embeddings.clone(),), dynamo=True, opset_version=18, verbose=False)
    if program is None:
        raise RuntimeError("the torch exporter returned no program")
    model = program.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs: Mapping[str, NDArray[np.float32]] = {session.get_inputs()[0].name: embeddings.numpy()}
    seconds = []
    for _ in range(_ROUNDS + 1):
        started = time.thread_time()
        session.run(None, inputs)
        seconds.append(time.thread_time() - started)
    return len(model), 1000 * median(seconds[1:])
