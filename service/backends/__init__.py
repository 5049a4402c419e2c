"""Backends run a bundle's graph. One small protocol; an `if` chooses among the implementations."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle, Precision

BackendChoice = Literal["auto", "ort-cpu", "ort-cuda", "ort-tensorrt", "tensorrt"]
# What becomes of a TensorRT engine that is missing, stale or foreign; in no case is such a one loaded.
EnginePolicy = Literal["build", "refuse"]


class BackendError(RuntimeError):
    """The backend cannot be opened or failed while running; nothing it returned may be trusted."""


class Backend(Protocol):
    """At most `lanes` runs at the same time; with one lane all of them come from the same thread."""

    name: str
    provider: str
    precision: Precision
    max_batch_size: int
    lanes: int

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """RGB uint8 `(N, H, W, 3)`, N <= max_batch_size -> anomaly maps float32 `(N, H, W)`, scores float32 `(N,)`.

        Raises BackendError when the runtime fails. Whether the values are finite is for the caller to judge.
        """

    def close(self) -> None: ...


def open_backend(
    bundle: Bundle,
    choice: BackendChoice,
    *,
    threads: int,
    max_batch: int = 8,
    cache: Path = Path("cache"),
    engine_policy: EnginePolicy = "build",
) -> Backend:
    """Open the model of `bundle`; `auto` is ONNX Runtime on the CPU. Raises BackendError, never substitutes.

    `max_batch`, `cache` and `engine_policy` are for GPUs: engines are built for so many images, kept there.
    """
    manifest = bundle.manifest
    # Imported here so that reading a bundle does not need the runtime, nor one runtime the others.
    if choice == "tensorrt":
        from service.backends.trt import open_tensorrt

        return open_tensorrt(
            bundle, gpu_precision(bundle), max_batch=max_batch, cache=cache, engine_policy=engine_policy
        )
    if choice in ("ort-cuda", "ort-tensorrt"):
        from service.backends.ort_gpu import OrtGpuBackend, provider_options

        precision = gpu_precision(bundle)
        providers = provider_options(
            choice,
            precision,
            manifest.input,
            max_batch=max_batch,
            cache=cache,
            model_sha256=bundle.model_sha256(precision),
        )
        model = bundle.file(manifest.models[precision])
        return OrtGpuBackend(model, manifest.input, precision, providers=providers, max_batch=max_batch)
    from service.backends.ort import OrtBackend

    return OrtBackend(bundle.file(manifest.models["fp32"]), manifest.input, "fp32", threads=threads)


def gpu_precision(bundle: Bundle) -> Precision:
    """What a GPU runs: half precision where the bundle has it, with a tolerance of its own, else single."""
    return "fp16" if "fp16" in bundle.manifest.models else "fp32"
