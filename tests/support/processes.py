"""The service as a process of its own."""

from __future__ import annotations

import os
import re
import resource
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
from fakes import wait_for


@contextmanager
def running_service(
    models: Path, log: Path, *, verify: ssl.SSLContext | bool = True, files: int | None = None, **settings: object
) -> Iterator[tuple[subprocess.Popen[bytes], httpx2.Client]]:
    """`python -m service` on a free port, ready, with at most so many open `files`; killed by pid if the test did not
    end it.
    """
    environment = {**os.environ, **{f"INSPECT_{name.upper()}": str(value) for name, value in settings.items()}}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "service", "--port", "0", "--models-dir", str(models)),
                *("--records-dir", str(log.parent / "records")),
            ],
            env=environment,
            stderr=stream,
            preexec_fn=None if files is None else partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files)),
        )
    try:
        with httpx2.Client(base_url=_url(process, log), timeout=300, verify=verify) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200)
            yield process, client
    finally:
        process.kill()
        process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    def found() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r"running on (https?)://127\.0\.0\.1:(\d+)", log.read_text())

    scheme, port = wait_for(found).groups()
    # Certificates are of names.
    return f"{scheme}://{'localhost' if scheme == 'https' else '127.0.0.1'}:{port}"
