"""Which backend runs a bundle's graph: an `if` chooses among the implementations."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from service.backends.base import (
    Backend,
    BackendChoice,
    BackendError,
    Candidate,
    EnginePolicy,
    PrecisionChoice,
)
from service.backends.graphs import OnnxModel
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
) -> Backend:
    """Open the model of `bundle`. Raises BackendError, never substitutes.

    What is left to `auto`, backend or precision, is measured on a CPU (service.backends.fastest) and kept in `cache`;
    GPUs are only taken where they are asked for. `max_batch` and `engine_policy` are theirs: engines are built for so
    many images, kept in `cache`.
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

    return open_fastest(bundle, cpu_candidates(bundle, choice, precision), threads=threads, cache=cache)


def cpu_candidates(bundle: Bundle, choice: BackendChoice, precision: PrecisionChoice) -> list[Candidate]:
    """What of the bundle can run on this machine's CPU and is what was asked for; raises BackendError for none."""
    if choice == "openvino" and not find_spec("openvino"):
        raise BackendError("openvino was asked for, it is not installed: in the checkout, pip install '.[openvino]'")
    offered = [Candidate("ort-cpu", asked) for asked in ("fp32", "int8")]
    if find_spec("openvino"):
        offered += [Candidate("openvino", asked) for asked in _openvino_precisions()]
    models = bundle.manifest.models
    found = [
        candidate
        for candidate in offered
        if candidate.precision in models and choice in ("auto", candidate.backend)
        if precision in ("auto", candidate.precision)
    ]
    if not found:
        raise BackendError(
            f"{choice} with precision {precision} was asked for: {bundle.path} has {', '.join(models)}, and this "
            f"machine's CPU runs {', '.join(map(str, offered))}"
        )
    return found


def _openvino_precisions() -> list[Precision]:
    from service.backends.openvino import has_bf16

    return ["fp32", "bf16", "int8"] if has_bf16() else ["fp32", "int8"]


def open_on_cpu(bundle: Bundle, candidate: Candidate, *, threads: int) -> Backend:
    model = OnnxModel.of(bundle, candidate.precision)
    if candidate.backend == "openvino":
        from service.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(model, bundle.manifest.input, candidate.precision, threads=threads)
    from service.backends.ort import OrtBackend

    return OrtBackend(model, bundle.manifest.input, candidate.precision, threads=threads)


def gpu_precision(bundle: Bundle, asked: PrecisionChoice = "auto") -> Precision:
    """What a GPU runs: half precision where the bundle has it, with a tolerance of its own, else single."""
    models = bundle.manifest.models
    if asked == "auto":
        return "fp16" if "fp16" in models else "fp32"
    if asked == "bf16" or asked not in models:
        raise BackendError(f"{asked} was asked for, {bundle.path} has {', '.join(models)} (bf16 for CPUs alone)")
    return asked
