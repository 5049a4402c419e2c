"""What an address may look like: HEAD where there is GET, a slash at the end, a prefix in front (INSPECT_ROOT_PATH)."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Addresses:
    """Turns the addresses of a request into those that the routes have.

    `prefix` ("" or "/station") is taken off, whether the proxy in front leaves it on or takes it off itself; where an
    address without it `is_route` all the same, as `/inspect` below the prefix `/inspect`, it stays.
    """

    def __init__(self, app: ASGIApp, prefix: str, is_route: Callable[[Scope], bool]) -> None:
        self._app = app
        self._prefix = prefix
        self._is_route = is_route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        # A copy: the server reads the method of its own to know that no body may follow.
        scope = dict(scope, path=self._path(scope), method="GET" if head else scope["method"])
        await self._app(scope, receive, _without_body(send) if head else send)

    def _path(self, scope: Scope) -> str:
        path: str = scope["path"].rstrip("/") or "/"
        if not self._prefix or not f"{path}/".startswith(f"{self._prefix}/") or self._is_route(dict(scope, path=path)):
            return path
        return path[len(self._prefix) :] or "/"


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)}
        await send(message)

    return send_head
