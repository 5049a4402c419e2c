"""`python -m service fetch`: recipes from an archive to the folder of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.bundle.archives import fetch
from service.flags import POSITIONAL
from service.settings import read_settings


class Fetch(BaseModel):
    """Bring the recipes of a tar archive, an http(s) address or a file, to a folder of recipes; one path a line."""

    model_config = ConfigDict(frozen=True)

    source: Annotated[
        str,
        POSITIONAL,
        Field(description="address or file of the archive, <recipe>/<version>/… in it, compressed or not"),
    ]
    sha256: Annotated[str, Field(description="sha256 of the archive, in hex")]
    models: Annotated[Path | None, Field(description="folder of recipes; without the flag INSPECT_MODELS_DIR")] = None


def run(request: Fetch) -> int:
    for bundle in fetch(request.source, request.sha256, request.models or read_settings().models_dir):
        print(bundle.path)
    return 0
