"""`python -m service`: serve (one uvicorn worker; scale by replicas), or make an API key with `new-key`."""

from __future__ import annotations

import logging
import ssl
import sys
from typing import get_args

import uvicorn
from pydantic_settings import CliApp

from service.access import KeyFileError, Role, new_key
from service.app import create_app
from service.settings import Settings


def main() -> int:
    if sys.argv[1:2] == ["new-key"]:
        return _print_key(sys.argv[2:])
    settings = CliApp.run(Settings)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        app = create_app(settings)
    except (KeyFileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        server_header=False,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=None if settings.tls_client_ca is None else str(settings.tls_client_ca),
        ssl_cert_reqs=ssl.CERT_NONE if settings.tls_client_ca is None else ssl.CERT_REQUIRED,
    )
    return 0


def _print_key(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in get_args(Role):
        print(f"usage: python -m service new-key {'|'.join(get_args(Role))} NAME", file=sys.stderr)
        return 2
    role: Role = "admin" if arguments[0] == "admin" else "inspect"
    key, line = new_key(role, arguments[1])
    print(f"key, shown once: {key}\nline for INSPECT_API_KEYS_FILE: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
