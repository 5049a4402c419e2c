"""`python -m training bench`: how fast a bundle, or an untrained network, is on every runtime of this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import nn

from service.bundle.folder import Bundle, read_bundle
from training.benchmarks import inference
from training.commands.settings import MethodFlags
from training.data.places import require_results_file
from training.methods import METHODS
from training.settings import RecipeSettings


class Bench(MethodFlags):
    """Time a bundle, or an untrained network of a preset, on every runtime and precision beside plain PyTorch."""

    bundle: Annotated[Path | None, Field(description="models/RECIPE/VERSION; without it an untrained network")] = None
    threads: Annotated[int, Field(ge=0, description="of one inference; 0: all cores")] = 0
    batch: Annotated[tuple[int, ...], Field(min_length=1, description="images in one inference")] = (1, 4, 8)
    rounds: Annotated[int, Field(ge=1, description="timed inferences of each batch size")] = 50
    out: Annotated[Path | None, Field(description="JSON file for the figures; a plot goes beside it")] = None


def run(request: Bench) -> int:
    if request.out:
        require_results_file(request.out)
    with tempfile.TemporaryDirectory() as folder:
        if request.bundle:
            bundle = read_bundle(request.bundle)
            subject = inference.subject_of(bundle, network_of(bundle))
        else:
            method, settings = METHODS[request.method], request.settings()
            if method.network is None:
                raise inference.BenchError(f"{method.name} has no network before it has seen photos: use --bundle")
            network, grid = partial(_tiled, method.network, settings), settings.grid
            subject = inference.export_random(network, grid.height, grid.width, Path(folder))
        threads = request.threads or len(os.sched_getaffinity(0))
        record = inference.run_bench(subject, threads=threads, batches=request.batch, rounds=request.rounds)
    print(inference.tabulate(record))
    if request.out:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        inference.write_record(record, request.out)
    return 0


def network_of(bundle: Bundle) -> Callable[[], nn.Module] | None:
    """How the bundle's network is built, where its method has one and the manifest its settings."""
    method, config = METHODS.get(bundle.manifest.method), bundle.manifest.training.config
    if method is None or method.network is None or config is None:
        return None
    return partial(_tiled, method.network, method.recorded(config))


def _tiled(network: Callable[[RecipeSettings], nn.Module], settings: RecipeSettings) -> nn.Module:
    return settings.grid.over(network(settings))
