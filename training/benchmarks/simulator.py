"""Times the authors' data loader against the batched simulator, side by side, on the same files, one thread each.

`python -m training.benchmarks simulator --data GOOD --textures DTD`. The reference does what the authors' loader does
for every sample: decode and resize photo and texture with OpenCV, one Perlin noise image with numpy, three of ten
augmenters on 8-bit pixels, blend; a sample is drawn as normal only after that work, as in their code. Their
augmentation library does not run with current numpy: OpenCV and Pillow take its place, which are no slower. Times
are CPU times of the one thread, so that other work on the machine counts as little as it can.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from training.data.folders import DataError, find_images, good_images
from training.data.reading import load_images
from training.loop.memory import keep_freed_memory
from training.methods.draem.config import preset
from training.simulation.simulator import AnomalySimulator, SimulatorConfig

Pixels = NDArray[np.uint8]  # (S, S, 3)
Array = NDArray[np.float64]
Picture = TypeVar("Picture", Pixels, Array)
BATCH = 8
SIMULATORS = {"paper": SimulatorConfig(), "edge and quick": preset("edge").simulator}


class AuthorsLoader:
    """One sample a call: image and target float32 `(3, S, S)`, mask float32 `(1, S, S)`."""

    def __init__(self, photos: list[Path], textures: list[Path], size: int, seed: int) -> None:
        self.photos = photos
        self.textures = textures
        self.size = size
        self.rng = np.random.default_rng(seed)

    def sample(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        image = self._read(self.photos)
        if self.rng.random() > 0.7:
            image = _rotate(image, self.rng.uniform(-90, 90))
        clean = image.astype(np.float32) / np.float32(255)
        texture = self._read(self.textures)
        for which in self.rng.choice(len(_AUGMENTERS), 3, replace=False):
            texture = _AUGMENTERS[which](texture, self.rng)
        mask = self._mask()
        share = self.rng.random() * 0.8
        blend: NDArray[np.floating] = clean * (1 - mask) + (1 - share) * (texture * mask / 255) + share * clean * mask
        if self.rng.random() > 0.5:
            blend, mask = clean, np.zeros((self.size, self.size, 1))
        augmented = (mask * blend + (1 - mask) * clean).astype(np.float32)
        return augmented.transpose(2, 0, 1), clean.transpose(2, 0, 1), mask.astype(np.float32).transpose(2, 0, 1)

    def _read(self, files: list[Path]) -> Pixels:
        file = files[self.rng.integers(len(files))]
        pixels = cv2.imread(str(file))
        if pixels is None:
            raise DataError(f"{file}: not a readable image")
        return np.asarray(cv2.resize(pixels, (self.size, self.size)), np.uint8)

    def _mask(self) -> Array:
        rows, columns = (int(2**k) for k in self.rng.integers(0, 6, 2))
        noise = _rotate(authors_perlin(rows, columns, self.size, self.rng), self.rng.uniform(-90, 90))
        return np.where(noise > 0.5, 1.0, 0.0)[..., None]


def authors_perlin(rows: int, columns: int, size: int, rng: np.random.Generator) -> Array:
    """Noise `(size, size)` in about [-1, 1]: gradients repeated over their cells, four ramps, two fades."""
    y, x = np.mgrid[0 : rows : rows / size, 0 : columns : columns / size] % 1
    angles = 2 * np.pi * rng.random((rows + 1, columns + 1))
    gradients = np.stack((np.cos(angles), np.sin(angles)), axis=-1)
    cell = size // rows, size // columns

    def ramp(i: int, j: int) -> Array:
        corner = gradients[i : i + rows, j : j + columns].repeat(cell[0], 0).repeat(cell[1], 1)
        return np.asarray((np.stack((y - i, x - j), axis=-1) * corner).sum(axis=-1))

    fade_y, fade_x = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (y, x))
    left = ramp(0, 0) + (ramp(1, 0) - ramp(0, 0)) * fade_y
    right = ramp(0, 1) + (ramp(1, 1) - ramp(0, 1)) * fade_y
    return np.asarray(np.sqrt(2) * (left + (right - left) * fade_x))


def _rotate(image: Picture, degrees: float) -> Picture:
    centre = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    turned: Picture = cv2.warpAffine(  # type: ignore[assignment]
        image, cv2.getRotationMatrix2D(centre, degrees, 1.0), image.shape[1::-1]
    )
    return turned


def _gamma(image: Pixels, rng: np.random.Generator) -> Pixels:
    table = 255 * (np.arange(256)[:, None] / 255) ** rng.uniform(0.5, 2.0, 3)
    return np.asarray(cv2.LUT(image, table[None].astype(np.uint8)), np.uint8)


def _brightness(image: Pixels, rng: np.random.Generator) -> Pixels:
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    luma[..., 0] = np.clip(luma[..., 0] * rng.uniform(0.8, 1.2) + rng.integers(-30, 31), 0, 255)
    return np.asarray(cv2.cvtColor(luma, cv2.COLOR_YCrCb2RGB), np.uint8)


def _sharpness(image: Pixels, rng: np.random.Generator) -> Pixels:
    return np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(rng.uniform(0, 2)))


def _hue_and_saturation(image: Pixels, rng: np.random.Generator) -> Pixels:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(rng.integers(-50, 51) % 256)
    hsv[..., 1] = np.clip(hsv[..., 1].astype(np.int16) + rng.integers(-50, 51), 0, 255)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)


def _solarize(image: Pixels, rng: np.random.Generator) -> Pixels:
    above = image >= rng.integers(32, 129)
    return np.asarray(np.where(above, 255 - image, image)) if rng.random() < 0.5 else image


def _posterize(image: Pixels, rng: np.random.Generator) -> Pixels:
    step = 2 ** int(8 - rng.integers(1, 9))
    return np.asarray(image // step * step + step // 2, np.uint8)


def _invert(image: Pixels, rng: np.random.Generator) -> Pixels:
    return 255 - image


def _autocontrast(image: Pixels, rng: np.random.Generator) -> Pixels:
    return np.asarray(ImageOps.autocontrast(Image.fromarray(image), cutoff=int(rng.integers(0, 21))))


def _equalize(image: Pixels, rng: np.random.Generator) -> Pixels:
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


def _turn(image: Pixels, rng: np.random.Generator) -> Pixels:
    return _rotate(image, rng.uniform(-45, 45))


_AUGMENTERS: tuple[Callable[[Pixels, np.random.Generator], Pixels], ...] = (
    _gamma,
    _brightness,
    _sharpness,
    _hue_and_saturation,
    _solarize,
    _posterize,
    _invert,
    _autocontrast,
    _equalize,
    _turn,
)


def milliseconds(call: Callable[[], object], samples: int) -> float:
    started = time.thread_time()
    call()
    return 1000 * (time.thread_time() - started) / samples


def compare(photos: list[Path], textures: list[Path], size: int, repeats: int, seed: int) -> dict[str, list[float]]:
    """Milliseconds a sample in each of `repeats` batches: the authors' loader and each simulator, in turns."""
    good, cached = load_images(photos, size, "good photos"), load_images(textures, size, "textures")
    loader = AuthorsLoader(photos, textures, size, seed)
    formulas: dict[str, Callable[[], object]] = {"authors": lambda: [loader.sample() for _ in range(BATCH)]}
    for name, config in SIMULATORS.items():
        simulator = AnomalySimulator(good, cached, config, torch.Generator().manual_seed(seed))
        formulas[name] = partial(simulator.batch, BATCH)
    times: dict[str, list[float]] = {name: [] for name in formulas}
    for _ in range(repeats + 1):
        for name, formula in formulas.items():
            times[name].append(milliseconds(formula, BATCH))
    return {name: measured[1:] for name, measured in times.items()}  # the first of each warms up


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks simulator", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="good photos, or a folder in MVTec layout")
    parser.add_argument("--textures", type=Path, required=True, help="folder of texture images, e.g. DTD")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=200, help="photos and textures used, at most")
    parser.add_argument("--repeats", type=int, default=30, help=f"batches of {BATCH} timed for each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    photos = good_images(options.data)[: options.images]
    textures = find_images(options.textures)[: options.images]
    times = compare(photos, textures, options.size, options.repeats, options.seed)
    slow = median(times["authors"])
    print("| formula | ms a sample | quartiles | authors' time over it |\n|---|---|---|---|")
    for name, measured in times.items():
        low, middle, high = quantiles(measured, n=4)
        print(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {slow / middle:.1f} |")
