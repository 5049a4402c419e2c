"""`python -m training export`: from a bundle what another runtime needs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.backends.engines import build_engine, engine_path, gpus, open_library
from service.bundle.folder import Bundle, read_bundle, require_new
from service.bundle.manifest import Precision
from service.flags import Alone
from service.images.decoding import Pixels, read
from service.images.resizing import fit
from training.bundling.acceptance import add_first_accepted
from training.bundling.held_out import split_for_acceptance
from training.bundling.lower_precision import Lowered, halve, quantized_for
from training.bundling.onnx import ExportError
from training.bundling.triton import export_triton
from training.commands.recipe_flags import PHOTOS


class Export(BaseModel):
    """Make from a bundle what another runtime needs: a version in a lower precision, engines, a Triton model."""

    model_config = ConfigDict(frozen=True)

    bundle: Annotated[Path, Field(description="models/RECIPE/VERSION")]
    int8: Annotated[
        Literal["cpu", "gpu"] | None,
        Alone("cpu"),
        Field(description="write a version that has INT8 too, in the layout of CPUs (the flag alone) or of TensorRT"),
    ] = None
    fp16: Annotated[
        bool, Field(description="write a version whose networks are float16 in the file, for TensorRT on GPUs")
    ] = False
    bf16: Annotated[bool, Field(description="write a version that may be rounded to bfloat16 on CPUs")] = False
    data: Annotated[Path | None, Field(description=f"of --int8, --fp16 and --bf16, as it was trained on: {PHOTOS}")] = (
        None
    )
    version: Annotated[
        str | None,
        Field(description="of the bundle with --int8, --fp16 or --bf16; without it the old one's with -int8 …"),
    ] = None
    sign: Annotated[Path | None, Field(description="PEM file of an Ed25519 private key to sign that version with")] = (
        None
    )
    tensorrt: Annotated[bool, Field(description="build TensorRT engines")] = False
    triton: Annotated[Path | None, Field(description="add the recipe to this Triton model repository")] = None
    precision: Annotated[
        tuple[Literal["fp32", "fp16", "int8"], ...],
        Field(description="without it fp32 for Triton, all that the bundle has for TensorRT"),
    ] = ()
    max_batch: Annotated[int, Field(ge=1, description="most images in one inference")] = 8
    cache: Annotated[Path, Field(description="the service's INSPECT_CACHE_DIR")] = Path("cache")
    compute_capability: Annotated[
        tuple[str, ...], Field(description="such as 8.6, for other GPUs than this machine's")
    ] = ()


def run(request: Export) -> int:
    if not (request.int8 or request.fp16 or request.bf16 or request.tensorrt or request.triton):
        raise ExportError("nothing to export to: add --int8, --fp16, --bf16, --tensorrt or --triton DIR")
    bundle = read_bundle(request.bundle)
    if request.int8 or request.fp16 or request.bf16:
        bundle = _with_lower_precision(bundle, request)
    if request.triton:
        precisions: tuple[Precision, ...] = request.precision or ("fp32",)
        if len(precisions) > 1:
            raise ExportError("Triton serves one graph a recipe: give --precision once")
        print(export_triton(bundle, request.triton, precision=precisions[0], max_batch=request.max_batch))
    if request.tensorrt:
        _build_engines(bundle, request)
    return 0


def _with_lower_precision(bundle: Bundle, request: Export) -> Bundle:
    """A new version beside `bundle`, calibrated on the photos that it was trained on, accepted on those it was not."""
    if not request.data:
        raise ExportError("a lower precision is calibrated and accepted on good photos: add --data")
    manifest = bundle.manifest
    models = request.bundle.parents[1]
    asked = [name for name in ("int8", "fp16", "bf16") if getattr(request, name)]
    version = request.version or "-".join([manifest.version, *asked])
    require_new(models, manifest.recipe, version)
    trained_on, held_out, seed = split_for_acceptance(bundle, request.data)
    photos = [fit(read(path), manifest.input) for path in trained_on]
    held_out_photos = [fit(read(path), manifest.input) for path in held_out]
    with tempfile.TemporaryDirectory() as folder:
        for place, name in enumerate(asked):
            # Every precision gives a whole version; only the last one is to be seen.
            last = place + 1 == len(asked)
            bundle = add_first_accepted(
                bundle,
                _attempts(bundle, name, photos, request, seed),
                held_out_photos,
                models=models if last else Path(folder) / name,
                version=version,
                seed=seed,
                signing_key=request.sign,
                tell=print,
            )
    print(f"bundle {bundle.path}: {', '.join(bundle.manifest.models)}")
    for name in asked:
        print(f"{name}: {json.dumps(getattr(bundle.manifest.training, name))}")
    return bundle


def _attempts(bundle: Bundle, precision: str, photos: list[Pixels], request: Export, seed: int) -> Iterable[Lowered]:
    if precision == "int8":
        return quantized_for(bundle, photos, "int8" if request.int8 == "gpu" else "uint8", seed=seed)
    return [halve(bundle) if precision == "fp16" else Lowered("bf16")]


def _build_engines(bundle: Bundle, request: Export) -> None:
    library = open_library()
    for gpu in gpus(request.compute_capability, library):
        for precision in request.precision or [name for name in sorted(bundle.manifest.models) if name != "bf16"]:
            record = build_engine(
                bundle, precision, max_batch=request.max_batch, cache=request.cache, gpu=gpu, library=library
            )
            print(f"{engine_path(request.cache, record.key)}: {record.bytes} bytes in {record.build_s} s")
