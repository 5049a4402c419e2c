"""BentoML with its defaults: one worker, methods in a pool of threads."""

import os
import subprocess
import sys
from pathlib import Path

import bentoml
from network import Network


@bentoml.service
class Peer:
    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api(route="/inspect")
    def inspect(self, image: Path) -> dict[str, float]:
        return {"score": self.network.score(image.read_bytes())}


if __name__ == "__main__":
    serve = [sys.executable, "-m", "bentoml", "serve", "bentoml_service:Peer", "--port", os.environ["PEER_PORT"]]
    raise SystemExit(subprocess.run(serve, cwd=Path(__file__).parent, check=False).returncode)  # noqa: S603
