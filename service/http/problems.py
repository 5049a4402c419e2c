"""Every error the service can answer with: one table, one body (RFC 9457), always with a verdict."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel
from pydantic_core import to_json

from service.station.problem import ProblemError
from service.station.verdicts import Verdict

MEDIA_TYPE = "application/problem+json"

# code: (status, title)
PROBLEMS: dict[str, tuple[int, str]] = {
    "empty_image": (400, "No image in the request"),
    "digest_mismatch": (400, "The body is not the one of its digest"),
    "unsupported_image": (400, "Not an image"),
    "corrupt_image": (400, "Damaged image"),
    "malformed_request": (400, "Not a request of HTTP/1.1"),
    "unauthorized": (401, "No valid API key"),
    "forbidden": (403, "Not allowed"),
    "client_disconnected": (400, "The client went away"),
    "not_found": (404, "No such address"),
    "unknown_recipe": (404, "No such recipe"),
    "method_not_allowed": (405, "Method not allowed here"),
    "head_too_slow": (408, "The head of the request took too long"),
    "recipe_not_ready": (409, "The recipe is not ready"),
    "collecting": (409, "The recipe collects photos"),
    "activation_failed": (409, "The version was not activated"),
    "limits_refused": (409, "The limits were not changed"),
    "trigger_reused": (409, "The trigger was answered for another image"),
    "trigger_outdated": (409, "The trigger was answered by what serves no more"),
    "body_too_large": (413, "Request body too large"),
    "image_too_large": (413, "Image has too many pixels"),
    "url_too_long": (414, "URL too long"),
    "unsupported_media_type": (415, "Content type not supported"),
    "invalid_request": (422, "Invalid request"),
    "overloaded": (429, "Too much to do"),
    "head_too_large": (431, "Head of the request too large"),
    "internal_error": (500, "Internal error"),
    "untrusted_result": (500, "The result cannot be trusted"),
    "starting": (503, "Still starting"),
    "draining": (503, "Shutting down"),
    "backend_failed": (503, "The backend failed"),
    "records_unavailable": (503, "The records cannot be read"),
    "deadline_passed": (504, "Deadline passed"),
}


class ProblemBody(BaseModel):
    """RFC 9457 problem details; `verdict` is always NOT_INSPECTED."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    verdict: Literal[Verdict.NOT_INSPECTED] = Verdict.NOT_INSPECTED
    request_id: str | None = None
    retry_after_ms: int | None = None


def problem_body(problem: ProblemError, request_id: str | None) -> ProblemBody:
    return ProblemBody(**_fields(problem, request_id))


def problem_response(problem: ProblemError, request_id: str | None, path: str = "") -> Response:
    """The problem as a response; below `/v2` it also has `error`, where clients of Open Inference look."""
    fields = _fields(problem, request_id)
    if path.startswith("/v2/"):
        fields["error"] = problem.detail
    headers = {"X-Verdict": fields["verdict"]}
    if problem.retry_after_s is not None:
        # Whole seconds only; the body has the exact figure.
        headers["Retry-After"] = str(max(1, round(problem.retry_after_s)))
    return Response(to_json(fields), fields["status"], headers, MEDIA_TYPE)


def _fields(problem: ProblemError, request_id: str | None) -> dict[str, Any]:
    """What a ProblemBody says, less what is not known, as JSON values: a refusal must be cheap."""
    status, title = PROBLEMS[problem.code]
    fields: dict[str, Any] = {
        "type": f"urn:draem-inspect:problem:{problem.code}",
        "title": title,
        "status": status,
        "detail": problem.detail,
        "code": problem.code,
        "verdict": str(Verdict.NOT_INSPECTED),
    }
    if request_id is not None:
        fields["request_id"] = request_id
    if problem.retry_after_s is not None:
        fields["retry_after_ms"] = round(problem.retry_after_s * 1000)
    return fields


def openapi_responses(*, examples: bool = False) -> dict[int | str, dict[str, Any]]:
    """The table as OpenAPI responses, with an example of each problem where there is room for them."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code, (status, title) in PROBLEMS.items():
        content: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
        entry = by_status.setdefault(status, {"description": "", "content": {MEDIA_TYPE: content}})
        entry["description"] += f"{'; ' if entry['description'] else ''}`{code}`: {title}"
        if examples:
            problem = problem_body(ProblemError(code, "what is wrong, and what to do about it"), "line-4.17")
            value = problem.model_dump(mode="json", exclude_none=True)
            entry["content"][MEDIA_TYPE].setdefault("examples", {})[code] = {"summary": title, "value": value}
    return by_status
