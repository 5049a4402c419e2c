"""`python -m service qualify`: does this station keep its deadline at the rate of the line?"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from service.client import AsyncClient
from service.client.load import qualify, report, write_record
from service.commands.connection import Connection
from service.flags import POSITIONAL

_UNITS = {"/s": 1.0, "/min": 1 / 60, "ms": 1.0, "s": 1000.0}


def _quantity(*units: str) -> BeforeValidator:
    def parse(value: object) -> object:
        if not isinstance(value, str):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(\D*)", value.strip())
        if not found or found[2] not in units or float(found[1]) <= 0:
            raise ValueError(f"is not a number with {' or '.join(units)}")
        return float(found[1]) * _UNITS[found[2]]

    return BeforeValidator(parse)


class Qualify(Connection):
    """Load a station at a fixed rate and say whether it keeps its deadline. Exit 0: PASS, 1: FAIL."""

    files: Annotated[list[Path], POSITIONAL, Field(description="image files, sent in turn")]
    rate: Annotated[float, _quantity("/s", "/min"), Field(description="images a time, such as 12/s or 90/min")]
    deadline: Annotated[float, _quantity("ms", "s"), Field(description="time for one image, such as 80ms or 1s")]
    recipe: Annotated[str | None, Field(description="recipe; without it the service's default one")] = None
    seconds: Annotated[float, Field(gt=0, le=86_400, description="seconds that the load lasts")] = 30.0
    required: Annotated[float, Field(gt=0, le=1, description="share of the images that must be in time")] = 0.999
    connections: Annotated[int, Field(ge=1, le=10_000, description="most connections at the same time")] = 100
    record: Annotated[Path | None, Field(description="JSON file for the figures")] = None


def run(request: Qualify) -> int:
    images = [file.read_bytes() for file in request.files]

    async def load() -> int:
        async with AsyncClient(request.url, api_key=request.api_key, connections=request.connections) as client:
            result = await qualify(
                client,
                images,
                rate_hz=request.rate,
                deadline_ms=request.deadline,
                seconds=request.seconds,
                recipe=request.recipe,
                required=request.required,
            )
        print(report(result))
        if request.record:
            write_record(result, request.record, url=request.url)
        return 0 if result.passed else 1

    return asyncio.run(load())
