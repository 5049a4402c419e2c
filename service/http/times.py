"""Times in a query: ISO 8601, or Unix seconds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BeforeValidator, Field


def read_time(text: object) -> object:
    """Unix seconds of `2026-11-29T14:00:00+01:00`; without an offset the time is that of the station."""
    if not isinstance(text, str):
        return text
    try:
        return float(text)
    except ValueError:
        pass
    try:
        # A `+` of an address that nobody escaped is a blank.
        return datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("is no time such as 2026-11-29T14:00:00+01:00, and no Unix seconds") from None


Time = Annotated[
    float | None,
    BeforeValidator(read_time),
    Field(
        ge=0,
        le=4e9,
        allow_inf_nan=False,
        description="ISO 8601 (without an offset: the station's time), or Unix seconds",
    ),
]
