"""Requests to a service under test, and what every problem reply has."""

from __future__ import annotations

from fastapi.testclient import TestClient
from httpx2 import Response


def assert_problem(response: Response, status: int, code: str) -> dict[str, object]:
    body: dict[str, object] = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert response.headers["content-type"] == "application/problem+json"
    assert body["verdict"] == response.headers["x-verdict"] == "NOT_INSPECTED"
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    assert body["status"] == status
    return body


def post(client: TestClient, data: bytes, media_type: str = "image/png", **options: object) -> Response:
    headers = {"Content-Type": media_type, **options.pop("headers", {})}  # type: ignore[dict-item]
    return client.post("/inspect", content=data, headers=headers, **options)  # type: ignore[arg-type]
