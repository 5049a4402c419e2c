"""`python -m service build-engine`: the TensorRT engines that the service would build at its start."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.backends.base import BackendError, PrecisionChoice
from service.backends.cuda import Gpu
from service.backends.engines import Library, build_engine, engine_path, gpus, key_of, open_library, read_engine
from service.backends.opening import gpu_precision
from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import BundleError
from service.bundle.versions import survey
from service.settings import read_settings
from service.station.choosing import chosen_version
from service.station.decisions import DecisionError, Decisions


class BuildEngine(BaseModel):
    """Build the TensorRT engines that the service would build at its start; one JSON line each.

    A recipe that fails is named on standard error with the reason and stops no other. Exit 0: one or more recipes have
    their engines, 2: none has.
    """

    model_config = ConfigDict(frozen=True)

    recipe: Annotated[str | None, Field(description="one recipe; without the flag all")] = None
    models: Annotated[Path | None, Field(description="folder of recipes; without the flag INSPECT_MODELS_DIR")] = None
    precision: Annotated[PrecisionChoice | None, Field(description="precision; without the flag INSPECT_PRECISION")] = (
        None
    )
    max_batch: Annotated[
        int | None, Field(ge=1, le=256, description="most images in one inference; without the flag INSPECT_MAX_BATCH")
    ] = None
    cache: Annotated[Path | None, Field(description="folder of engines; without the flag INSPECT_CACHE_DIR")] = None
    compute_capability: Annotated[
        tuple[str, ...], Field(description="other GPUs than this machine's, such as 8.6 8.9 12.0")
    ] = ()
    missing: Annotated[bool, Field(description="build only the engines that the cache does not have")] = False


def run(request: BuildEngine) -> int:
    settings = read_settings()
    models = request.models or settings.models_dir
    recipes = {name: shelf for name, shelf in survey(models).items() if shelf.versions}
    chosen = [request.recipe] if request.recipe else sorted(recipes)
    if missing := sorted(set(chosen) - recipes.keys()):
        raise BundleError(f"{models}: no recipe {missing[0]!r}: choose {', '.join(recipes) or 'another folder'}")
    library = open_library()
    failed = 0
    for recipe in chosen:
        try:
            # An engine decides nothing: whether its version may serve is the service's to judge, seals and all.
            version, _ = chosen_version(models / recipe, recipes[recipe], Decisions())
            _build(
                read_bundle(models / recipe / version),
                asked=request.precision or settings.precision,
                max_batch=request.max_batch or settings.max_batch,
                cache=request.cache or settings.cache_dir,
                gpus=gpus(request.compute_capability, library),
                library=library,
                missing=request.missing,
            )
        except Exception as error:
            expected = isinstance(error, BackendError | BundleError | DecisionError | OSError | ValueError)
            print(f"error: recipe {recipe}: {'' if expected else f'{type(error).__name__}: '}{error}", file=sys.stderr)
            failed += 1
    return 2 if chosen and failed == len(chosen) else 0


def _build(
    bundle: Bundle,
    *,
    asked: PrecisionChoice,
    max_batch: int,
    cache: Path,
    gpus: list[Gpu],
    library: Library,
    missing: bool,
) -> None:
    precision = gpu_precision(bundle, asked)
    for gpu in gpus:
        if missing:
            key = key_of(bundle, precision, max_batch, gpu, library)
            path = engine_path(cache, key)
            if isinstance(read_engine(path, key), bytes):
                print(json.dumps({"engine": str(path), "kept": True}))
                continue
        record = build_engine(bundle, precision, max_batch=max_batch, cache=cache, gpu=gpu, library=library)
        print(json.dumps({"engine": str(engine_path(cache, record.key)), **record.model_dump(mode="json")}))
