"""JSON as it is meant: no name twice in an object, no NaN, no depth that a parser cannot follow."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from service.station.problem import ProblemError


def read_json(data: bytes) -> Any:
    """What `data` says; raises ProblemError where it is no JSON or says a thing twice."""
    try:
        return json.loads(data, object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ProblemError("invalid_request", f"body: no JSON that can be read: {str(error)[:200]}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:64]!r} comes twice in an object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
