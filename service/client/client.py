"""Client of the service, for lines and scripts: `Client` waits, `AsyncClient` awaits; neither makes up an OK."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from service.station.verdicts import Verdict

_MEDIA_TYPE = "application/octet-stream"
# A station is asked itself, whatever proxy the environment names for the internet.
_NO_PROXY = {"http://": None, "https://": None}


@dataclass(frozen=True)
class Outcome:
    """What became of one picture; `reply` is the service's JSON, the inspection or the problem."""

    verdict: Verdict
    status: int | None
    reply: dict[str, Any]

    @property
    def score(self) -> float | None:
        """The anomaly score, where there was an inspection."""
        return self.reply.get("score")

    @property
    def detail(self) -> str:
        """Why a picture was not inspected; empty otherwise."""
        return str(self.reply.get("detail", "")) or "; ".join(self.reply.get("faults", []))


def _request(
    image: bytes | Path, recipe: str | None, deadline_ms: float | None, part_id: str | None, heatmap: str
) -> dict[str, Any]:
    headers: dict[str, str | bytes] = {"Content-Type": _MEDIA_TYPE, "X-Request-Id": str(uuid.uuid4())}
    if deadline_ms is not None:
        headers["X-Deadline-Ms"] = str(deadline_ms)
    if part_id is not None:
        headers["X-Part-Id"] = part_id.encode()
    # An empty name is sent, and refused: it is no choice of the default recipe.
    params = {"heatmap": heatmap} | ({} if recipe is None else {"recipe": recipe})
    content = image.read_bytes() if isinstance(image, Path) else image
    return {"url": "/inspect", "content": content, "headers": headers, "params": params}


def read_outcome(status: int, body: bytes) -> Outcome:
    """What a reply says; anything but a known verdict with status 200 is NOT_INSPECTED."""
    try:
        reply = json.loads(body)
        verdict = Verdict(reply["verdict"])
    except (ValueError, KeyError, TypeError):
        return _no_answer(f"HTTP {status} without a verdict", status)
    if status != httpx2.codes.OK:
        verdict = Verdict.NOT_INSPECTED
    return Outcome(verdict, status, reply)


def _no_answer(detail: str, status: int | None = None) -> Outcome:
    return Outcome(Verdict.NOT_INSPECTED, status, {"detail": detail})


class Client:
    """Blocking client; keeps its connection. Transport errors are outcomes, not exceptions."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 10.0) -> None:
        headers = {"X-API-Key": api_key} if api_key else {}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=timeout_s, mounts=_NO_PROXY)

    def inspect(
        self,
        image: bytes | Path,
        *,
        recipe: str | None = None,
        deadline_ms: float | None = None,
        part_id: str | None = None,
        heatmap: str = "none",
    ) -> Outcome:
        """Inspect encoded bytes or a file; OSError only where the file cannot be read."""
        request = _request(image, recipe, deadline_ms, part_id, heatmap)
        try:
            response = self._http.post(**request)
            return read_outcome(response.status_code, response.content)
        except httpx2.HTTPError as error:
            return _no_answer(f"no answer: {error!r}")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = 10.0, connections: int = 100
    ) -> None:
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"X-API-Key": api_key} if api_key else {},
            timeout=timeout_s,
            mounts=_NO_PROXY,
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    async def inspect(
        self,
        image: bytes | Path,
        *,
        recipe: str | None = None,
        deadline_ms: float | None = None,
        part_id: str | None = None,
        heatmap: str = "none",
    ) -> Outcome:
        """Inspect encoded bytes or a file; OSError only where the file cannot be read."""
        request = _request(image, recipe, deadline_ms, part_id, heatmap)
        try:
            response = await self._http.post(**request)
            return read_outcome(response.status_code, response.content)
        except httpx2.HTTPError as error:
            return _no_answer(f"no answer: {error!r}")

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()
