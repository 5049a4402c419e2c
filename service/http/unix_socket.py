"""A UNIX socket for cameras on the same machine: no network in between, and who may connect is a matter of the file.

It speaks plain HTTP, also where TCP speaks HTTPS, and has the same doors. Nobody on it counts as an administrator
without a key: what connects may be a proxy that brings requests from anywhere.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

# Owner and group connect, others do not.
_MODE = 0o660
_CHOOSE = "choose another INSPECT_UNIX_SOCKET"


class UnixSocketError(Exception):
    """The UNIX socket cannot be listened on; the message names it and the remedy."""


class UnixSocket:
    """A socket bound to `path`, and its file, which goes with it. Raises UnixSocketError.

    What a service left there that was killed is replaced; a socket on which somebody listens, and any other file, is
    not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(path)
            # What the mode forbids must not be possible for a moment either.
            before = os.umask(0o777 & ~_MODE)
            try:
                self.listener.bind(str(path))
            finally:
                os.umask(before)
            self._file = _identity(path)
        except OSError as error:
            self.listener.close()
            raise UnixSocketError(
                f"{path}: no UNIX socket can be made here: {error}; the folder must exist and be writable, and the "
                f"path have at most 107 bytes: {_CHOOSE}"
            ) from error
        except UnixSocketError:
            self.listener.close()
            raise

    def remove(self) -> None:
        """Take the file away, unless another service has put its own there."""
        with suppress(OSError):
            if _identity(self.path) == self._file:
                self.path.unlink()


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UnixSocketError(f"{path} is there and no socket: {_CHOOSE}, or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        # As where its queue is full: somebody listens.
        except TimeoutError:
            raise UnixSocketError(f"{path}: another service listens here: {_CHOOSE}, or end that one") from None
        else:
            raise UnixSocketError(f"{path}: another service listens here: {_CHOOSE}, or end that one")


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
