"""Changes of version leave no memory behind."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import gray, make_bundle, png
from processes import running_service


def _resident(process: int) -> int:
    """MiB that a process has."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) >> 8


def _settled(process: int, most: int) -> int:
    """MiB that a process has once they are `most`, or once it looked in vain for what it can give back: for half a
    minute after a change.
    """
    for _ in range(40):
        if _resident(process) <= most:
            break
        time.sleep(1)
    return _resident(process)


def _demo(models: Path, version: str, demo: Path) -> bytes:
    copied = models / "part" / version
    shutil.copytree(demo, copied)
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | {"recipe": "part", "version": version}))
    return (demo / "golden/0.png").read_bytes()


def _brightness(models: Path, version: str, _: Path) -> bytes:
    make_bundle(models, version=version, label=version)
    return png(gray(51))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "swaps"), [(_demo, 20), pytest.param(_brightness, 200, marks=pytest.mark.soak, id="200")]
)
def test_swaps_under_load_leave_no_memory_behind(
    recipe: Callable[[Path, str, Path], bytes], swaps: int, demo: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    picture, _ = (recipe(models, version, demo) for version in ("1", "2"))
    replies: list[int] = []
    with running_service(models, tmp_path / "log", backend="ort-cpu") as (process, client):

        def inspect() -> None:
            reply = client.post("/inspect", content=picture, headers={"Content-Type": "image/png"})
            replies.append(reply.status_code)

        def swap(version: int) -> None:
            reply = client.post("/recipes/part/activate", params={"version": str(version)})
            assert reply.status_code == 200, reply.text

        def swap_under_load(times: int) -> None:
            swapping = threading.Event()
            swapping.set()

            def load() -> None:
                while swapping.is_set():
                    inspect()

            camera = threading.Thread(target=load)
            camera.start()
            for number in range(times):
                swap(1 + (number + 1) % 2)
            swapping.clear()
            camera.join()

        # What is made but once is made, by the same.
        swap_under_load(4)
        time.sleep(6)
        before = _resident(process.pid)
        swap_under_load(swaps)
        most = int(1.1 * before)
        after = _settled(process.pid, most)
        sys.stdout.write(f"{swaps} swaps, {len(replies)} images: {before} MiB before, {after} MiB after\n")
        assert after <= most
    assert set(replies) == {200}
