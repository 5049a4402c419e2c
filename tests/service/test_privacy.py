"""A station tells nobody anything: no name is looked up, no connection leaves the machine, no id is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from network import calls_outside

_SERVICE = """
import sys, time
from pathlib import Path
from fastapi.testclient import TestClient
from service.app import create_app
from service.settings import Settings

models, work = map(Path, sys.argv[1:])
settings = Settings(models_dir=models, records_dir=work / "records", cache_dir=work / "cache")
with TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
    while client.get("/readyz").json()["reason"] == "recipes are being loaded and checked":
        time.sleep(0.05)
    image = (models / "demo/1/golden/0.png").read_bytes()
    reply = client.post("/inspect?recipe=demo", content=image, headers={"Content-Type": "image/png"})
    assert reply.json()["verdict"] != "NOT_INSPECTED", reply.text
"""
_TRAINING = """
import importlib, pkgutil, sys
from pathlib import Path
import training

for module in pkgutil.walk_packages(training.__path__, "training."):
    # anomalib has a place of its own.
    if module.name not in {"training.benchmarks.anomalib", "training.__main__"}:
        importlib.import_module(module.name)

from torch.utils.tensorboard import SummaryWriter
from service.bundle.folder import read_bundle
from service.backends.golden import golden_images
from training.bundling.quantize import runner

models, work = map(Path, sys.argv[1:])
with SummaryWriter(work / "curves") as curves:
    curves.add_scalar("loss", 1.0, 1)
bundle = read_bundle(models / "demo/1")
runner(bundle.file("model.onnx").read_bytes())(golden_images(bundle)[0])
"""


def test_the_service_asks_nobody_and_keeps_no_id(demo: Path, tmp_path: Path) -> None:
    # Which of the runtimes is faster is measured first: both run.
    assert calls_outside(_SERVICE, tmp_path, str(demo.parents[1]), str(tmp_path)) == []
    assert list((tmp_path / "home").iterdir()) == []


def test_training_asks_nobody_and_keeps_no_id(demo: Path, tmp_path: Path) -> None:
    assert calls_outside(_TRAINING, tmp_path, str(demo.parents[1]), str(tmp_path)) == []
    # Other packages have caches there.
    assert not [path for path in (tmp_path / "home").rglob("*") if path.name in {"intel", "Microsoft"}]


@pytest.mark.parametrize(
    ("call", "seen"),
    [
        ("try: socket.getaddrinfo('station.invalid', 80)\nexcept OSError: pass", ":53"),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 443))", "192.0.2.1:443"),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 8000))", None),
    ],
)
def test_the_watch_sees_what_leaves_the_machine(tmp_path: Path, call: str, seen: str | None) -> None:
    found = calls_outside(f"import socket\n{call}", tmp_path)
    assert all(seen is not None and one.endswith(seen) for one in found)
    assert bool(found) == (seen is not None)


@pytest.mark.parametrize("package", ["service.settings", "service.backends.ort", "training.bundling.quantize"])
def test_whatever_part_comes_first_the_runtimes_are_told(package: str) -> None:
    code = f"import {package}, os, sys; print(os.environ['ORT_DISABLE_TELEMETRY'], sys.modules['openvino_telemetry'])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "1 None\n"
