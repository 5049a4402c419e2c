"""What the clients ask the service beside inspections: records, images, reviews, counters. Each question is made here
once, so that both clients have all of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx2
import numpy as np
from numpy.typing import NDArray

from service.images.decoding import encode
from service.station.verdicts import Verdict

T = TypeVar("T")

Record = dict[str, Any]


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What the service said to a question: `value`, or None and why there is none. `status` None: nobody answered."""

    value: T | None
    status: int | None
    detail: str = ""
    code: str | None = None

    @property
    def ok(self) -> bool:
        return self.value is not None


@dataclass(frozen=True)
class Page:
    """Some of a list, newest first; with `cursor` the same question gives those that follow, None: there are none."""

    items: list[Record]
    cursor: int | None


@dataclass(frozen=True)
class Question(Generic[T]):
    """One request, and how its reply is read. What changes something is not asked again where no answer came."""

    method: Literal["GET", "POST"]
    path: str
    read: Callable[[httpx2.Response], T]
    params: Sequence[tuple[str, str]] = ()
    body: dict[str, Any] | None = None

    @property
    def request(self) -> dict[str, Any]:
        return {"method": self.method, "url": self.path, "params": list(self.params)} | (
            {} if self.body is None else {"json": self.body}
        )


def read_answer(question: Question[T], response: httpx2.Response) -> Answer[T]:
    """What a reply says; one that cannot be read is no answer, whatever its status."""
    if response.is_success:
        try:
            return Answer(question.read(response), response.status_code)
        except (ValueError, KeyError, TypeError, RecursionError):
            return Answer(None, response.status_code, "the reply is not one of this service")
    try:
        problem = response.json()
        return Answer(None, response.status_code, str(problem.get("detail", "")), str(problem.get("code", "")) or None)
    except (ValueError, AttributeError, RecursionError):
        return Answer(None, response.status_code, f"HTTP {response.status_code} without a reason")


@dataclass(frozen=True)
class Box:
    """Where a defect is, in pixels of the image that was sent."""

    x: int
    y: int
    width: int
    height: int


def search(
    *,
    part_id: str | None = None,
    lot: str | None = None,
    metadata: Mapping[str, str] | None = None,
    camera: str | None = None,
    recipe: str | None = None,
    version: str | None = None,
    verdicts: Sequence[Verdict | str] = (),
    reviewed: bool | None = None,
    open: bool | None = None,  # noqa: A002
    after: datetime | str | None = None,
    before: datetime | str | None = None,
    limit: int = 50,
    cursor: int | None = None,
) -> Question[Page]:
    """Recorded inspections, newest first. `part_id` and `lot` may end in `*`; `open`: those that wait for a review."""
    asked = _given(
        part_id=part_id, lot=lot, camera=camera, recipe=recipe, version=version, reviewed=reviewed, open=open,
        after=after, before=before, limit=limit, cursor=cursor,
    )  # fmt: skip
    asked += [("verdict", str(verdict)) for verdict in verdicts]
    asked += [("meta", f"{name}={value}") for name, value in (metadata or {}).items()]

    def read(response: httpx2.Response) -> Page:
        following = response.headers.get("X-Next-Cursor")
        return Page(list(response.json()), None if following is None else int(following))

    return Question("GET", "/inspections", read, asked)


def record(inspection_id: str) -> Question[Record]:
    """One inspection as it was answered, with its reviews."""
    return Question("GET", _of(inspection_id), _object)


def image(inspection_id: str) -> Question[bytes]:
    """The bytes that were inspected, where they were kept."""
    return Question("GET", f"{_of(inspection_id)}/image", _content)


def anomaly_map(inspection_id: str) -> Question[bytes]:
    """The map of a kept image: a gray PNG, 255 is 1."""
    return Question("GET", f"{_of(inspection_id)}/map", _content)


def overlay(inspection_id: str) -> Question[bytes]:
    """A JPEG of a kept image with its map on it."""
    return Question("GET", f"{_of(inspection_id)}/overlay.jpg", _content)


def review(
    inspection_id: str,
    verdict: Literal["good", "defect"],
    *,
    defect_type: str | None = None,
    note: str | None = None,
    reviewer: str | None = None,
    boxes: Sequence[Box] = (),
    mask: NDArray[np.bool_] | NDArray[np.uint8] | None = None,
) -> Question[Record]:
    """Say what a part is; `mask` `(H, W)` is of the image's size, 128 and more, or True, is the defect.

    The answer comes once the review is on the disk; another review is another record.
    """
    given = (("defect_type", defect_type), ("note", note), ("reviewer", reviewer))
    body: dict[str, Any] = {"verdict": verdict, "boxes": [vars(box) for box in boxes]}
    body |= {name: value for name, value in given if value is not None}
    if mask is not None:
        drawn = np.where(mask if mask.dtype == np.bool_ else mask >= 128, 255, 0).astype(np.uint8)
        body["mask"] = base64.b64encode(encode(drawn, ".png")).decode()
    return Question("POST", f"{_of(inspection_id)}/reviews", _object, body=body)


def reviews(
    *, recipe: str | None = None, camera: str | None = None, limit: int = 50, cursor: int | None = None
) -> Question[Page]:
    """What people said, newest first."""

    def read(response: httpx2.Response) -> Page:
        found = _object(response)
        return Page(list(found["items"]), found["next"])

    return Question("GET", "/reviews", read, _given(recipe=recipe, camera=camera, limit=limit, cursor=cursor))


def defect_types(*, recipe: str | None = None) -> Question[list[str]]:
    """Kinds of defects that reviews named so far, the most frequent first."""
    return Question("GET", "/defect-types", lambda response: list(response.json()), _given(recipe=recipe))


def counters() -> Question[Record]:
    """Parts by recipe and verdict since the last reset."""
    return Question("GET", "/counters", _object)


def reset_counters(*, recipe: str | None = None) -> Question[Record]:
    """Begin again from zero for one recipe, or for all."""
    return Question("POST", "/counters/reset", _object, _given(recipe=recipe))


def shift() -> Question[Record]:
    """The shift that is under way, with its parts by recipe and verdict."""
    return Question("GET", "/shift", _object)


def recipes() -> Question[list[Record]]:
    """Every recipe, ready or not and why."""
    return Question("GET", "/recipes", lambda response: list(response.json()))


def _of(inspection_id: str) -> str:
    return f"/inspections/{quote(inspection_id, safe='')}"


def _given(**values: str | int | datetime | None) -> list[tuple[str, str]]:
    return [(name, _text(value)) for name, value in values.items() if value is not None]


def _text(value: str | int | datetime) -> str:
    if isinstance(value, datetime):
        return value.astimezone().isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)


def _object(response: httpx2.Response) -> Record:
    return dict(response.json())


def _content(response: httpx2.Response) -> bytes:
    return response.content
