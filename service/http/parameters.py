"""Nothing of a request is passed over in silence: what a route does not read is refused, by name.

Every route gets `refuse_unread` from the app, and what it may be sent is what its signature declares. A header that
looks like one of the service's own, or like a parameter of the query, is refused wherever it is not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, get_args, get_origin

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from service.station.problem import ProblemError

# Read by the service itself on every route: of two, who sends the second would not know that the first counts.
_EVERYWHERE = {"x-request-id", "x-api-key", "authorization", "content-type", "content-encoding"}
# A header of these families is the service's own, whatever comes behind: X-Part-Number, X-Deadline-Seconds.
_FAMILIES = {
    *("part", "trigger", "camera", "lot", "meta", "deadline", "timeout"),
    *("recipe", "model", "heatmap", "threshold", "thresholds"),
}
# Headers that some routes read, and those of replies: folded as by `_fold`, with the name they should have.
_OWN = {
    "partid": "X-Part-Id",
    "triggerid": "X-Trigger-Id",
    "cameraid": "X-Camera-Id",
    "lotid": "X-Lot-Id",
    "deadlinems": "X-Deadline-Ms",
    "inferenceheadercontentlength": "Inference-Header-Content-Length",
}
_IN_QUERY = ("recipe", "heatmap", "width", "height", "pixelformat", "version", "verdict")
_IN_REPLIES = ("score", "limits", "replayed", "inspectionid", "modelsha256", "faults", "thresholds")
# Names of the line's own, on the routes that read the lot: X-Meta-Order.
METADATA = "x-meta-"
# Bytes of the names of a request's headers up to which it is remembered that they may come.
_REMEMBERED_BYTES = 1024
# Characters of a name that is quoted back.
_QUOTED = 64


async def refuse_unread(request: Request) -> None:
    """Raises ProblemError for a parameter, header or body that the route of this request does not read.

    A coroutine, though it waits for nothing: a function would go to another thread.
    """
    route: APIRoute = request.scope["route"]
    reads = _reads(route)
    if request.scope["query_string"]:
        refuse_unknown(
            "query parameter", (name for name, _ in request.query_params.multi_items()), reads.query, reads.lists
        )
    names = tuple(name for name, _ in request.scope["headers"])
    # A client sends the same names with every request.
    check = _refuse_headers if sum(map(len, names)) <= _REMEMBERED_BYTES else _refuse_headers.__wrapped__
    check(names, reads.headers)
    if b"content-encoding" in names and (request.headers["content-encoding"].strip().lower() not in {"identity", ""}):
        raise ProblemError(
            "unsupported_media_type",
            f"Content-Encoding {request.headers['content-encoding'][:_QUOTED]!r}: send the bytes as they are",
        )
    if "content-range" in request.headers:
        raise ProblemError("invalid_request", "Content-Range: a part of a body is judged by nobody: send the whole")
    if not reads.body and (request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers):
        raise ProblemError(
            "invalid_request",
            f"{request.method} {request.url.path} reads no body: {_choice('query parameter', reads.query)}",
        )


class _Reads(NamedTuple):
    """What a route reads, by name: of the query, those of it that may come several times, headers; whether a body."""

    query: tuple[str, ...]
    lists: frozenset[str]
    headers: frozenset[str]
    body: bool


def _reads(route: APIRoute) -> _Reads:
    # With the route, which is as old as its app: routes cannot be the keys of a table.
    found: _Reads | None = vars(route).get("_reads")
    if found is None:
        query = {field.alias: field for dependant in _all(route.dependant) for field in dependant.query_params}
        found = vars(route)["_reads"] = _Reads(
            tuple(query),
            frozenset(name for name, field in query.items() if is_list(field.field_info.annotation)),
            frozenset(field.alias for dependant in _all(route.dependant) for field in dependant.header_params),
            route.body_field is not None or "requestBody" in (route.openapi_extra or {}),
        )
    return found


def refuse_unknown(kind: str, sent: Iterable[str], known: Iterable[str], several: Iterable[str] = ()) -> None:
    """Raises ProblemError for a name that is not `known`, or comes twice and is not among `several`."""
    for name, times in Counter(sent).items():
        if name not in known:
            raise ProblemError("invalid_request", f"{kind} {name[:_QUOTED]!r} is not known: {_choice(kind, known)}")
        if times > 1 and name not in several:
            raise ProblemError("invalid_request", f"{kind} {name!r} is given {times} times: send it once")


class PlainFiles(StaticFiles):
    """Files of a folder; a query is refused as everywhere."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_unknown("query parameter", Request(scope).query_params, ())
        await super().__call__(scope, receive, send)


def _choice(kind: str, known: Iterable[str]) -> str:
    names = ", ".join(known)
    return f"send {names}" if names else f"there is no {kind} here"


def is_list(annotation: object) -> bool:
    return any(get_origin(kind) is list for kind in (annotation, *get_args(annotation)))


def _all(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for inner in dependant.dependencies:
        yield from _all(inner)


@lru_cache(256)
def _refuse_headers(names: tuple[bytes, ...], read: frozenset[str]) -> None:
    seen = Counter(name.decode("latin-1") for name in names)
    for name, times in seen.items():
        if name in read or name in _EVERYWHERE or (name.startswith(METADATA) and "x-lot-id" in read):
            if times > 1:
                raise ProblemError("invalid_request", f"header {name} is given {times} times: send it once")
            continue
        if (remedy := _resembles(name[: 2 * _QUOTED])) is not None:
            known = ", ".join(sorted(read)) or "none of the service's own"
            raise ProblemError(
                "invalid_request", f"header {name[:_QUOTED]!r} is not read here: {remedy}; headers read: {known}"
            )


@lru_cache(4096)
def _resembles(name: str) -> str | None:
    """What to send instead of a header that could be meant for the service; None for everybody else's."""
    marked = name.startswith(("x-", "x_"))
    folded = _fold(name)
    if own := _OWN.get(folded):
        return f"the name is {own}, and not every route reads it" if own.lower() != name else "another route reads it"
    if folded in {"recipe", "heatmap"} or (marked and folded in _IN_QUERY):
        return "it belongs into the query of the routes that read it"
    if not marked:
        return None
    if folded in _IN_REPLIES:
        return "it is a header of replies"
    for own_folded, own in _OWN.items():
        if _one_typo(folded, own_folded):
            return f"is {own} meant?"
    for name_folded in _IN_QUERY:
        if _one_typo(folded, name_folded):
            return f"is {name_folded} meant? It belongs into the query of the routes that read it"
    family = name[2:].replace("_", "-").split("-")[0]
    return f"X-{family.capitalize()}-… belongs to the service" if family in _FAMILIES else None


def _fold(name: str) -> str:
    return name.lower().removeprefix("x-").removeprefix("x_").replace("-", "").replace("_", "")


def _one_typo(one: str, other: str) -> bool:
    """One letter more, less, or another one; or two neighbours exchanged."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    rest_one, rest_other = one[start:], other[start:]
    return (
        rest_one[1:] == rest_other[1:]
        or rest_one[1:] == rest_other
        or rest_one == rest_other[1:]
        or (rest_one[:2] == rest_other[1::-1] and rest_one[2:] == rest_other[2:])
    )
