"""`python -m training collect`: a data set of the parts that people reviewed at a station."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from training.data.recorded import collect


class Collect(BaseModel):
    """Make a data set in MVTec layout, masks included, of the parts that were reviewed at a station."""

    model_config = ConfigDict(frozen=True)

    records: Annotated[
        Path, Field(description="folder of the station's records (INSPECT_RECORDS_DIR), or a backup of it")
    ]
    out: Annotated[Path, Field(description="new folder for the data set")]
    recipe: Annotated[
        str | None, Field(description="parts of this recipe; may be left out where the records have one")
    ] = None


def run(request: Collect) -> int:
    collected = collect(request.records, request.out, request.recipe)
    print(json.dumps({"images": collected.images, "masks": collected.masks, "left_out": collected.left_out}))
    return 0
