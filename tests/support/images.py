"""The container images and the compose files, as the tests read them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = DOCKER / "compose.yaml"
# nginx speaks TLS in front, a UNIX socket is for one machine, images have no gRPC, the banner is for terminals.
NOT_IN_CONTAINERS = {"tls_cert", "tls_key", "tls_client_ca", "unix_socket", "grpc_port", "banner"}


def environment_name(field: str) -> str:
    return f"INSPECT_{field.upper()}"


def image_environment() -> dict[str, str]:
    """What the service's image sets."""
    words = [word for line in (DOCKER / "Dockerfile").read_text().splitlines() for word in line.split()]
    return dict(word.split("=", 1) for word in words if word.startswith("INSPECT_"))


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def merged(*files: Path) -> Any:
    named = [part for file in files for part in ("--file", file)]
    return yaml.safe_load(run(tool("docker-compose"), *named, "--profile", "*", "config"))
