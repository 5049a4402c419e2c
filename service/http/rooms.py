"""The rooms behind the door: one router for each kind of request, and the files of the page."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from service.http import collecting, health, inspect, live, open_inference, recipes, records, statistics
from service.http.parameters import PlainFiles
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


def add_rooms(app: FastAPI, on_problem: Answer) -> None:
    """`on_problem` answers what ends an inspection early: it takes the short way, past the handlers of the app."""
    for router in ROUTERS:
        app.include_router(router)
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
