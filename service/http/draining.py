"""Shutting down without losing an image: first readiness goes, then the sockets, then the process.

uvicorn closes its sockets at once on SIGTERM. A load balancer that has not noticed yet would send images to a closed
door, so the service goes on taking them for a while in which `/readyz` says `draining`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import NamedTuple, Protocol

import uvicorn

from service.http.unix_socket import UnixSocket

log = logging.getLogger("draem_inspect")

# Seconds for what comes after the last request, and for the last line: less than compose.yaml and the chart allow.
LEAVE_S, _LAST_LINE_S = 8.0, 0.2
# How uvicorn ends where it cannot listen.
_START_FAILED = 3


class Closing(Protocol):
    """What uvicorn asks of its servers at the end."""

    def close(self) -> None: ...
    async def wait_closed(self) -> None: ...


class Listener(Protocol):
    """Another way in, beside the TCP port."""

    async def listen(self, server: uvicorn.Server) -> Closing:
        """Raises OSError where it cannot."""


class Local(NamedTuple):
    """A UNIX socket, and what uvicorn is to make of each connection there."""

    socket: UnixSocket
    protocol: Callable[..., asyncio.Protocol]

    async def listen(self, server: uvicorn.Server) -> Closing:
        protocol = partial(
            self.protocol, config=server.config, server_state=server.server_state, app_state=server.lifespan.state
        )
        loop = asyncio.get_running_loop()
        opened = await loop.create_unix_server(protocol, sock=self.socket.listener, backlog=server.config.backlog)
        log.info("running on http+unix://%s", self.socket.path.absolute())
        return _Opened(opened, self.socket)


class _Opened(NamedTuple):
    """A UNIX socket that is listened on; its file goes before the process, which a signal may end."""

    server: asyncio.AbstractServer
    socket: UnixSocket

    def close(self) -> None:
        self.socket.remove()
        self.server.close()

    async def wait_closed(self) -> None:
        await self.server.wait_closed()


class Drain:
    """Whether the service is on its way out."""

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        self.begun = True


class DrainingServer(uvicorn.Server):
    """Serves on for `grace_s` seconds after the first SIGTERM; a second signal, or Ctrl-C, ends that at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        grace_s: float,
        tls: ssl.SSLContext | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        super().__init__(config)
        self._more = listeners
        self._tls = tls
        self._drain = drain
        self._grace_s = grace_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        wait = sig == signal.SIGTERM and not self._drain.begun and self._grace_s > 0
        if not self._drain.begun:
            threading.Thread(target=self._end_at_last, daemon=True).start()
        self._drain.begin()
        if wait:
            # Not in the handler, which may have interrupted a line being logged.
            threading.Thread(target=self._exit_later, args=(sig, frame), daemon=True).start()
        else:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:
            # uvicorn has said why it cannot listen, and nothing of what helps.
            log.error("choose another --port (INSPECT_PORT) or --host (INSPECT_HOST), or end what listens there")
            raise
        # uvicorn takes sockets that it is given for those of a parent that has said so.
        if sockets:
            self._log_started_message(sockets)
        try:
            for listener in self._more:
                # uvicorn ends them with its own.
                self.servers.append(await listener.listen(self))  # type: ignore[arg-type]
        except OSError as error:
            # As uvicorn does where its port is taken.
            log.error("%s", error)
            await self.lifespan.shutdown()
            sys.exit(_START_FAILED)

    def _log_started_message(self, listeners: Sequence[socket.SocketType]) -> None:
        # The protocol speaks TLS, of which uvicorn knows nothing: it would print an address that is not there.
        self.config.ssl = self._tls
        super()._log_started_message(listeners)

    def _end_at_last(self) -> None:
        """End the process where something in it does not: a run that never comes back, a disk that takes nothing."""
        time.sleep(self._grace_s + (self.config.timeout_graceful_shutdown or 0) + LEAVE_S)
        log.error("the service does not end by itself: it is ended")
        time.sleep(_LAST_LINE_S)
        os._exit(1)

    def _exit_later(self, sig: int, frame: FrameType | None) -> None:
        log.info("draining: /readyz says so, images are still taken for %g s", self._grace_s)
        time.sleep(self._grace_s)
        super().handle_exit(sig, frame)
