"""Every way a request can fail ends in a problem; the log has the details, the client gets no traceback."""

from __future__ import annotations

import time

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.http.problems import PROBLEMS, problem_response
from service.http.refusals import note_refusal
from service.station.monitoring import Metrics
from service.station.problem import ProblemError


class Failures:
    """Makes an answer of what ended a request early, counts it, and puts it on record where it was of a part."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def answer(self, request: Request, error: ProblemError | RequestValidationError) -> Response:
        problem = _invalid(error) if isinstance(error, RequestValidationError) else error
        self._metrics.errors.labels(problem.code).inc()
        if problem.code == "overloaded":
            self._metrics.refusal_seconds.observe(time.monotonic() - request.state.started)
        note_refusal(request, problem)
        return problem_response(problem, getattr(request.state, "request_id", None), request.scope["path"])

    def handle_in(self, app: FastAPI) -> None:
        # Coroutines, though they wait for nothing: functions would go to another thread, and a refusal must be cheap.
        @app.exception_handler(ProblemError)
        @app.exception_handler(RequestValidationError)
        async def on_problem(request: Request, error: ProblemError | RequestValidationError) -> Response:
            return self.answer(request, error)

        @app.exception_handler(HTTPException)
        async def on_http(request: Request, error: HTTPException) -> Response:
            codes = {404: "not_found", 405: "method_not_allowed"}
            code = codes.get(error.status_code, "invalid_request")
            problem = ProblemError(code, f"{request.method} {request.url.path}: {PROBLEMS[code][1]}")
            response = self.answer(request, problem)
            response.headers.update(error.headers or {})
            return response


def _invalid(error: RequestValidationError) -> ProblemError:
    details = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {_said(e['msg'])}" for e in error.errors())
    return ProblemError("invalid_request", details)


def _said(message: str) -> str:
    """Without what pydantic says of itself."""
    return message.removeprefix("Value error, ").replace(" after validation", "")
