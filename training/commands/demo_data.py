"""`python -m training demo-data`: the part that the project ships, to try everything on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.flags import POSITIONAL
from training.data.demo_parts import write_dataset


class DemoData(BaseModel):
    """Render the demo part: good photos and defects in MVTec layout."""

    model_config = ConfigDict(frozen=True)

    folder: Annotated[Path, POSITIONAL, Field(description="where it goes")]
    seed: Annotated[int, Field(ge=0, description="of everything random")] = 0


def run(request: DemoData) -> int:
    write_dataset(request.folder, good=160, test_good=30, defects_per_kind=8, seed=request.seed)
    return 0
