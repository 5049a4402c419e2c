"""Ports for what is told where to listen before it runs."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress

# Below those that Linux by default hands out by itself: nothing gets one of these between here and its use.
_FIRST, _AFTER = 12_000, 32_000


def free_port() -> int:
    while True:
        port = _FIRST + secrets.randbelow(_AFTER - _FIRST)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
