"""Names in headers, beyond ASCII: `Gehäuse-17` of a part, as UTF-8 or as latin-1, comes back as UTF-8."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from fastapi import Header
from pydantic import AfterValidator

# Those of text direction too: what a person reads must be what is there.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def read_identifier(header: str | None) -> str | None:
    """What a header says, decoded from latin-1 as servers do: its bytes are UTF-8, or latin-1 where they cannot be.

    Raises no error: UTF-8 that was meant as latin-1 by accident is far rarer than either. Control characters, which
    would break a log line, become spaces. An accent is one with its letter, however it was sent: two spellings of one
    part were two parts.
    """
    if header is None:
        return None
    try:
        text = header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        text = header
    return composed(_CONTROL.sub(" ", text))


def composed(text: str) -> str:
    """Text whose letters and accents are one character each, where there is one (NFC)."""
    return unicodedata.normalize("NFC", text)


def identifier_header(text: str) -> str:
    """A name as the value of a header: UTF-8, in the latin-1 that servers take."""
    return text.encode("utf-8").decode("latin-1")


_Identifier = Annotated[str | None, AfterValidator(read_identifier)]
PartId = Annotated[_Identifier, Header(max_length=128, description="comes back in the reply; UTF-8, 128 bytes")]
TriggerId = Annotated[
    _Identifier,
    Header(
        min_length=1, max_length=128, description="with the same recipe and image it gives the same answer, as JSON"
    ),
]
CameraId = Annotated[
    _Identifier, Header(max_length=64, description="who sends; the same image twice from one camera is frozen")
]
LotId = Annotated[
    _Identifier, Header(max_length=128, description="the lot; on record with X-Meta-… headers, searchable")
]
