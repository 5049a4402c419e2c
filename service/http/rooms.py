"""The rooms behind the door: one router for each kind of request, and the files of the page."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from service.http import collecting, health, inspect, live, open_inference, recipes, records, statistics
from service.http.parameters import PlainFiles, refuse_unread
from service.http.shortcut import Answer, Shortcut
from service.settings import Settings

ROUTERS = (
    inspect.router,
    *recipes.ROUTERS,
    collecting.router,
    *records.ROUTERS,
    statistics.router,
    health.router,
    live.router,
    open_inference.router,
)
_WEB = Path(__file__).parents[1] / "web"
_ROOMS = APIRouter(dependencies=[Depends(refuse_unread)])
for _router in ROUTERS:
    _ROOMS.include_router(_router)


def add_rooms(app: FastAPI, on_problem: Answer) -> None:
    """`on_problem` answers what ends an inspection early: it takes the short way, past the handlers of the app."""
    # Those that an app includes are made anew for it, by its first request, which waits for that most of 100 ms.
    app.router.routes.extend(_ROOMS.routes)
    app.mount("/web", PlainFiles(directory=_WEB))
    app.add_middleware(Shortcut, routes=_api_routes(inspect.router), on_problem=on_problem)


def _api_routes(router: APIRouter) -> list[APIRoute]:
    return [route for route in router.routes if isinstance(route, APIRoute)]


def is_route(app: FastAPI, scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in app.router.routes)


def prefix_of(settings: Settings) -> str:
    """The prefix of all addresses; ValueError where it could be taken for a page."""
    begins = {"docs", "openapi.json", "web"} | {
        route.path.split("/")[1]
        for router in ROUTERS
        for route in _api_routes(router)
        if "GET" in (route.methods or ())
    }
    prefix = settings.root_path
    if prefix and prefix.split("/")[1] in begins:
        raise ValueError(f"INSPECT_ROOT_PATH {prefix} begins like an address of the service: choose another")
    return prefix
