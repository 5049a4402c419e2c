"""`python -m service benchmark`: this service on this machine against its bare backend."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.commands.benchmark import benchmark, write_results


class Benchmark(BaseModel):
    """Measure the service on this machine against its bare backend; it starts and ends a service of its own."""

    model_config = ConfigDict(frozen=True)

    models: Annotated[Path, Field(description="folder of recipes")] = Path("models")
    recipe: Annotated[str, Field(description="name of the recipe")] = "demo"
    requests: Annotated[int, Field(ge=1, description="requests of each figure")] = 300
    overload: Annotated[float, Field(ge=0, description="seconds at twice the capacity; 0: none")] = 30.0
    soak: Annotated[float, Field(ge=0, description="seconds at 80 % of the capacity; 0: none")] = 0.0
    seed: Annotated[int, Field(ge=0, description="seed of the images and of their order")] = 0
    record: Annotated[Path | None, Field(description="JSON file for the figures")] = None


def run(request: Benchmark) -> int:
    figures = asyncio.run(
        benchmark(
            request.models,
            request.recipe,
            requests=request.requests,
            overload_s=request.overload,
            soak_s=request.soak,
            seed=request.seed,
        )
    )
    print(json.dumps(figures, indent=2))
    if request.record:
        write_results(figures, request.record)
    return 0
