"""`python -m service`: one uvicorn worker; scale by replicas, one process a device."""

from __future__ import annotations

import logging

import uvicorn
from pydantic_settings import CliApp

from service.app import create_app
from service.settings import Settings


def main() -> None:
    settings = CliApp.run(Settings)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        server_header=False,
    )


if __name__ == "__main__":
    main()
