"""What a line says of a part beside its name: the lot (`X-Lot-Id`) and names of its own (`X-Meta-…`)."""

from __future__ import annotations

from starlette.datastructures import Headers

from service.http.identifiers import read_identifier
from service.http.parameters import METADATA
from service.station.problem import ProblemError

_METADATA = METADATA.encode()
_MOST, _LONGEST, _LONGEST_NAME = 16, 128, 64


def named(identifier: str | None) -> str | None:
    """What an identifier names; None where that is nothing: two cameras without a name are not one camera."""
    return (identifier or "").strip() or None


def read_metadata(headers: Headers) -> dict[str, str]:
    """`X-Meta-Order: 4711` is `order`; raises ProblemError where it is more than a record takes."""
    found: dict[str, str] = {}
    if not any(name.startswith(_METADATA) for name, _ in headers.raw):
        return found
    for name, value in headers.items():
        if not name.startswith(METADATA):
            continue
        short = name.removeprefix(METADATA)
        if not 0 < len(short) <= _LONGEST_NAME or len(value) > _LONGEST:
            raise ProblemError(
                "invalid_request",
                f"header {name[:_LONGEST_NAME]!r}: a name takes {_LONGEST_NAME} characters, its value {_LONGEST}",
            )
        found[short] = read_identifier(value) or ""
    if len(found) > _MOST:
        raise ProblemError("invalid_request", f"{len(found)} headers X-Meta-…: a part takes {_MOST}")
    return found
