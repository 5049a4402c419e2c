"""A camera that goes on sending while somebody attacks its station, and what becomes of its pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
from bundles import gray, png
from sockets import connect, picture_request, read_reply

# Nobody's machine is so busy that a small picture takes this long, and a client that waits longer learns nothing new.
DEADLINE_S = 10.0
GOOD = png(gray(51))


@dataclass
class Camera:
    """Statuses, and seconds that each answer took, of one picture every 100 ms on one connection."""

    statuses: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    error: Exception | None = None

    def require_all_in_time(self) -> None:
        assert self.error is None, repr(self.error)
        assert set(self.statuses) == {200}, self.statuses
        assert max(self.seconds) < DEADLINE_S


@contextmanager
def camera_beside(client: httpx2.Client, pictures: int = 20, picture: bytes = GOOD) -> Iterator[Camera]:
    """Sends as long as the block lasts, and as many `pictures` or more."""
    camera, over = Camera(), threading.Event()
    request = picture_request(picture, f"X-Deadline-Ms: {1000 * DEADLINE_S:.0f}")

    def send() -> None:
        try:
            with connect(client) as connection:
                while not over.is_set() or len(camera.statuses) < pictures:
                    begin = time.monotonic()
                    connection.sendall(request)
                    camera.statuses.append(read_reply(connection)[0])
                    camera.seconds.append(time.monotonic() - begin)
                    time.sleep(max(0.0, 0.1 - camera.seconds[-1]))
        except Exception as error:
            camera.error = error

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield camera
    finally:
        over.set()
        thread.join()
