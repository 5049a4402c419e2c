"""`/docs` without the internet: Swagger UI from the package fastapi-offline, served by the service itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from service.http.parameters import PlainFiles
from service.http.problems import ProblemBody

_FILES = Path(fastapi_offline.__file__).parent / "static"
# Swagger UI sets styles of its own; scripts are its file and the one that starts it, named by its hash.
_POLICY = (
    "default-src 'self'; script-src 'self' {start}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'"
)


def add_docs(app: FastAPI, prefix: str) -> None:
    """Serve the viewer at `/docs`, its files below `/docs/files`, and what it shows at `/openapi.json`."""
    page = get_swagger_ui_html(
        openapi_url=f"{prefix}/openapi.json",
        title=app.title,
        swagger_js_url=f"{prefix}/docs/files/swagger-ui-bundle.js",
        swagger_css_url=f"{prefix}/docs/files/swagger-ui.css",
        swagger_favicon_url="data:,",
        # The default validator is a public web site.
        swagger_ui_parameters={"validatorUrl": None, "tryItOutEnabled": True},
    )
    html = bytes(page.body).decode()
    headers = {"Content-Security-Policy": _POLICY.format(start=_hash_of_inline_script(html))}
    app.mount("/docs/files", PlainFiles(directory=_FILES))
    app.openapi = partial(_openapi, app.openapi)  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(_schema(app), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)


def _openapi(original: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """With the body of problems: the table of problems names it, no route's signature does."""
    schema = original()
    schema.setdefault("components", {}).setdefault("schemas", {})["ProblemBody"] = ProblemBody.model_json_schema(
        ref_template="#/components/schemas/{model}"
    )
    return schema


@lru_cache
def _schema(app: FastAPI) -> bytes:
    """Made once: a thousand requests that each serialise the schema would hold up the cameras for seconds."""
    return json.dumps(app.openapi(), ensure_ascii=False).encode()


def _hash_of_inline_script(html: str) -> str:
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
