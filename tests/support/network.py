"""What a process asks of the network, as the kernel sees it: libraries in C ask nobody in Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_CALLS = "connect,sendto,sendmsg,sendmmsg"
_ADDRESS = re.compile(r'htons\((?P<port>\d+)\).*?(?:inet_addr\("|inet_pton\(AF_INET6, ")(?P<host>[0-9a-f.:]+)"')
_LOOPBACK = re.compile(r"127\.|::1$|::ffff:127\.")
_LOOK_UP = "53"


def calls_outside(code: str, folder: Path, *arguments: str) -> list[str]:
    """The addresses that a Python program looks up or connects to, other than this machine's own.

    It runs as a fresh user would run it: `folder / "home"` is its home, and nothing tells it that it is being tested. A
    name that is looked up counts wherever the resolver is. Skips where strace is missing or may not trace.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: apt-get install strace")
    if subprocess.run([strace, "-o", os.devnull, sys.executable, "-c", ""], capture_output=True).returncode != 0:
        pytest.skip("strace may not trace processes here")
    trace, home = folder / "trace", folder / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [
            strace,
            "-f",
            "--seccomp-bpf",
            "-e",
            f"trace={_CALLS}",
            "-o",
            str(trace),
            sys.executable,
            "-c",
            code,
            *arguments,
        ],
        env=environment,
        check=True,
        capture_output=True,
    )
    addresses = [found for line in trace.read_text().splitlines() if (found := _ADDRESS.search(line))]
    return [
        f"{found['host']}:{found['port']}"
        for found in addresses
        if found["port"] == _LOOK_UP or not _LOOPBACK.match(found["host"])
    ]
