"""`python -m service.healthcheck`: exit 0 where the service of this container is alive. Standard library alone.

It asks the service itself, whatever proxy the environment names, and follows the variables of the settings: address,
port, HTTPS. The certificate is not checked: it is for the names that clients use. Where clients need a certificate of
their own, a handshake is the sign of life.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys

_TIMEOUT_S = 2.0
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (listened to, not bound here)


def main() -> int:
    host = os.environ.get("INSPECT_HOST", "")
    port = os.environ.get("INSPECT_PORT", "")
    # Kubernetes sets INSPECT_PORT=tcp://10.0.0.1:8000 where a service is called `inspect`: that is not the setting.
    port = port if port.isdigit() else "8000"
    address = (_ANY.get(host, host), int(port))
    tls = bool(os.environ.get("INSPECT_TLS_CERT"))
    where = f"port {port}"
    try:
        if host == "none":
            where = os.environ.get("INSPECT_UNIX_SOCKET", "")
            status = _ask_for_life(_UnixConnection(where))
            said, alive = f"HTTP {status}", status == http.client.OK
        elif tls and os.environ.get("INSPECT_TLS_CLIENT_CA"):
            said, alive = "it asks for a certificate", _shakes_hands(address)
        else:
            status = _ask(address, tls=tls)
            said, alive = f"HTTP {status}", status == http.client.OK
    except (OSError, http.client.HTTPException) as error:
        said, alive = f"no answer from {where}: {error}", False
    sys.stdout.write(f"{said}\n")
    return 0 if alive else 1


def _shakes_hands(address: tuple[str, int]) -> bool:
    with socket.create_connection(address, timeout=_TIMEOUT_S) as plain:
        try:
            # Ends before the service can refuse it, with TLS 1.3; with 1.2 in the refusal.
            _context().wrap_socket(plain).close()
        except ssl.SSLError as error:
            return "ALERT" in str(error.reason)
    return True


def _ask(address: tuple[str, int], *, tls: bool) -> int:
    host, port = address
    connection = (
        http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=_context())
        if tls
        else http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    )
    return _ask_for_life(connection)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


def _ask_for_life(connection: http.client.HTTPConnection) -> int:
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status
    finally:
        connection.close()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


if __name__ == "__main__":
    sys.exit(main())
