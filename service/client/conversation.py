"""What is sent to the service and what its replies mean, step by step: both clients go through it."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
import numpy as np
from numpy.typing import NDArray

from service.client.questions import Answer, Question, read_answer
from service.station.verdicts import Verdict

T = TypeVar("T")

Picture = bytes | Path | NDArray[np.uint8] | NDArray[np.uint16]
HeatmapMode = Literal["none", "auto", "overlay", "map", "npy"]

_MEDIA_TYPE = "application/octet-stream"
# Problems that pass, and after which the part has no verdict yet.
_PASSING = {"overloaded", "starting", "draining", "backend_failed", "records_unavailable"}
# Seconds before an image is sent again where the service does not say.
_PAUSE_S = 0.05
# Seconds that an answer may be on its way after the deadline: no verdict, but why there is none.
_ON_ITS_WAY_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """What became of one image; `reply` is the service's JSON, the inspection or the problem."""

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
        """Why an image was not inspected; empty otherwise."""
        return str(self.reply.get("detail", "")) or "; ".join(self.reply.get("faults", []))


@dataclass(frozen=True)
class Order:
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
        return {"method": "POST", "url": "/inspect", "content": content, "headers": headers, "params": params | layout}


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
class Send:
    """A request that is to be sent, within `timeout_s`."""

    request: dict[str, Any]
    timeout_s: float


@dataclass(frozen=True)
class Pause:
    seconds: float


Step = Send | Pause
Reply = httpx2.Response | httpx2.HTTPError | None


def conversation(order: Order, retries: int, timeout_s: float) -> Generator[Step, Reply, Outcome]:
    """What is sent, again where that may help and is safe, within one `timeout_s` for all of it."""
    most_s = timeout_s if order.deadline_ms is None else min(timeout_s, order.deadline_ms / 1000)
    ends = time.monotonic() + most_s
    trigger = order.trigger_id or (str(uuid.uuid4()) if retries else None)
    request = order.request(trigger)
    left = min(timeout_s, most_s + _ON_ITS_WAY_S)
    for tried in range(retries + 1):
        answer = yield Send(request, left)
        pause_s = _PAUSE_S * 2**tried
        if isinstance(answer, httpx2.Response):
            outcome = read_outcome(answer.status_code, answer.content)
            if not _passes(outcome.reply.get("code")):
                return outcome
            pause_s = max(pause_s, _asked_pause_s(outcome.reply))
        else:
            outcome = _no_answer(f"no answer: {answer!r}")
        left = ends - time.monotonic() - pause_s
        if tried == retries or left <= 0:
            break
        yield Pause(pause_s)
    return outcome


def _passes(code: object) -> bool:
    return isinstance(code, str) and code in _PASSING


def _asked_pause_s(reply: Mapping[str, Any]) -> float:
    """Seconds that the service asks to wait; what stands between may have written anything there."""
    asked = reply.get("retry_after_ms", 0)
    return max(0.0, asked / 1000) if isinstance(asked, int | float) else 0.0


def interview(question: Question[T], retries: int, timeout_s: float) -> Generator[Step, Reply, Answer[T]]:
    """What is asked, again where that may help and changes nothing, within one `timeout_s` for all of it."""
    ends, left = time.monotonic() + timeout_s, timeout_s
    tries = retries if question.method == "GET" else 0
    for tried in range(tries + 1):
        reply = yield Send(question.request, left)
        if isinstance(reply, httpx2.Response):
            answer = read_answer(question, reply)
            if answer.ok or not _passes(answer.code):
                return answer
        else:
            answer = Answer(None, None, f"no answer: {reply!r}")
        pause_s = _PAUSE_S * 2**tried
        left = ends - time.monotonic() - pause_s
        if tried == tries or left <= 0:
            break
        yield Pause(pause_s)
    return answer
