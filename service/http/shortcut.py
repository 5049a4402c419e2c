"""The short way of an image: a POST to a route of inspection goes straight to its function.

FastAPI looks for the route among all of them, asks the annotation of each parameter anew what it means, and opens three
stacks of contexts: a third of the event loop's work for an image. Here the signature is read once. The route stays in
the app for its documentation, for other methods and for requests that are traced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.parameters import is_list, refuse_unread
from service.station.problem import ProblemError

Answer = Callable[[Request, ProblemError | RequestValidationError], Response]


class Shortcut:
    """Answers POST requests to `routes`, which have no parameters in their path; `app` has all others."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[APIRoute],
        on_problem: Answer,
    ) -> None:
        self._app = app
        self._on_problem = on_problem
        self._ways = {route.path: _Way(route) for route in routes if route.methods == {"POST"}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = self._ways.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        if way is None or "fastapi.telemetry" in scope:
            await self._app(scope, receive, send)
            return
        scope["route"], scope["path_params"] = way.route, {}
        request = Request(scope, receive, send)
        try:
            await refuse_unread(request)
            response: Response = await way.route.endpoint(request=request, **way.read(request))
            await response(scope, receive, send)
        except (ProblemError, RequestValidationError) as error:
            await self._on_problem(request, error)(scope, receive, send)


class _Parameter(NamedTuple):
    name: str
    alias: str
    place: str
    validate: Callable[..., tuple[Any, list[Any]]]


class _Way:
    """A route and how the parameters of its function are read. Each is one value of the query or one header, and has a
    default: what `refuse_unread` let through gives none of them twice.
    """

    def __init__(self, route: APIRoute) -> None:
        self.route = route
        needs = route.dependant
        if needs.dependencies or needs.path_params or needs.cookie_params or needs.body_params:
            raise TypeError(f"{route.path} reads more than single values of the query and headers")
        self._query = {field.alias: _parameter(field, "query") for field in needs.query_params}
        self._headers = {field.alias.encode("latin-1"): _parameter(field, "header") for field in needs.header_params}
        self._defaults = {field.name: field.default for field in (*needs.query_params, *needs.header_params)}

    def read(self, request: Request) -> dict[str, Any]:
        """The arguments of the route's function; raises RequestValidationError."""
        # What was sent is less than what may be.
        sent = [(self._headers.get(name), value) for name, value in request.scope["headers"]]
        if request.scope["query_string"]:
            sent += [(self._query.get(name), value) for name, value in request.query_params.items()]
        values = dict(self._defaults)
        errors: list[Any] = []
        for parameter, value in sent:
            if parameter is not None:
                text = value.decode("latin-1") if isinstance(value, bytes) else value
                values[parameter.name], wrong = parameter.validate(text, values, loc=(parameter.place, parameter.alias))
                errors.extend(wrong)
        if errors:
            # As FastAPI names them: in the order of the signature.
            known = list(self._defaults)
            errors.sort(key=lambda one: known.index(self._named(*one["loc"][:2])))
            raise RequestValidationError(errors)
        return values

    def _named(self, place: str, alias: str) -> str:
        return (self._query[alias] if place == "query" else self._headers[alias.encode("latin-1")]).name


def _parameter(field: Any, place: str) -> _Parameter:
    if field.field_info.is_required() or is_list(field.field_info.annotation):
        raise TypeError(f"{place} parameter {field.alias} has no default, or is a list")
    return _Parameter(field.name, field.alias, place, field.validate)
