"""What an image costs two checkouts of this repository: CPU time of the service by thread, in turns.

    PYTHONPATH=. python tests/support/measure_cost.py BEFORE AFTER --model-ms 0.3 --pairs 12 --images 80

Each serves 256x256 JPEGs with a stand-in network, 8 requests under way, records and log on; the first images warm both
up. Figures are medians of milliseconds an image, `ratio` the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
from fakes import wait_for

from service.client.bare import BareClient
from service.images.decoding import encode
from training.benchmarks.stand_in import RECIPE, write_stand_in

UNDER_WAY, WARM_UP = 8, 200
DEADLINE_MS = 60_000
# Before 3.14 Python keeps the names of its threads to itself; PR_SET_NAME is 15.
NAMED = """
import ctypes, runpy, threading
begin = threading.Thread._bootstrap_inner
def named(thread):
    ctypes.CDLL(None).prctl(15, thread.name.encode()[:15], 0, 0, 0)
    begin(thread)
threading.Thread._bootstrap_inner = named
runpy.run_module("service", run_name="__main__", alter_sys=True)
"""


class Served:
    """The service of one checkout, and a client of it."""

    def __init__(self, checkout: Path, models: Path, folder: Path, flags: list[str]) -> None:
        log = folder / "log"
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", NAMED, "--port", "0", "--models-dir", str(models), "--drain-grace-s", "0"),
                    *("--default-recipe", RECIPE, "--records-dir", str(folder / "records"), *flags),
                ],
                cwd=checkout,
                stderr=stream,
            )
        address = wait_for(lambda: re.search(r"running on (http://\S+)", log.read_text()))
        self.client = BareClient(address[1])

    async def inspect(self, images: list[bytes], count: int) -> float:
        """Seconds that so many images take."""
        left, began = iter(range(count)), time.perf_counter()

        async def one_after_another() -> None:
            for number in left:
                await self.client.inspect(images[number % len(images)], deadline_ms=DEADLINE_MS)

        await asyncio.gather(*(one_after_another() for _ in range(UNDER_WAY)))
        return time.perf_counter() - began

    def cpu_ms(self) -> dict[str, float]:
        """CPU time by the name of the threads, without their numbers."""
        found: defaultdict[str, float] = defaultdict(float)
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            name = re.sub(r"[ _-]?\d+$", "", (thread / "comm").read_text().strip())
            found[name] += int((thread / "schedstat").read_text().split()[0]) / 1e6
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


async def measure(both: list[Served], images: list[bytes], pairs: int, count: int) -> None:
    for one in both:
        while (await one.client.inspect(images[0])).status != 200:
            await asyncio.sleep(0.1)
        await one.inspect(images, WARM_UP)
    found: list[list[dict[str, float]]] = [[], []]
    for pair in range(pairs):
        for number in (0, 1) if pair % 2 else (1, 0):
            before = both[number].cpu_ms()
            seconds = await both[number].inspect(images, count)
            after = both[number].cpu_ms()
            spent = {name: (after[name] - before.get(name, 0.0)) / count for name in after}
            found[number].append(spent | {"all": sum(spent.values()), "passed": 1000 * seconds / count})
    for name in found[0][-1]:
        first, second = ([row.get(name, 0.0) for row in rows] for rows in found)
        ratio = median(b / a if a else 1.0 for a, b in zip(first, second, strict=True))
        print(f"{name:16} {median(first):8.3f} {median(second):8.3f}   ratio {ratio:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs=2, type=Path)
    parser.add_argument("--model-ms", type=float, default=0.3)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--images", type=int, default=80)
    asked, flags = parser.parse_known_args()
    rng = np.random.default_rng(0)
    images = [encode(np.clip(rng.normal(60, 8, (256, 256, 3)), 0, 120).astype(np.uint8), ".jpg") for _ in range(16)]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ending:
        write_stand_in(Path(folder) / "models", asked.model_ms, 2)
        both = []
        for number, checkout in enumerate(asked.checkouts):
            own = Path(folder) / str(number)
            own.mkdir()
            both.append(Served(checkout.resolve(), Path(folder) / "models", own, flags))
            ending.callback(both[-1].end)
        asyncio.run(measure(both, images, asked.pairs, asked.images))


if __name__ == "__main__":
    main()
