"""The parameters that choose among records."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query
from pydantic import AfterValidator

from service.http.identifiers import composed
from service.http.times import Time
from service.station.problem import ProblemError
from service.station.search import Search
from service.station.verdicts import Verdict


def _composed(text: str | None) -> str | None:
    return None if text is None else composed(text)


async def read_search(
    part_id: Annotated[str | None, AfterValidator(_composed), Query(description="`SN-47*`: all that begin so")] = None,
    camera: str | None = None,
    recipe: str | None = None,
    version: str | None = None,
    verdict: Annotated[list[Verdict] | None, Query(description="may be given several times")] = None,
    lot: Annotated[
        str | None, AfterValidator(_composed), Query(description="`X-Lot-Id`; `A*`: all that begin so")
    ] = None,
    meta: Annotated[list[str] | None, Query(description="`order=4711` for `X-Meta-Order: 4711`; several times")] = None,
    reviewed: bool | None = None,
    waiting: Annotated[bool | None, Query(alias="open", description="waits for a review")] = None,
    after: Time = None,
    before: Time = None,
) -> Search:
    """What is asked for of the records; raises ProblemError. A coroutine, as in service.http.parameters."""
    pairs = [text.partition("=") for text in meta or []]
    if not all(name and sign for name, sign, _ in pairs):
        raise ProblemError("invalid_request", "meta: send name=value, such as meta=order=4711")
    return Search(
        part_id=part_id,
        camera=camera,
        recipe=recipe,
        version=version,
        verdicts=tuple(dict.fromkeys(verdict or ())),
        lot=lot,
        metadata={name.lower(): value for name, _, value in pairs},
        reviewed=reviewed,
        open=waiting,
        after=after,
        before=before,
    )


Asked = Annotated[Search, Depends(read_search)]
Cursor = Annotated[
    int | None, Query(ge=1, lt=2**63, description="X-Next-Cursor of the page before, with the same filters")
]
