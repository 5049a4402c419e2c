"""What every request gets: an id, security headers, and an answer even where the service itself is at fault."""

from __future__ import annotations

import logging
import re
import time
from contextlib import AsyncExitStack

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.draining import Drain
from service.http.problems import problem_response
from service.http.refusals import note_refusal
from service.http.uploads import LARGEST_TOGETHER, Bodies, Body
from service.station.calendar import steady
from service.station.ids import new_id
from service.station.monitoring import Metrics
from service.station.problem import ProblemError

log = logging.getLogger("draem_inspect")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'"
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", POLICY.encode()),
)


class RequestContext:
    """Gives every request an id, echoes it, adds the security headers, and answers for what nothing else caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics, drain: Drain, body_limit: int) -> None:
        self._app = app
        self._metrics = metrics
        self._drain = drain
        self._bodies = Bodies(LARGEST_TOGETHER * body_limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else new_id()
        state = scope.setdefault("state", {})
        now = time.monotonic()
        # When its first bytes reached this machine, where the protocol knows; on two clocks, of which one goes on while
        # the machine sleeps.
        started = state.get("arrived", now)
        state.update(request_id=request_id, started=started, began=steady() - (now - started))

        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                given = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    *(header for header in _SECURITY_HEADERS if header[0] not in given),
                ]
                # A kept connection would be lost with the process: the next request has to find another one.
                if self._drain.begun:
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        # Here and not in an exception handler of the app: Starlette runs that outside of this, without the headers.
        try:
            async with AsyncExitStack() as state["held"]:
                with Body(self._bodies) as state["body"]:
                    await self._app(scope, receive, send_with_headers)
        except Exception as error:
            log.error("request %s failed", request_id, exc_info=error)
            if begun:
                raise
            self._metrics.errors.labels("internal_error").inc()
            problem = ProblemError("internal_error", f"an unexpected error; the log has request {request_id}")
            note_refusal(Request(scope), problem)
            await problem_response(problem, request_id, scope["path"])(scope, receive, send_with_headers)
