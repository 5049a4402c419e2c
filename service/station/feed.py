"""The feed: what the station decided just now, for whoever looks on. Nobody who looks on can delay a verdict."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Crop
from service.images.decoding import Pixels

# Parts that a page shows side by side.
KEPT = 24
_MOST_IMAGE_BYTES = 64_000_000
# Parts that may wait for a slow page; at 30 parts a second it has eight seconds.
_BACKLOG = 256
# Each page holds a connection, which a camera may need.
_MOST_PAGES = 32
# Seconds for which what the station says of itself is said again: all pages ask in the same moment.
_STATE_FOR_S = 0.05

Entry = dict[str, Any]


@dataclass(frozen=True)
class View:
    """What can be drawn of a part: its image as it was sent, its map float32 `(H, W)`, the value from which that is
    hot, what of the image was inspected, and the layout of bare pixels.
    """

    image: bytes | Pixels
    anomaly_map: NDArray[np.float32]
    hot: float | None
    crop: Crop | None = None
    layout: Mapping[str, Any] | None = None


class Feed:
    """The newest parts, and a queue for each page that looks on. Used from the event loop only."""

    def __init__(self) -> None:
        self.newest: deque[Entry] = deque(maxlen=KEPT)
        self._views: OrderedDict[str, View] = OrderedDict()
        self._bytes = 0
        self._pages: set[asyncio.Queue[Entry]] = set()
        self._events: OrderedDict[str, bytes] = OrderedDict()
        self._state: tuple[float, bytes] = (-_STATE_FOR_S, b"")

    def publish(self, entry: Entry, view: View | None = None) -> None:
        """Show a part; `entry` has an `inspection_id`. A page that is too slow misses its oldest parts."""
        self.newest.append(entry)
        if view is not None:
            self._keep(str(entry["inspection_id"]), view)
        for page in self._pages:
            if page.full():
                page.get_nowait()
            page.put_nowait(entry)

    def view(self, inspection_id: str) -> View | None:
        """What can be drawn of one of the newest parts; None where its image is not kept any more."""
        return self._views.get(inspection_id)

    def event(self, entry: Entry, encode: Callable[[Entry], bytes]) -> bytes:
        """What `encode` makes of a part, once for all pages."""
        name = str(entry["inspection_id"])
        if name not in self._events:
            self._events[name] = encode(entry)
            if len(self._events) > _BACKLOG:
                self._events.popitem(last=False)
        return self._events[name]

    def state(self, encode: Callable[[], bytes]) -> bytes:
        """What `encode` says of the station, once for all pages that ask in this moment."""
        now = time.monotonic()
        if now - self._state[0] >= _STATE_FOR_S:
            self._state = now, encode()
        return self._state[1]

    @property
    def full(self) -> bool:
        """Whether no further page may look on."""
        return len(self._pages) >= _MOST_PAGES

    @contextmanager
    def look_on(self) -> Iterator[asyncio.Queue[Entry]]:
        """A queue of the parts from now on."""
        page: asyncio.Queue[Entry] = asyncio.Queue(_BACKLOG)
        self._pages.add(page)
        try:
            yield page
        finally:
            self._pages.discard(page)

    def _keep(self, inspection_id: str, view: View) -> None:
        self._views[inspection_id] = view
        self._bytes += _size(view)
        while len(self._views) > KEPT or (self._bytes > _MOST_IMAGE_BYTES and len(self._views) > 1):
            self._bytes -= _size(self._views.popitem(last=False)[1])


def _size(view: View) -> int:
    image = len(view.image) if isinstance(view.image, bytes) else view.image.nbytes
    return image + view.anomaly_map.nbytes
