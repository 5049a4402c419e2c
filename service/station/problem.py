"""A problem ends a request. The station names its code; `service.http.problems` knows the HTTP status of each code."""

from __future__ import annotations

from service.backends.base import BackendError
from service.images.headers import ImageError
from service.station.batching import ClosedError, OverloadedError
from service.station.verdicts import DeadlinePassedError, UntrustedResultError


class ProblemError(Exception):
    """Ends a request with the problem `code`; `detail` says what is wrong and what to do."""

    def __init__(self, code: str, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


# Every way an inspection can fail.
FAILURES = (
    *(ImageError, OverloadedError, DeadlinePassedError, TimeoutError),
    *(UntrustedResultError, BackendError, ClosedError),
)


def problem_of(error: BaseException) -> ProblemError:
    """One of FAILURES as the ProblemError that the client gets."""
    match error:
        case ImageError():
            return ProblemError(error.code, str(error))
        case OverloadedError():
            return ProblemError("overloaded", str(error), retry_after_s=error.retry_after_s)
        case DeadlinePassedError():
            return ProblemError("deadline_passed", str(error))
        case TimeoutError():
            return ProblemError("deadline_passed", "the deadline passed before there was a result")
        case UntrustedResultError():
            return ProblemError("untrusted_result", str(error))
        case BackendError():
            return ProblemError("backend_failed", str(error), retry_after_s=1.0)
        case ClosedError():
            return ProblemError("draining", "the service is shutting down: send it to another", retry_after_s=1.0)
        case _:
            raise TypeError(f"{error!r} is not how an inspection fails") from error
