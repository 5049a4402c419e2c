"""`python -m service inspect`: send image files to a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from service.client import Client, Outcome
from service.commands.connection import Connection
from service.flags import POSITIONAL
from service.station.verdicts import Verdict


class Inspect(Connection):
    """Inspect image files; one JSON line a file. Exit 0: all OK, 1: one is REVIEW or NG, 2: one was not inspected."""

    files: Annotated[list[Path], POSITIONAL, Field(description="image files")]
    recipe: Annotated[str | None, Field(description="recipe; without it the service's default one")] = None


def run(request: Inspect) -> int:
    outcomes = []
    with Client(request.url, api_key=request.api_key) as client:
        for file in request.files:
            outcome = client.inspect(file, recipe=request.recipe)
            outcomes.append(outcome)
            print(json.dumps({"file": str(file), "verdict": outcome.verdict, **outcome.reply}))
    return exit_code(outcomes)


def exit_code(outcomes: list[Outcome]) -> int:
    """0 when every image is OK, 1 when one is not, 2 when one was not inspected."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if Verdict.NOT_INSPECTED in verdicts:
        return 2
    return 1 if verdicts & {Verdict.REVIEW, Verdict.NG} else 0
