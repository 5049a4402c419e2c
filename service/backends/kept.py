"""What was measured on this machine, kept as JSON until the circumstances are others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from service.bundle.files import replace_file

log = logging.getLogger("draem_inspect")


Measurement = TypeVar("Measurement", bound=BaseModel)


def read_kept(path: Path, kind: type[Measurement]) -> Measurement | None:
    """What is kept at `path`; whether it was measured under the same circumstances is for the caller to compare."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.warning("%s: %s: measuring again", path, error.errors(include_url=False)[0]["msg"])
        return None
    # Of another user, or no file: as one that cannot be written, it keeps nobody from serving.
    except OSError as error:
        log.warning("%s: cannot be read (%s): measuring again", path, error.strerror)
        return None


def keep(path: Path, measurement: BaseModel) -> None:
    """A cache that cannot be written keeps nobody from serving."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, measurement.model_dump_json(indent=2) + "\n")
    except OSError as error:
        log.warning("auto: not kept, the next start measures again: %s (INSPECT_CACHE_DIR)", error)
