"""The server of one process: the app, the addresses that it listens at, and how it ends."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import uvicorn

from service.app import create_app
from service.http.access import KeyFileError
from service.http.doors import Doors, most_connections
from service.http.draining import DrainingServer, Listener, Local
from service.http.protocol import SILENT_S, Connection
from service.http.tls import TlsFileError, protocol_factory, tls_context
from service.http.unix_socket import UnixSocket, UnixSocketError
from service.settings import NO_HOST, Settings
from service.station.database import RecordsError
from service.station.monitoring import Metrics

# What ends a start with one line: a setting, a file or an address that cannot be used.
UNUSABLE = (KeyFileError, TlsFileError, UnixSocketError, RecordsError, OSError, ValueError)


@dataclass(frozen=True)
class Serving:
    server: DrainingServer
    metrics: Metrics
    sockets: list[socket.socket] | None
    unix: UnixSocket | None

    def run(self) -> int:
        """Serve until a signal; returns the exit status."""
        try:
            with suppress(KeyboardInterrupt):
                self.server.run(self.sockets)
        finally:
            if self.unix is not None:
                self.unix.remove()
        # What uvicorn.run does where the address is taken or the lifespan failed: its log has said why.
        return 0 if self.server.started else 3


def prepare(settings: Settings) -> Serving:
    """Everything but the first request; raises one of UNUSABLE."""
    context = tls_context(settings)
    app = create_app(settings)
    sockets = _sockets(settings)
    metrics: Metrics = app.state.metrics
    doors = Doors(most_connections(), lambda code: metrics.errors.labels(code).inc(), metrics.connections_evicted.inc)
    rpc = _grpc(settings, doors)
    unix = None if settings.unix_socket is None else UnixSocket(settings.unix_socket)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol_factory(doors, context),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=SILENT_S,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        server_header=False,
        # Whom a proxy forwards is nothing that anybody here may claim: see service.http.access.
        proxy_headers=False,
    )
    listeners: list[Listener] = [] if unix is None else [Local(unix, partial(Connection, doors))]
    listeners += rpc
    server = DrainingServer(config, app.state.drain, settings.drain_grace_s, context, listeners)
    return Serving(server, metrics, sockets, unix)


def _sockets(settings: Settings) -> list[socket.socket] | None:
    """For `::` a socket that takes IPv4 too, which asyncio's does not; None: uvicorn makes its own."""
    if settings.host == NO_HOST:
        if settings.unix_socket is None:
            raise ValueError("INSPECT_HOST none listens on no TCP port: set INSPECT_UNIX_SOCKET, or an address")
        return []
    if settings.host != "::":
        return None
    try:
        return [socket.create_server(("::", settings.port), family=socket.AF_INET6, dualstack_ipv6=True)]
    except OSError as error:
        raise ValueError(
            f"port {settings.port} of :: cannot be listened on ({error.strerror}): choose another --port "
            "(INSPECT_PORT) or --host (INSPECT_HOST), or end what listens there"
        ) from error


def _grpc(settings: Settings, doors: Doors) -> list[Listener]:
    """Raises ValueError where the extra is not installed, or there is no address to listen at."""
    if not settings.grpc_port:
        return []
    if settings.host == NO_HOST:
        raise ValueError("INSPECT_GRPC_PORT needs an address: INSPECT_HOST none listens on no TCP port")
    try:
        # Only needed where it is asked for.
        from service.http.grpc_server import Grpc, credentials
    except ImportError as error:
        raise ValueError(
            f"INSPECT_GRPC_PORT needs an extra: in the checkout, pip install '.[grpc]' ({error})"
        ) from error
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return [
        Grpc(
            f"{host}:{settings.grpc_port}",
            credentials(settings),
            doors,
            most_bytes=settings.max_upload_bytes,
            grace_s=settings.drain_timeout_s,
        )
    ]
