"""What a backend is: the protocol that every runtime fits, and the error that all of them raise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision

BackendChoice = Literal["auto", "ort-cpu", "openvino", "ort-cuda", "ort-tensorrt", "tensorrt"]
PrecisionChoice = Literal["auto", Precision]
# What becomes of a TensorRT engine that is missing, stale or foreign; in no case is such a one loaded.
EnginePolicy = Literal["build", "refuse"]


class BackendError(RuntimeError):
    """The backend cannot be opened or failed while running; nothing it returned may be trusted."""


@dataclass(frozen=True)
class Scored:
    """What a graph makes of one image: map float32 `(H, W)` and score."""

    anomaly_map: NDArray[np.float32]
    score: float


class Backend(Protocol):
    """At most `lanes` runs at the same time; with one lane all of them come from the same thread."""

    name: str
    provider: str
    precision: Precision
    max_batch_size: int
    lanes: int
    # Whether a run that hangs may be left to its thread while others go on: not on a device that has one owner.
    replaceable: bool

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """RGB uint8 `(N, H, W, 3)`, N <= max_batch_size -> anomaly maps float32 `(N, H, W)`, scores float32 `(N,)`.

        Raises BackendError when the runtime fails. Whether the values are finite is for the caller to judge.
        """

    def rest(self) -> None:
        """Give back what only a run needs, unless one is under way: the next one takes it again, in milliseconds."""

    def close(self) -> None: ...


def score_images(backend: Backend, images: Sequence[NDArray[np.uint8]]) -> list[Scored]:
    """What the backend makes of uint8 RGB `(H, W, 3)` images of its graph's size, in batches as large as it takes."""
    found: list[Scored] = []
    step = backend.max_batch_size
    for start in range(0, len(images), step):
        maps, scores = backend.run(np.stack(images[start : start + step]))
        found += [Scored(anomaly_map, float(score)) for anomaly_map, score in zip(maps, scores, strict=True)]
    return found


@dataclass(frozen=True)
class Candidate:
    """A runtime of the CPU with a precision that the bundle has for it."""

    backend: Literal["ort-cpu", "openvino"]
    precision: Precision

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"
