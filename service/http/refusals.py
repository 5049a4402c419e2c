"""Which refused requests were of a part, and what of them is kept."""

from __future__ import annotations

import re

from fastapi import Request

from service.http.context import Station
from service.http.identifiers import read_identifier
from service.http.metadata import named
from service.http.problems import PROBLEMS
from service.station.problem import ProblemError
from service.station.refusals import Refusal

_INSPECTS = re.compile(r"/inspect(/batch)?|/v2/models/[^/]+(/versions/[^/]+)?/infer")
# Characters of a name that somebody sent.
_LONGEST = 128


def note_refusal(request: Request, problem: ProblemError) -> None:
    """Leave a trace where `problem` ended a request for inspection."""
    if request.method != "POST" or not _INSPECTS.fullmatch(request.scope["path"]):
        return
    station: Station = request.state.station
    sent = request.headers
    station.refusals.note(
        Refusal(
            code=problem.code,
            status=PROBLEMS[problem.code][0],
            detail=problem.detail,
            recipe=_short(request.path_params.get("model") or request.query_params.get("recipe")),
            part_id=_short(named(read_identifier(sent.get("x-part-id")))),
            camera_id=_short(named(read_identifier(sent.get("x-camera-id")))),
            request_id=request.state.request_id,
            lot_id=_short(named(read_identifier(sent.get("x-lot-id")))),
        ),
        may_inspect=station.access.may(request, "inspect"),
    )


def _short(name: str | None) -> str | None:
    return None if name is None else name[:_LONGEST]
