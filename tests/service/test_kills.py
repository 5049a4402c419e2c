"""A station that is killed at any moment: what was answered as stored is there, and the chain holds.

KILLS=50 pytest tests/service/test_kills.py kills it fifty times.
"""

import asyncio
import os
import random
import signal
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from bundles import gray, png
from processes import running_service

from service.station.reader import IMAGES, Reader
from service.station.verifying import verify

BAD = png(gray(204))
KILLS = int(os.environ.get("KILLS", "2"))


async def _work(url: str, stored: set[str]) -> None:
    """Cameras that send parts, and people who review them, until the station is gone; `stored`: reviews answered."""
    headers = {"Content-Type": "image/png"}

    async def line(number: int) -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=300) as client:
            while True:
                name = (await client.post("/inspect", content=BAD, headers=headers)).json()["inspection_id"]
                while (await client.get(f"/inspections/{name}")).status_code != 200:
                    await asyncio.sleep(0.005)
                said = {"verdict": "defect", "note": f"line {number}"}
                answer = await client.post(f"/inspections/{name}/reviews", json=said)
                if answer.status_code == 201:
                    stored.add(answer.json()["review_id"])

    await asyncio.gather(*(line(number) for number in range(4)), return_exceptions=True)


@pytest.mark.slow
def test_killed_again_and_again_nothing_that_was_stored_is_lost(models: Path, tmp_path: Path) -> None:
    rng = random.Random(0)  # noqa: S311
    stored, records = set[str](), tmp_path / "records"
    for kill in range(KILLS):
        with running_service(models, tmp_path / f"log{kill}") as (process, client):
            enough, pause = len(stored) + rng.randint(1, 8), rng.uniform(0.0, 0.1)

            async def under_load(
                url: str = str(client.base_url), enough: int = enough, pause: float = pause, pid: int = process.pid
            ) -> None:
                working = asyncio.create_task(_work(url, stored))
                while len(stored) < enough:
                    await asyncio.sleep(0.005)
                await asyncio.sleep(pause)
                os.kill(pid, signal.SIGKILL)
                await working

            asyncio.run(under_load())
            process.wait()
        with closing(Reader(records)) as reader:
            found = reader.ask(lambda connection: verify(connection, records / IMAGES))
            kept = {row[0] for row in reader.ask(lambda c: c.execute("SELECT review_id FROM reviews").fetchall())}
            integrity = reader.ask(lambda c: c.execute("PRAGMA integrity_check").fetchone())
        assert found.problems == [], kill
        assert stored <= kept, kill
        assert integrity == ("ok",), kill
    assert len(stored) >= KILLS
