"""A problem ends a request. The station names its code; `service.http.problems` knows the HTTP status of each code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def as_problems() -> Iterator[None]:
    """Every way an inspection can fail, as the ProblemError that the client gets."""
    try:
        yield
    except ImageError as error:
        raise ProblemError(error.code, str(error)) from error
    except OverloadedError as error:
        raise ProblemError("overloaded", str(error), retry_after_s=error.retry_after_s) from error
    except DeadlinePassedError as error:
        raise ProblemError("deadline_passed", str(error)) from error
    except TimeoutError as error:
        raise ProblemError("deadline_passed", "the deadline passed before there was a result") from error
    except UntrustedResultError as error:
        raise ProblemError("untrusted_result", str(error)) from error
    except BackendError as error:
        raise ProblemError("backend_failed", str(error), retry_after_s=1.0) from error
    except ClosedError as error:
        raise ProblemError("draining", "the service is shutting down: send it to another", retry_after_s=1.0) from error
