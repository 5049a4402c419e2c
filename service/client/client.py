"""Client of the service, for lines and scripts: `Client` waits, `AsyncClient` awaits; neither makes up an OK.

Whatever becomes of an image is an Outcome: an exception is for what the caller did wrong, such as a file that cannot be
read. With `retries` an image that got no answer is sent again under the same trigger: the service inspects it once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx2
import numpy as np
from numpy.typing import NDArray

from service.client.address import split_address
from service.station.verdicts import Verdict

Picture = bytes | Path | NDArray[np.uint8] | NDArray[np.uint16]
HeatmapMode = Literal["none", "auto", "overlay", "map", "npy"]

_MEDIA_TYPE = "application/octet-stream"
# Problems that pass, and after which the part has no verdict yet.
_PASSING = {"overloaded", "starting", "draining", "backend_failed", "records_unavailable"}
# Seconds before an image is sent again where the service does not say.
_PAUSE_S = 0.05


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
    def inspection_id(self) -> str | None:
        """What the records know this inspection by; None where there was none."""
        return self.reply.get("inspection_id")

    @property
    def heatmap(self) -> bytes | None:
        """The overlay or map that was asked for: a PNG, or a .npy file."""
        found = self.reply.get("heatmap")
        return None if found is None else base64.b64decode(found["data"])

    @property
    def replayed(self) -> bool:
        """Whether the trigger was answered before, and this is that answer."""
        return bool(self.reply.get("replayed"))

    @property
    def detail(self) -> str:
        """Why a picture was not inspected; empty otherwise."""
        return str(self.reply.get("detail", "")) or "; ".join(self.reply.get("faults", []))


@dataclass(frozen=True)
class _Order:
    """What an image is sent with."""

    image: Picture
    recipe: str | None
    deadline_ms: float | None
    part_id: str | None
    camera_id: str | None
    trigger_id: str | None
    lot_id: str | None
    metadata: Mapping[str, str] | None
    heatmap: HeatmapMode

    def request(self, trigger_id: str | None) -> dict[str, Any]:
        """Raises OSError where a file cannot be read, ValueError for an array that is no image."""
        headers: dict[str, str | bytes] = {"Content-Type": _MEDIA_TYPE, "X-Request-Id": str(uuid.uuid4())}
        if self.deadline_ms is not None:
            headers["X-Deadline-Ms"] = str(self.deadline_ms)
        names = {"Part": self.part_id, "Camera": self.camera_id, "Trigger": trigger_id, "Lot": self.lot_id}
        headers |= {f"X-{name}-Id": value.encode() for name, value in names.items() if value is not None}
        headers |= {f"X-Meta-{name}": value.encode() for name, value in (self.metadata or {}).items()}
        # An empty name is sent, and refused: it is no choice of the default recipe.
        params: dict[str, Any] = {"heatmap": self.heatmap} | ({} if self.recipe is None else {"recipe": self.recipe})
        content, layout = _content(self.image)
        return {"url": "/inspect", "content": content, "headers": headers, "params": params | layout}


def _content(image: Picture) -> tuple[bytes, dict[str, Any]]:
    """The body of a request, and for an array its layout: RGB `(H, W, 3)` or gray `(H, W)` of 8 or 16 bits."""
    if isinstance(image, bytes):
        return image, {}
    if isinstance(image, Path):
        return image.read_bytes(), {}
    formats = {(2, "uint8"): "Mono8", (3, "uint8"): "RGB8", (2, "uint16"): "Mono16"}
    pixel_format = formats.get((image.ndim, image.dtype.name))
    if pixel_format is None or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(
            f"an array {image.shape} of {image.dtype} is no image: RGB (H, W, 3) uint8, or gray (H, W) uint8 or uint16"
        )
    layout = {"width": image.shape[1], "height": image.shape[0], "pixel_format": pixel_format}
    return np.ascontiguousarray(image, image.dtype.newbyteorder("<")).tobytes(), layout


def read_outcome(status: int, body: bytes) -> Outcome:
    """What a reply says; anything but a known verdict with status 200 is NOT_INSPECTED."""
    try:
        reply = json.loads(body)
        verdict = Verdict(reply["verdict"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return _no_answer(f"HTTP {status} without a verdict", status)
    if status != httpx2.codes.OK:
        verdict = Verdict.NOT_INSPECTED
    return Outcome(verdict, status, reply)


def _no_answer(detail: str, status: int | None = None) -> Outcome:
    return Outcome(Verdict.NOT_INSPECTED, status, {"detail": detail})


@dataclass(frozen=True)
class _Send:
    """A request that is to be sent, within `timeout_s`."""

    request: dict[str, Any]
    timeout_s: float


@dataclass(frozen=True)
class _Pause:
    seconds: float


_Step = _Send | _Pause
_Answer = httpx2.Response | httpx2.HTTPError | None


def _conversation(order: _Order, retries: int, timeout_s: float) -> Generator[_Step, _Answer, Outcome]:
    """What is sent, again where that may help and is safe, within one `timeout_s` for all of it."""
    ends = time.monotonic() + (timeout_s if order.deadline_ms is None else min(timeout_s, order.deadline_ms / 1000))
    trigger = order.trigger_id or (str(uuid.uuid4()) if retries else None)
    request = order.request(trigger)
    left = timeout_s
    for tried in range(retries + 1):
        answer = yield _Send(request, left)
        pause_s = _PAUSE_S * 2**tried
        if isinstance(answer, httpx2.Response):
            outcome = read_outcome(answer.status_code, answer.content)
            if outcome.reply.get("code") not in _PASSING:
                return outcome
            pause_s = max(pause_s, outcome.reply.get("retry_after_ms", 0) / 1000)
        else:
            outcome = _no_answer(f"no answer: {answer!r}")
        left = ends - time.monotonic() - pause_s
        if tried == retries or left <= 0:
            break
        yield _Pause(pause_s)
    return outcome


class Client:
    """Blocking client; keeps its connection. `retries`: how often an image without an answer is sent again. An `url`
    such as `http+unix:///run/inspect.sock` is a UNIX socket of this machine.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 10.0, retries: int = 0) -> None:
        headers = {"X-API-Key": api_key} if api_key else {}
        base, unix = split_address(url)
        transport = None if unix is None else httpx2.HTTPTransport(uds=unix)
        self._http = httpx2.Client(base_url=base, headers=headers, timeout=timeout_s, transport=transport)
        self._timeout_s = timeout_s
        self._retries = retries

    def inspect(
        self,
        image: Picture,
        *,
        recipe: str | None = None,
        deadline_ms: float | None = None,
        part_id: str | None = None,
        camera_id: str | None = None,
        trigger_id: str | None = None,
        lot_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        heatmap: HeatmapMode = "none",
    ) -> Outcome:
        """Inspect encoded bytes, a file, or an array: RGB `(H, W, 3)` uint8, gray `(H, W)` uint8 or uint16.

        `metadata` is kept with the record: {"order": "4711"}. OSError only where the file cannot be read.
        """
        order = _Order(image, recipe, deadline_ms, part_id, camera_id, trigger_id, lot_id, metadata, heatmap)
        steps, answer = _conversation(order, self._retries, self._timeout_s), None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            answer = self._take(step)

    def _take(self, step: _Step) -> _Answer:
        if isinstance(step, _Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._http.post(**step.request, timeout=step.timeout_s)
        except httpx2.HTTPError as error:
            return error

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        retries: int = 0,
        connections: int = 100,
    ) -> None:
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        base, unix = split_address(url)
        self._http = httpx2.AsyncClient(
            base_url=base,
            headers={"X-API-Key": api_key} if api_key else {},
            timeout=timeout_s,
            limits=limits,
            transport=None if unix is None else httpx2.AsyncHTTPTransport(uds=unix, limits=limits),
        )
        self._timeout_s = timeout_s
        self._retries = retries

    async def inspect(
        self,
        image: Picture,
        *,
        recipe: str | None = None,
        deadline_ms: float | None = None,
        part_id: str | None = None,
        camera_id: str | None = None,
        trigger_id: str | None = None,
        lot_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        heatmap: HeatmapMode = "none",
    ) -> Outcome:
        """Inspect as `Client.inspect` does."""
        order = _Order(image, recipe, deadline_ms, part_id, camera_id, trigger_id, lot_id, metadata, heatmap)
        steps, answer = _conversation(order, self._retries, self._timeout_s), None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            answer = await self._take(step)

    async def _take(self, step: _Step) -> _Answer:
        if isinstance(step, _Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._http.post(**step.request, timeout=step.timeout_s)
        except httpx2.HTTPError as error:
            return error

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()
