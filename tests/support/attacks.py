"""A camera that goes on sending while somebody attacks its station, and what becomes of its images."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
from bundles import gray, png
from sockets import connect, picture_request, read_reply

# Linux's struct tcp_info has `tcpi_last_data_recv` here: milliseconds since data last arrived.
_LAST_RECEIVED_AT = 52
# Nobody's machine is so busy that a small image takes this long, and a client that waits longer learns nothing new.
DEADLINE_S = 10.0
GOOD = png(gray(51))


@dataclass
class Camera:
    """Statuses, and seconds until each answer had arrived, of one image every 100 ms on one connection."""

    deadline_s: float = DEADLINE_S
    statuses: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    error: Exception | None = None

    def require_all_in_time(self) -> None:
        assert self.error is None, repr(self.error)
        assert set(self.statuses) == {200}, self.statuses
        assert max(self.seconds) < self.deadline_s

    def late(self, more_s: float = 0.1) -> list[float]:
        """Seconds of the verdicts that arrived after the deadline, by more than a machine that is busy may add between
        the last look at a clock and the network.
        """
        answers = zip(self.statuses, self.seconds, strict=True)
        return [seconds for status, seconds in answers if status == 200 and seconds > self.deadline_s + more_s]


@contextmanager
def camera_beside(
    client: httpx2.Client, pictures: int = 20, picture: bytes = GOOD, deadline_s: float = DEADLINE_S
) -> Iterator[Camera]:
    """Sends as long as the block lasts, and as many `pictures` or more."""
    camera, over = Camera(deadline_s), threading.Event()
    request = picture_request(picture, f"X-Deadline-Ms: {1000 * deadline_s:.0f}")

    def send() -> None:
        try:
            with connect(client) as connection:
                while not over.is_set() or len(camera.statuses) < pictures:
                    begin = time.monotonic()
                    connection.sendall(request)
                    camera.statuses.append(read_reply(connection)[0])
                    # When it came, and not when this thread was woken for it.
                    camera.seconds.append(time.monotonic() - _since_last_received(connection) - begin)
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


def _since_last_received(connection: socket.socket) -> float:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (milliseconds,) = struct.unpack_from("=I", info, _LAST_RECEIVED_AT)
    return float(milliseconds) / 1000
