"""A problem ends a request. The station names its code; `service.http.problems` knows the HTTP status of each code."""

from __future__ import annotations


class ProblemError(Exception):
    """Ends a request with the problem `code`; `detail` says what is wrong and what to do."""

    def __init__(self, code: str, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
