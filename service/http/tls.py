"""TLS in front of the protocol: files that cannot serve are refused at the start, handshakes are counted and timed."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from service.http.doors import Doors
from service.http.protocol import Connection
from service.settings import Settings

log = logging.getLogger("draem_inspect")

# Seconds of a handshake; asyncio's own bound is a minute, for any number of them.
_HANDSHAKE_S = 10.0


class TlsFileError(Exception):
    """HTTPS cannot be served as it was asked for; the message names the file or the setting, and the remedy."""


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """None for HTTP; raises TlsFileError where a part of what HTTPS needs is missing or damaged."""
    certificate, key, authority = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if certificate is None and key is None:
        if authority is not None:
            raise TlsFileError(
                "INSPECT_TLS_CLIENT_CA asks for clients' certificates, which plain HTTP has none of: set "
                "INSPECT_TLS_CERT and INSPECT_TLS_KEY too"
            )
        return None
    if certificate is None or key is None:
        missing = "INSPECT_TLS_CERT" if certificate is None else "INSPECT_TLS_KEY"
        raise TlsFileError(f"HTTPS needs a certificate and its key: set {missing} too")
    _require_private(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty password and not the question for one, which nobody would answer.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise TlsFileError(
            f"{certificate} with {key}: not a PEM certificate and its unencrypted private key: {error}"
        ) from error
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except (OSError, ValueError) as error:
            raise TlsFileError(f"{authority}: not a PEM file of authorities: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _require_private(key: Path) -> None:
    try:
        mode = key.stat().st_mode
    except OSError as error:
        raise TlsFileError(f"{key}: the private key cannot be read: {error}") from error
    if mode & stat.S_IWOTH:
        raise TlsFileError(f"{key}: everybody may write the private key: chmod go-rwx {key}")
    if mode & stat.S_IROTH:
        log.warning("%s: everybody on this machine may read the private key: chmod go-rwx it", key)


def protocol_factory(doors: Doors, context: ssl.SSLContext | None) -> Callable[..., asyncio.Protocol]:
    """What uvicorn makes of each connection: HTTP, or a handshake and then HTTP."""
    if context is None:
        return partial(Connection, doors)

    def handshake(**of_server: Any) -> Handshake:
        return Handshake(doors, context, partial(Connection, doors, **of_server))

    return handshake


class Handshake(asyncio.Protocol):
    """A connection until it is encrypted; then `connect` makes the protocol that speaks on it."""

    state: Literal["new"] = "new"

    def __init__(self, doors: Doors, context: ssl.SSLContext, connect: Callable[..., asyncio.Protocol]) -> None:
        self._doors = doors
        self._context = context
        self._connect = connect
        self._task: asyncio.Task[None] | None = None
        self.address = ""
        self.since = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        # uvloop reads from a transport before start_tls could take it over: the socket gets another one.
        accepted = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        transport.close()
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(accepted))
        self._doors.enter(self)

    def look(self, now: float) -> None:
        """asyncio itself ends a handshake that takes too long."""

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _shake_hands(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                *(partial(self._connect, handshake=self), accepted),
                ssl=self._context,
                ssl_handshake_timeout=_HANDSHAKE_S,
            )
        # Who does not get through has been told by TLS itself.
        except OSError:
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise
        finally:
            self._doors.leave(self)
