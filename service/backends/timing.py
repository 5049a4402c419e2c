"""What a backend takes for an image that is alone, and how many it gets done under full load."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from service.backends.base import Backend
from service.backends.golden import golden_images
from service.bundle.folder import Bundle
from service.images.decoding import Pixels, decode
from service.images.resizing import fit

_SECONDS = 0.5  # of one image after the other
_MOST_RUNS = 15
_FEWEST_RUNS = 3
_ROUND_S = 0.15  # of full load
_ROUNDS = 2
_FEWEST_IMAGES, _MOST_IMAGES = 8, 64
_DECODERS = 2


def seconds_alone(bundle: Bundle, backend: Backend) -> float:
    """Least time of an image: what else the machine does makes a run slower, never faster."""
    images = [image[None] for image in golden_images(bundle)]
    times: list[float] = []
    while len(times) < _FEWEST_RUNS or (sum(times) < _SECONDS and len(times) < _MOST_RUNS):
        started = time.perf_counter()
        backend.run(images[len(times) % len(images)])
        times.append(time.perf_counter() - started)
    return min(times)


def images_per_s(bundle: Bundle, backend: Backend, size: int, alone_s: float) -> float:
    """Most images a second, of some rounds, with as many runs as the backend takes and `size` images in each.

    The images are decoded meanwhile, as in the service: a plan that is best where nothing else wants a core need not
    be best there.
    """
    spec = bundle.manifest.input.model_copy(update={"crop": None})
    encoded = [bundle.read(golden.image) for golden in bundle.manifest.golden]
    fitting = min(max(_ROUND_S / alone_s, _FEWEST_IMAGES), _MOST_IMAGES)
    together = backend.lanes * size
    count = together * math.ceil(fitting / together)

    def prepare(number: int) -> Pixels:
        return fit(decode(encoded[number % len(encoded)]), spec)

    def run(batch: list[Future[Pixels]]) -> None:
        backend.run(np.stack([image.result() for image in batch]))

    seconds = []
    with ThreadPoolExecutor(_DECODERS) as decoders, ThreadPoolExecutor(backend.lanes) as lanes:
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            images = [decoders.submit(prepare, number) for number in range(count)]
            list(lanes.map(run, [images[first : first + size] for first in range(0, count, size)]))
            seconds.append(time.perf_counter() - started)
    return count / min(seconds)
