"""The TensorRT backend on a made-up GPU: memory is counted, and the stream does nothing until it is waited for."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bundles import SIZE, gray, make_bundle, png
from fakes import brightness
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from stations import station

from service.assembly.parts import Parts
from service.backends.base import BackendError
from service.backends.cuda import Cuda, Gpu
from service.backends.engines import Library
from service.backends.opening import open_backend
from service.backends.trt import TrtBackend
from service.bundle.folder import read_bundle
from service.bundle.manifest import InputSpec

SPEC = InputSpec(height=SIZE, width=SIZE)
SHAPES = {"image": (-1, SIZE, SIZE, 3), "anomaly_map": (-1, SIZE, SIZE), "score": (-1,)}


class FakeCuda:
    """Host memory that plays both sides; copies and kernels wait in the stream until it is synchronised."""

    cudaStreamNonBlocking = 1  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host")  # noqa: N815

    def __init__(self) -> None:
        self.memory: dict[int, tuple[str, Any]] = {}
        self.streams: set[int] = set()
        self.queue: list[Callable[[], object]] = []
        self.calls: list[str] = []
        self.fails: dict[str, int] = {}

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(value) or name == "cudaGetErrorString":
            return value
        self.calls.append(name)
        return (lambda *_: (self.fails[name],)) if name in self.fails else value

    def _take(self, side: str, size: int) -> tuple[int, int]:
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = (side, block)
        return 0, ctypes.addressof(block)

    def cudaMalloc(self, size: int) -> tuple[int, int]:  # noqa: N802
        return self._take("device", size)

    def cudaMallocHost(self, size: int) -> tuple[int, int]:  # noqa: N802
        return self._take("host", size)

    def cudaFree(self, address: int) -> tuple[int]:  # noqa: N802
        assert self.memory.pop(address)[0] == "device"
        return (0,)

    def cudaFreeHost(self, address: int) -> tuple[int]:  # noqa: N802
        assert self.memory.pop(address)[0] == "host"
        return (0,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:  # noqa: N802
        self.streams.add(77)
        return 0, 77

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        self.streams.remove(stream)
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> tuple[int]:  # noqa: N802
        sides = {"to device": ("device", "host"), "to host": ("host", "device")}[kind]
        assert (self.memory[target][0], self.memory[source][0]) == sides
        assert stream in self.streams
        self.queue.append(lambda: ctypes.memmove(target, source, size))
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        for work in self.queue:
            work()
        self.queue.clear()
        return (0,)

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:  # noqa: N802
        return 0, b"an illegal memory access was encountered"

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:  # noqa: N802
        return 0, SimpleNamespace(major=8, minor=6, name=b"Made-up GPU\0\0")


class FakeEngine:
    """An engine and its context in one: brightness, on whatever memory it was told of."""

    def __init__(self, cuda: FakeCuda, max_batch: int) -> None:
        self.cuda, self.max_batch = cuda, max_batch
        self.addresses: dict[str, int] = {}
        self.shapes_set: list[tuple[int, ...]] = []
        self.num_io_tensors = len(SHAPES)
        self.works = True

    def get_tensor_name(self, i: int) -> str:
        return list(SHAPES)[i]

    def get_tensor_dtype(self, name: str) -> str:
        return "uint8" if name == "image" else "float"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(n, *SHAPES[name][1:]) for n in (1, 1, self.max_batch)]

    def create_execution_context(self) -> FakeEngine:
        return self

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.cuda.memory[address][0] == "device"

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes_set.append(shape)
        return shape[0] <= self.max_batch

    def execute_async_v3(self, stream: int) -> bool:
        if self.works:
            self.cuda.queue.append(self._compute)
        return self.works

    def _compute(self) -> None:
        shape = self.shapes_set[-1]
        maps, scores = brightness(self._view("image", shape, np.uint8))
        self._view("anomaly_map", shape[:3], np.float32)[:] = maps
        self._view("score", shape[:1], np.float32)[:] = scores

    def _view(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        block = self.cuda.memory[self.addresses[name]][1]
        return np.frombuffer(block, dtype)[: int(np.prod(shape))].reshape(shape)


class Machine:
    """A made-up GPU, TensorRT and one engine."""

    def __init__(self, max_batch: int = 4) -> None:
        self.cuda = FakeCuda()
        self.engine = FakeEngine(self.cuda, max_batch)
        module = SimpleNamespace(
            __name__="tensorrt",
            __version__="10.16",
            ILogger=type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1)}),
            DataType=SimpleNamespace(UINT8="uint8", FLOAT="float"),
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: self.load(logger, data)),
        )
        self.library = Library(module)

    def load(self, logger: Any, data: bytes) -> FakeEngine | None:
        if data == b"engine":
            return self.engine
        logger.log(1, "magic tag does not match")
        return None

    def open(self, data: bytes = b"engine", max_batch: int = 4) -> TrtBackend:
        return TrtBackend(data, SPEC, "fp32", max_batch=max_batch, library=self.library, cuda=Cuda(self.cuda))


def _images(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def test_every_batch_is_right_and_outlives_the_next_run() -> None:
    backend = Machine().open()
    batches = [_images(count, seed) for seed, count in enumerate((1, 4, 2, 4, 1))]
    results = [backend.run(images) for images in batches]
    for images, (maps, scores) in zip(batches, results, strict=True):
        np.testing.assert_array_equal(maps, brightness(images)[0])
        np.testing.assert_array_equal(scores, brightness(images)[1])
    assert (backend.name, backend.provider) == ("tensorrt", "tensorrt 10.16 on Made-up GPU")


def test_requests_take_no_memory_and_name_a_shape_only_when_it_changes() -> None:
    gpu = Machine()
    backend = gpu.open()
    before = len(gpu.cuda.memory)
    gpu.cuda.calls.clear()
    for seed, count in enumerate((1, 1, 3, 3, 1)):
        backend.run(_images(count, seed))
    assert set(gpu.cuda.calls) == {"cudaMemcpyAsync", "cudaStreamSynchronize"}
    assert len(gpu.cuda.memory) == before == 6
    assert [shape[0] for shape in gpu.engine.shapes_set] == [1, 3, 1]


def test_a_run_that_writes_nothing_has_no_score() -> None:
    gpu = Machine()
    backend = gpu.open()
    assert np.isfinite(backend.run(_images(3, 0))[1]).all()
    gpu.engine._compute = lambda: None  # type: ignore[method-assign]
    assert np.isnan(backend.run(_images(3, 1))[1]).all()


def test_a_closed_backend_touches_no_memory() -> None:
    gpu = Machine()
    backend = gpu.open()
    backend.run(_images(1, 0))
    backend.close()
    gpu.cuda.calls.clear()
    with pytest.raises(BackendError, match="tensorrt: it was closed and its memory given back"):
        backend.run(_images(1, 0))
    assert gpu.cuda.calls == []


def test_close_and_being_dropped_give_everything_back() -> None:
    gpu = Machine()
    backend = gpu.open()
    backend.close()
    backend.close()
    assert (gpu.cuda.memory, gpu.cuda.streams) == ({}, set())
    backend = gpu.open()
    backend.run(_images(1, 0))
    del backend
    gc.collect()
    assert (gpu.cuda.memory, gpu.cuda.streams) == ({}, set())


def test_a_start_that_fails_half_way_gives_everything_back() -> None:
    gpu = Machine()
    gpu.cuda.fails["cudaMalloc"] = 2
    with pytest.raises(BackendError, match=r"cudaMalloc: an illegal .* \(CUDA error 2\)"):
        gpu.open()
    assert (gpu.cuda.memory, gpu.cuda.streams) == ({}, set())


def test_engines_that_do_not_fit_are_refused_with_what_tensorrt_said() -> None:
    with pytest.raises(BackendError, match="cannot be loaded: magic tag does not match"):
        Machine().open(b"of another version")
    with pytest.raises(BackendError, match="takes 1 to 2 images, not 1 to 4"):
        Machine(max_batch=2).open()


@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_cuda_errors_are_backend_errors_and_pass(call: str) -> None:
    gpu = Machine()
    backend = gpu.open()
    backend.run(_images(1, 0))
    gpu.cuda.fails[call] = 700
    with pytest.raises(BackendError, match=rf"{call}: an illegal memory access .* 700"):
        backend.run(_images(2, 1))
    gpu.cuda.fails.clear()
    gpu.cuda.queue.clear()
    images = _images(2, 2)
    np.testing.assert_array_equal(backend.run(images)[0], brightness(images)[0])
    gpu.engine.works = False
    with pytest.raises(BackendError, match="the engine was not run"):
        backend.run(images)


@pytest.fixture
def on_fake_gpu(tmp_path: Path) -> Iterator[tuple[Machine, TestClient]]:
    gpu = Machine(max_batch=8)
    make_bundle(tmp_path / "models")
    with station(tmp_path / "models", Parts(open_backend=lambda *_, **__: gpu.open(max_batch=8))) as client:
        yield gpu, client


def test_a_lost_gpu_takes_readiness_off_and_is_no_verdict(on_fake_gpu: tuple[Machine, TestClient]) -> None:
    gpu, client = on_fake_gpu
    picture = {"content": png(gray(50)), "headers": {"Content-Type": "image/png"}}
    assert client.post("/inspect", **picture).json()["verdict"] == "OK"  # type: ignore[arg-type]
    gpu.cuda.fails["cudaStreamSynchronize"] = 719
    reply = client.post("/inspect", **picture)  # type: ignore[arg-type]
    assert (reply.status_code, reply.json()["code"], reply.json()["verdict"]) == (
        503,
        "backend_failed",
        "NOT_INSPECTED",
    )
    assert client.get("/readyz").status_code == 503
    assert "the backend failed" in client.get("/readyz").json()["reason"]


def test_without_a_gpu_tensorrt_is_refused(models: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: x86-64 Linux only")
    try:
        found: Gpu | None = Cuda().gpu(0)
    except BackendError:
        found = None
    if found:
        pytest.skip(f"there is a GPU: {found.name}")
    with pytest.raises(BackendError, match=r"no GPU 0 to use: .*CUDA driver version is insufficient.*nvidia-smi"):
        open_backend(read_bundle(models / "part" / "1"), "tensorrt", threads=1, cache=tmp_path)
