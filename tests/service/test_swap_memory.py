"""Changes of version leave no memory behind."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from processes import running_service

SWAPS = 20


def _resident(process: int) -> int:
    """MiB that a process has, once it has given back what it can: that takes it some seconds."""
    found = -1
    while found != (found := int(Path(f"/proc/{process}/statm").read_text().split()[1]) >> 8):
        time.sleep(12)
    return found


@pytest.mark.slow
def test_swaps_under_load_leave_no_memory_behind(demo: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for version in ("1", "2"):
        copied = models / "demo" / version
        shutil.copytree(demo, copied)
        manifest = json.loads((copied / "manifest.json").read_text())
        (copied / "manifest.json").write_text(json.dumps(manifest | {"version": version}))
    picture = (demo / "golden/0.png").read_bytes()
    replies: list[int] = []
    with running_service(models, tmp_path / "log", backend="ort-cpu") as (process, client):

        def inspect() -> None:
            reply = client.post("/inspect?recipe=demo", content=picture, headers={"Content-Type": "image/png"})
            replies.append(reply.status_code)

        def swap(version: int) -> None:
            reply = client.post("/recipes/demo/activate", params={"version": str(version)})
            assert reply.status_code == 200, reply.text

        # What is made but once is made.
        for version in (2, 1):
            swap(version)
            for _ in range(5):
                inspect()
        before = _resident(process.pid)
        swapping = threading.Event()
        swapping.set()

        def load() -> None:
            while swapping.is_set():
                inspect()

        camera = threading.Thread(target=load)
        camera.start()
        for number in range(SWAPS):
            swap(1 + (number + 1) % 2)
        swapping.clear()
        camera.join()
        assert _resident(process.pid) <= 1.1 * before
    assert set(replies) == {200}
