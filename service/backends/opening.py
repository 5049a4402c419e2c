"""Which backend runs a bundle's graph: an `if` chooses among the implementations."""

from __future__ import annotations

from pathlib import Path

from service.backends.base import (
    Backend,
    BackendChoice,
    BackendError,
    EnginePolicy,
    PrecisionChoice,
)
from service.backends.cpu_runtimes import cpu_candidates
from service.backends.graphs import OnnxModel
from service.backends.plans import PlanChoice
from service.bundle.folder import Bundle
from service.bundle.manifest import Precision


def open_backend(
    bundle: Bundle,
    choice: BackendChoice,
    *,
    threads: int,
    precision: PrecisionChoice = "auto",
    max_batch: int = 8,
    cache: Path = Path("cache"),
    engine_policy: EnginePolicy = "build",
    plan: PlanChoice | None = None,
) -> Backend:
    """Open the model of `bundle`. Raises BackendError, never substitutes.

    What is left to `auto`, backend or precision, is measured on a CPU (service.backends.fastest) and kept in `cache`;
    GPUs are only taken where they are asked for. `engine_policy` is theirs: engines are built for `max_batch` images,
    kept in `cache`. `plan` is for CPUs (service.backends.planning); None is the rule's. Where `auto` finds none that
    a trial measured, it is the rule's too: other plans are tried in a process of their own alone.
    """
    manifest = bundle.manifest
    # Imported here so that reading a bundle does not need the runtime, nor one runtime the others.
    if choice == "tensorrt":
        from service.backends.trt import open_tensorrt

        asked = gpu_precision(bundle, precision)
        return open_tensorrt(bundle, asked, max_batch=max_batch, cache=cache, engine_policy=engine_policy)
    if choice in ("ort-cuda", "ort-tensorrt"):
        from service.backends.ort_gpu import OrtGpuBackend, provider_options

        asked = gpu_precision(bundle, precision)
        providers = provider_options(
            choice,
            asked,
            manifest.input,
            max_batch=max_batch,
            cache=cache,
            model_sha256=bundle.model_sha256(asked),
        )
        return OrtGpuBackend(
            OnnxModel.of(bundle, asked), manifest.input, asked, providers=providers, max_batch=max_batch
        )
    from service.backends.fastest import open_fastest

    return open_fastest(
        bundle,
        cpu_candidates(bundle, choice, precision),
        threads=threads,
        cache=cache,
        plan=plan,
        max_batch=max_batch,
        measure_plans=False,
    )


def gpu_precision(bundle: Bundle, asked: PrecisionChoice = "auto") -> Precision:
    """What a GPU runs: half precision where the bundle has it, with a tolerance of its own, else single."""
    models = bundle.manifest.models
    if asked == "auto":
        return "fp16" if "fp16" in models else "fp32"
    if asked == "bf16" or asked not in models:
        raise BackendError(f"{asked} was asked for, {bundle.path} has {', '.join(models)} (bf16 for CPUs alone)")
    return asked
