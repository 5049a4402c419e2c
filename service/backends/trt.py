"""TensorRT backend: one engine, one stream, buffers made once."""

from __future__ import annotations

import ctypes
import math
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.backends.base import BackendError, EnginePolicy
from service.backends.cuda import Cuda
from service.backends.engines import Library, load_engine, make_logger, open_library, signature
from service.bundle.folder import Bundle
from service.bundle.manifest import InputSpec, Precision


def open_tensorrt(
    bundle: Bundle, precision: Precision, *, max_batch: int, cache: Path, engine_policy: EnginePolicy
) -> TrtBackend:
    """The bundle's engine on this machine's first GPU; raises BackendError without GPU, TensorRT or engine."""
    library, cuda = open_library(), Cuda()
    engine = load_engine(
        bundle,
        precision,
        max_batch=max_batch,
        cache=cache,
        policy=engine_policy,
        gpu=cuda.gpu(0),
        library=library,
    )
    return TrtBackend(engine, bundle.manifest.input, precision, max_batch=max_batch, library=library, cuda=cuda)


class TrtBackend:
    """Runs a serialized engine. Pinned host and device memory for `max_batch` images is taken at the start; a request
    takes none, except for the arrays it returns: they outlive the next request.
    """

    def __init__(
        self, engine: bytes, expected: InputSpec, precision: Precision, *, max_batch: int, library: Library, cuda: Cuda
    ) -> None:
        self.name = library.name
        self.precision: Precision = precision
        self.max_batch_size = max_batch
        self.lanes = 1
        self.replaceable = False
        self._cuda = cuda
        self._errors: list[str] = []
        self._shape = (expected.height, expected.width, 3)
        self._batch = 0
        trt = library.module
        self._runtime = trt.Runtime(make_logger(library, self._errors))
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise self._failure("the engine cannot be loaded")
        self._check(trt, expected, max_batch)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._failure("there is no room for the engine's activations")
        self.provider = f"{library.name} {library.version} on {cuda.gpu(0).name}"
        resources = ExitStack()
        # A version that was swapped out is only dropped: its memory on the GPU goes when the last request lets it go.
        self._free = weakref.finalize(self, resources.close)
        self._free.atexit = False
        try:
            self._stream = int(cuda.call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking))
            resources.callback(_quietly, cuda, "cudaStreamDestroy", self._stream)
            self._image = _Buffer(cuda, resources, (max_batch, *self._shape), np.uint8)
            self._map = _Buffer(cuda, resources, (max_batch, *self._shape[:2]), np.float32)
            self._score = _Buffer(cuda, resources, (max_batch,), np.float32)
            for name, buffer in (("image", self._image), ("anomaly_map", self._map), ("score", self._score)):
                if not self._context.set_tensor_address(name, buffer.device):
                    raise self._failure(f"{name} cannot be bound")
        except BackendError:
            self._free()
            raise

    def _check(self, trt: Any, expected: InputSpec, max_batch: int) -> None:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        found = {n: (self._engine.get_tensor_dtype(n), tuple(self._engine.get_tensor_shape(n))) for n in names}
        wanted = signature(trt, expected)
        if found != wanted:
            raise BackendError(f"the engine's inputs and outputs are {found}, not {wanted}")
        fewest, _, most = (shape[0] for shape in self._engine.get_tensor_profile_shape("image", 0))
        if (fewest, most) != (1, max_batch):
            raise BackendError(f"the engine takes {fewest} to {most} images, not 1 to {max_batch}")

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not self._free.alive:
            raise BackendError(f"{self.name}: it was closed and its memory given back: open the recipe again")
        count = len(images)
        if images.shape[1:] != self._shape or not 1 <= count <= self.max_batch_size:
            raise ValueError(f"images are {images.shape}, not (1 to {self.max_batch_size}, {self._shape})")
        self._errors.clear()
        if count != self._batch:
            # Not known again until a run went through.
            self._batch = 0
            if not self._context.set_input_shape("image", images.shape):
                raise self._failure(f"no batch of {count} images")
        np.copyto(self._image.host[:count], images)
        self._image.to_device(count, self._stream)
        # A run that writes nothing must not give the scores of the one before: NaN is never judged.
        self._score.host[:count] = np.nan
        self._score.to_device(count, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise self._failure("the engine was not run")
        self._map.to_host(count, self._stream)
        self._score.to_host(count, self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        self._batch = count
        return self._map.host[:count].copy(), self._score.host[:count].copy()

    def rest(self) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        self._free()

    def _failure(self, what: str) -> BackendError:
        return BackendError(f"{self.name}: {what}: {'; '.join(self._errors) or 'it gave no reason'}")


class _Buffer:
    """Pinned memory on the host and as much on the device, freed by `resources`."""

    def __init__(self, cuda: Cuda, resources: ExitStack, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._cuda = cuda
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self._bytes_per_image = size // shape[0]
        self._address = int(cuda.call("cudaMallocHost", size))
        resources.callback(_quietly, cuda, "cudaFreeHost", self._address)
        self.device = int(cuda.call("cudaMalloc", size))
        resources.callback(_quietly, cuda, "cudaFree", self.device)
        memory = (ctypes.c_uint8 * size).from_address(self._address)
        self.host: NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def to_device(self, count: int, stream: int) -> None:
        self._copy(self.device, self._address, count, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def to_host(self, count: int, stream: int) -> None:
        self._copy(self._address, self.device, count, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def _copy(self, target: int, source: int, count: int, kind: Any, stream: int) -> None:
        self._cuda.call("cudaMemcpyAsync", target, source, count * self._bytes_per_image, kind, stream)


def _quietly(cuda: Cuda, function: str, resource: Any) -> None:
    # After a failure on the GPU every further call fails, freeing too; the first error is the one to tell.
    with suppress(BackendError):
        cuda.call(function, resource)
