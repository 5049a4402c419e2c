"""ONNX Runtime on an NVIDIA GPU: its CUDA provider, and TensorRT as one of its providers.

ONNX Runtime likes to go on without the GPU: a provider that fails to load leaves a session on the CPU, a node that a
provider does not know runs on the CPU, and a run that fails is repeated on the CPU. All three are refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.backends.base import BackendError
from service.backends.graphs import OnnxModel
from service.bundle.manifest import InputSpec, Precision

GpuChoice = Literal["ort-cuda", "ort-tensorrt"]
Providers = list[tuple[str, dict[str, str]]]

_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_REMEDY = (
    "look at what nvidia-smi says, pass the GPU into the container, and install exactly one of onnxruntime and "
    "onnxruntime-gpu: pip uninstall onnxruntime; in the checkout, pip install '.[gpu]' (ort-tensorrt: .[tensorrt])"
)


def provider_options(
    choice: GpuChoice, precision: Precision, expected: InputSpec, *, max_batch: int, cache: Path, model_sha256: str
) -> Providers:
    """Providers with every option that matters written out, the one that was asked for first."""
    cuda = {
        "device_id": "0",
        # The graph and its batches never change: take what they need, not the next power of two.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "do_copy_in_default_stream": "1",
        # fp32 means fp32, as in service.backends.engines.
        "use_tf32": "0",
        "enable_cuda_graph": "1",
    }
    if choice == "ort-cuda":
        return [(_CUDA, cuda)]
    folder = cache / "ort-tensorrt"
    size = f"{expected.height}x{expected.width}x3"
    tensorrt = {
        "device_id": "0",
        "trt_fp16_enable": _flag(precision == "fp16"),
        "trt_int8_enable": _flag(precision == "int8"),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        # ONNX Runtime adds the GPU and its own hash of the graph; ours is of every byte.
        "trt_engine_cache_prefix": f"{model_sha256[:16]}-{precision}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": f"image:1x{size}",
        "trt_profile_opt_shapes": f"image:1x{size}",
        "trt_profile_max_shapes": f"image:{max_batch}x{size}",
        # This provider keeps one graph, of whatever size came first: it would answer for every other size.
        "trt_cuda_graph_enable": _flag(max_batch == 1),
    }
    # What TensorRT leaves over goes to CUDA; two capturers of one graph would get in each other's way.
    return [(_TENSORRT, tensorrt), (_CUDA, {**cuda, "enable_cuda_graph": "0"})]


def _flag(value: bool) -> str:
    return "1" if value else "0"


class OrtGpuBackend:
    """A session whose inputs and outputs stay in place on the device: one set for each number of images, since a
    captured CUDA graph is for one shape and one set of addresses.

    Raises BackendError where the session would not run on the first of `providers`.
    """

    name = "onnxruntime"

    def __init__(
        self,
        model: OnnxModel,
        expected: InputSpec,
        precision: Precision,
        *,
        providers: Providers,
        max_batch: int,
        device: Literal["cuda", "cpu"] = "cuda",
    ) -> None:
        self.precision: Precision = precision
        self.max_batch_size = max_batch
        self.lanes = 1
        self.replaceable = False
        self.provider, first = providers[0]
        self._shape = (expected.height, expected.width, 3)
        _require(self.provider, onnxruntime.get_available_providers(), "this onnxruntime has")
        if folder := first.get("trt_engine_cache_path"):
            Path(folder).mkdir(parents=True, exist_ok=True)
        if device == "cuda":
            # CUDA and cuDNN from the packages of the extra `gpu`; found nowhere else by the dynamic loader.
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        if device == "cuda":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session = onnxruntime.InferenceSession(model.data, options, providers=providers, enable_fallback=0)
        except Exception as error:
            raise BackendError(f"{self.provider} was asked for and cannot run {model}: {error}; {_REMEDY}") from error
        _require(self.provider, self._session.get_providers()[:1], "the session reports")
        try:
            self._bindings = [_Binding(self._session, count, self._shape, device) for count in range(1, max_batch + 1)]
        except Exception as error:
            raise BackendError(f"{model}: {self.provider} has no room for {max_batch} images: {error}") from error

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if images.shape[1:] != self._shape or not 1 <= len(images) <= self.max_batch_size:
            raise ValueError(f"images are {images.shape}, not (1 to {self.max_batch_size}, {self._shape})")
        try:
            return self._bindings[len(images) - 1].run(self._session, images)
        except Exception as error:
            raise BackendError(f"{self.provider} failed: {error}") from error

    def rest(self) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        self._bindings.clear()
        del self._session


class _Binding:
    """Input and outputs of `count` images, at addresses that stay."""

    def __init__(
        self, session: onnxruntime.InferenceSession, count: int, shape: tuple[int, int, int], device: str
    ) -> None:
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._image = make((count, *shape), np.uint8, device, 0)
        self._outputs = [make((count, *shape[:2]), np.float32, device, 0), make((count,), np.float32, device, 0)]
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("image", self._image)
        for name, value in zip(("anomaly_map", "score"), self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)
        self._no_score = np.full(count, np.nan, np.float32)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(count))

    def run(
        self, session: onnxruntime.InferenceSession, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self._image.update_inplace(np.ascontiguousarray(images))
        # A run that writes nothing must not give the scores of the one before: NaN is never judged.
        self._outputs[1].update_inplace(self._no_score)
        session.run_with_iobinding(self._binding, self._options)
        # A copy, always: on the device side the next run writes to the same place.
        anomaly_map, score = (np.array(value.numpy()) for value in self._outputs)
        return anomaly_map, score


def _require(wanted: str, found: Sequence[str], who: str) -> None:
    if wanted not in found:
        raise BackendError(f"{wanted} was asked for, {who} {', '.join(found) or 'none'}: {_REMEDY}")
