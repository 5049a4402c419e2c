"""TensorRT engines: built from a bundle's ONNX, kept in a cache, and never loaded where they do not belong.

An engine is fast because it fits one GPU and one TensorRT version; it does not travel. The bundle's ONNX does, and
every machine builds its own:

    <cache>/engines/<onnx sha256>-<precision>-<library>-sm86.engine    what TensorRT made
    <cache>/engines/….json                                             EngineRecord below: from what and for what
    <cache>/engines/timing.cache                                       measured kernels; makes the next build short
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from service.backends.base import BackendError, EnginePolicy
from service.backends.cuda import Cuda, Gpu
from service.backends.graphs import OnnxModel
from service.bundle.folder import Bundle
from service.bundle.manifest import InputSpec, Precision

# An idle line sends one image at a time, and that is the latency that is promised.
_USUAL_BATCH = 1

log = logging.getLogger("draem_inspect")


@dataclass(frozen=True)
class Library:
    """`tensorrt` 10 or 11, or `tensorrt_rtx` 1.7: one API. What differs is here and nowhere else.

    - `tensorrt` measures kernels on the GPU at hand, keeps the times in a cache, and the engine is for that GPU only.
    - `tensorrt_rtx` compiles kernels when the engine is loaded. It measures nothing (its timing cache does nothing and
      is deprecated), builds for any RTX GPU of a compute capability, and needs no GPU to build.
    """

    module: Any

    @property
    def name(self) -> str:
        return str(self.module.__name__)

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @property
    def needs_the_gpu(self) -> bool:
        return self.name == "tensorrt"

    def config(self, builder: Any, gpu: Gpu, timing_cache: Path | None) -> Any:
        """A builder configuration for `gpu`; raises BackendError where this library cannot build for it."""
        config = builder.create_builder_config()
        # On by default; but fp32 means fp32, and who wants speed takes fp16, which has a golden tolerance of its own.
        config.clear_flag(self.module.BuilderFlag.TF32)
        if self.needs_the_gpu:
            if timing_cache:
                read_timing_cache(config, timing_cache)
            return config
        capability = getattr(self.module.ComputeCapability, f"SM{gpu.compute_capability.replace('.', '')}", None)
        if capability is None:
            known = sorted(name for name in self.module.ComputeCapability.__members__ if name.startswith("SM"))
            raise BackendError(
                f"{self.name} {self.version} builds for {', '.join(known)}, not for compute capability "
                f"{gpu.compute_capability}: in the checkout, pip install '.[tensorrt]' on a machine with that GPU"
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
        return config


class EngineKey(BaseModel):
    """What an engine was built from and for; one that differs in any field is not loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    onnx_sha256: str
    precision: Precision
    max_batch: int
    library: str
    library_version: str
    compute_capability: str
    gpu: str | None  # None: any GPU of this compute capability


class EngineRecord(BaseModel):
    """The JSON file beside an engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: EngineKey
    engine_sha256: str
    bytes: int
    layers: int
    tensors: dict[str, str]  # name -> type and shape
    profile: tuple[int, int, int]  # images: fewest, usual, most
    build_s: float
    created: datetime


@dataclass(frozen=True)
class Parsed:
    """A network as TensorRT read it. The parser owns its weights: keep both until the engine is built."""

    builder: Any
    network: Any
    parser: Any


def open_library() -> Library:
    """`tensorrt` where it is installed, else `tensorrt_rtx`; raises BackendError where neither is."""
    reasons = []
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return Library(importlib.import_module(name))
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {error}")
    raise BackendError(
        f"TensorRT is not installed ({'; '.join(reasons)}): in the checkout, pip install '.[gpu]' for RTX GPUs, "
        "'.[tensorrt]' for all"
    )


def gpus(compute_capabilities: Sequence[str], library: Library) -> list[Gpu]:
    """The GPU of this machine or, with `compute_capabilities` ("8.6"), any of those, which needs no GPU here.

    Raises BackendError where there is no GPU, or where the library builds only for the one at hand.
    """
    if not compute_capabilities:
        return [Cuda().gpu(0)]
    if library.needs_the_gpu:
        raise BackendError(
            f"{library.name} {library.version} builds only for the GPU of this machine: leave out "
            "--compute-capability, or install tensorrt_rtx instead"
        )
    return [Gpu(capability) for capability in compute_capabilities]


def key_of(bundle: Bundle, precision: Precision, max_batch: int, gpu: Gpu, library: Library) -> EngineKey:
    """The key of the engine that this bundle needs on this GPU; raises BackendError without a model of `precision`."""
    models = bundle.manifest.models
    if precision == "bf16":
        raise BackendError("bf16 is the fp32 model on a CPU: there is no engine of it")
    if precision not in models:
        raise BackendError(f"{bundle.path}: no {precision} model: it has {', '.join(models)}; export it again")
    return EngineKey(
        onnx_sha256=bundle.model_sha256(precision),
        precision=precision,
        max_batch=max_batch,
        library=library.name,
        library_version=library.version,
        compute_capability=gpu.compute_capability,
        gpu=gpu.name if library.needs_the_gpu else None,
    )


def engine_path(cache: Path, key: EngineKey) -> Path:
    """Where the engine of this key is kept. One of another version or GPU is found there, seen to differ, replaced."""
    capability = f"sm{key.compute_capability.replace('.', '')}"
    return cache / "engines" / f"{key.onnx_sha256[:16]}-{key.precision}-{key.library}-{capability}.engine"


def load_engine(
    bundle: Bundle,
    precision: Precision,
    *,
    max_batch: int,
    cache: Path,
    policy: EnginePolicy,
    gpu: Gpu,
    library: Library,
) -> bytes:
    """The bundle's engine for this GPU, from the cache.

    One that is missing, stale, foreign or damaged is built anew or, with policy `refuse`, a BackendError that says what
    to do.
    """
    key = key_of(bundle, precision, max_batch, gpu, library)
    path = engine_path(cache, key)
    found = read_engine(path, key)
    if isinstance(found, bytes):
        return found
    if policy == "refuse":
        raise BackendError(
            f"{found}. Build it with `python -m service build-engine --recipe {bundle.manifest.recipe}`, or set "
            "INSPECT_ENGINE_POLICY=build"
        )
    log.warning("%s: building it, which takes a while", found)
    build_engine(bundle, precision, max_batch=max_batch, cache=cache, gpu=gpu, library=library)
    return path.read_bytes()


def read_engine(path: Path, key: EngineKey) -> bytes | str:
    """The engine at `path` if it is the one of `key`, undamaged; else the reason why not."""
    try:
        record = EngineRecord.model_validate_json(path.with_suffix(".json").read_bytes())
        engine = path.read_bytes()
    except FileNotFoundError as error:
        return f"{error.filename}: there is no such file"
    except ValidationError as error:
        return f"{path.with_suffix('.json')}: {error.errors(include_url=False)[0]['msg']}"
    for field, wanted in key:
        if (built_for := getattr(record.key, field)) != wanted:
            return f"{path}: built for {field} {built_for}, this is {wanted}"
    if hashlib.sha256(engine).hexdigest() != record.engine_sha256:
        return f"{path}: sha256 differs from its record: the file was changed or damaged"
    return engine


def build_engine(
    bundle: Bundle, precision: Precision, *, max_batch: int, cache: Path, gpu: Gpu, library: Library
) -> EngineRecord:
    """Build the bundle's engine for 1 to `max_batch` images and write it and its record to the cache.

    Raises BackendError where TensorRT refuses the graph or the GPU; nothing is written then.
    """
    key = key_of(bundle, precision, max_batch, gpu, library)
    path = engine_path(cache, key)
    started = time.monotonic()
    errors: list[str] = []
    parsed = parse(OnnxModel.of(bundle, precision), bundle.manifest.input, library, errors)
    timing_cache = path.parent / "timing.cache"
    config = library.config(parsed.builder, gpu, timing_cache)
    size = bundle.manifest.input.height, bundle.manifest.input.width, 3
    profile = parsed.builder.create_optimization_profile()
    profile.set_shape("image", (1, *size), (_USUAL_BATCH, *size), (max_batch, *size))
    config.add_optimization_profile(profile)
    serialized = parsed.builder.build_serialized_network(parsed.network, config)
    if serialized is None:
        raise BackendError(f"{bundle.path}: {library.name} {library.version} built no engine: {'; '.join(errors)}")
    engine = bytes(serialized)
    record = EngineRecord(
        key=key,
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        bytes=len(engine),
        layers=parsed.network.num_layers,
        tensors={tensor.name: f"{tensor.dtype.name} {tuple(tensor.shape)}" for tensor in _tensors(parsed.network)},
        profile=(1, _USUAL_BATCH, max_batch),
        build_s=round(time.monotonic() - started, 3),
        created=datetime.now(UTC),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # The record last: an engine that does not match its record is not loaded, so a crash in between costs a build.
    _write(path, engine)
    _write(path.with_suffix(".json"), record.model_dump_json(indent=2).encode() + b"\n")
    if library.needs_the_gpu:
        write_timing_cache(config, timing_cache)
    return record


def parse(onnx: OnnxModel, expected: InputSpec, library: Library, errors: list[str]) -> Parsed:
    """Read an ONNX file into a strongly typed network: it computes in the types that the file says, no others.

    `errors` receives what TensorRT complains of, now and during the build. Raises BackendError for a graph that the
    parser refuses, or whose inputs and outputs are not the contract's.
    """
    trt = library.module
    logger = make_logger(library, errors)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.data):
        first = parser.get_error(0)
        raise BackendError(
            f"{onnx}: {library.name} {library.version} does not take node {first.node_name()} "
            f"({first.node_operator()}): {first.desc()}"
        )
    found = {tensor.name: (tensor.dtype, tuple(tensor.shape)) for tensor in _tensors(network)}
    wanted = signature(trt, expected)
    if found != wanted:
        raise BackendError(f"{onnx}: inputs and outputs are {found}, not {wanted}")
    return Parsed(builder, network, parser)


def signature(trt: Any, expected: InputSpec) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Name -> type and shape of what goes in and comes out; -1 is the number of images."""
    size = expected.height, expected.width
    return {
        "image": (trt.DataType.UINT8, (-1, *size, 3)),
        "anomaly_map": (trt.DataType.FLOAT, (-1, *size)),
        "score": (trt.DataType.FLOAT, (-1,)),
    }


def make_logger(library: Library, errors: list[str]) -> Any:
    """A TensorRT logger that appends errors to `errors`; the rest is debug output."""
    interface: Any = library.module.ILogger

    class Logger(interface):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(interface.Severity.ERROR):
                errors.append(message)
            else:
                log.debug("%s: %s", library.name, message)

    return Logger()


def read_timing_cache(config: Any, path: Path) -> None:
    """Let a build reuse the kernel times in `path`; those of another GPU or version are measured again."""
    data = b""
    with suppress(FileNotFoundError):
        data = path.read_bytes()
    cache = config.create_timing_cache(data)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def write_timing_cache(config: Any, path: Path) -> None:
    _write(path, bytes(config.get_timing_cache().serialize()))


def _tensors(network: Any) -> list[Any]:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    return inputs + [network.get_output(i) for i in range(network.num_outputs)]


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, also when two processes build the same engine: in two containers they have the same pid."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
