"""A link that loses replies: what came was worked on, and nobody hears of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx2


class Link:
    """Passes bytes both ways; while `losing`, the next reply is taken from the service and the connection closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.losing = 0
        self.lost = 0

    def carry(self, client: socket.socket) -> None:
        # The service may be gone.
        with suppress(ConnectionError), client, socket.create_connection(("127.0.0.1", self._port)) as service:
            back = threading.Thread(target=self._back, args=(service, client), daemon=True)
            back.start()
            with suppress(OSError):
                while data := client.recv(65_536):
                    service.sendall(data)
            with suppress(OSError):
                service.shutdown(socket.SHUT_WR)
            back.join(300)

    def _back(self, service: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := service.recv(65_536):
                if self.losing:
                    self.losing -= 1
                    self.lost += 1
                    break
                client.sendall(data)
        # A service that was killed too.
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def lossy_link(service: httpx2.Client) -> Iterator[tuple[str, Link]]:
    """The address of a link to the service of `service`, and the link."""
    link = Link(service.base_url.port or 80)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=link.carry, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", link
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
