"""The live screen at 30 parts a second: memory of browser and service, and what a feed costs a verdict.

PYTHONPATH=. python tests/support/measure_live.py [SECONDS]
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import httpx2
import numpy as np
from browser import browser, opened
from bundles import gray, make_bundle, png
from playwright.sync_api import CDPSession, expect
from processes import running_service

from service.client import AsyncClient
from service.client.load import Qualification, qualify

RATE_HZ, DEADLINE_MS = 30.0, 500.0
SECONDS = 600
# As on a line: few are not good.
IMAGES = [png(gray(value)) for value in [51] * 27 + [110, 200, 200]]
SCREEN = (1920, 1080)
PAIRS, PARTS = 12, 30


def line(address: str, seconds: float) -> Qualification:
    async def send() -> Qualification:
        async with AsyncClient(address) as client:
            return await qualify(client, IMAGES, rate_hz=RATE_HZ, deadline_ms=DEADLINE_MS, seconds=seconds)

    return asyncio.run(send())


def resident_mib(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / (1 << 20)


def renderers(browser_session: CDPSession) -> list[int]:
    """Processes of this browser that run a page."""
    found = browser_session.send("SystemInfo.getProcessInfo")["processInfo"]
    return [one["id"] for one in found if one["type"] == "renderer"]


def in_page(session: CDPSession) -> dict[str, float]:
    """What the page holds, after a collection of its garbage."""
    session.send("HeapProfiler.collectGarbage")
    counters = session.send("Memory.getDOMCounters")
    heap = session.send("Runtime.getHeapUsage")["usedSize"] / (1 << 20)
    return {"heap, MiB": heap, "DOM nodes": counters["nodes"], "listeners": counters["jsEventListeners"]}


def soak(folder: Path, seconds: float) -> None:
    with (
        running_service(folder / "models", folder / "log", backend="ort-cpu") as (process, client),
        browser() as chromium,
        opened(chromium, f"{client.base_url}/", size=SCREEN) as page,
        ThreadPoolExecutor(1) as thread,
    ):
        session, processes = page.context.new_cdp_session(page), chromium.new_browser_cdp_session()
        expect(page.locator("#link")).to_have_class("ready")
        sending = thread.submit(line, str(client.base_url), seconds)
        started = time.monotonic()
        print("| after | service, MiB | page's process, MiB | heap, MiB | DOM nodes | listeners | last part |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for step in range(11):
            page.wait_for_timeout(1000 * max(0.0, started + max(5.0, step * seconds / 10) - time.monotonic()))
            figures = [
                resident_mib(process.pid),
                sum(map(resident_mib, renderers(processes))),
                *in_page(session).values(),
            ]
            age = page.locator("#live-name small").inner_text().split(" · ")
            shown = next((one for one in age if "ago" in one), "none")
            print(
                f"| {time.monotonic() - started:.0f} s | {' | '.join(f'{one:.1f}' for one in figures)} | {shown} |",
                flush=True,
            )
        print(sending.result())


def look(address: str, count: int) -> None:
    """So many pages that read the feed until their process is ended."""

    async def one(client: httpx2.AsyncClient) -> None:
        async with client.stream("GET", "/events") as reply:
            async for _ in reply.aiter_raw():
                pass

    async def all_of_them() -> None:
        async with httpx2.AsyncClient(base_url=address, timeout=300) as client:
            await asyncio.gather(*(one(client) for _ in range(count)))

    asyncio.run(all_of_them())


@contextmanager
def lookers(address: str, count: int) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=look, args=(address, count))
    process.start()
    # Until it is there.
    time.sleep(3)
    try:
        yield
    finally:
        process.kill()
        process.join()


def feed_cost(folder: Path) -> None:
    """Milliseconds that 1 and 20 pages add to a verdict, as the camera sees it, against none, in turns."""
    with running_service(folder / "models", folder / "log", backend="ort-cpu") as (_, client):
        address = str(client.base_url)

        def batch() -> list[float]:
            taken = []
            for number in range(PARTS):
                started = time.perf_counter()
                client.post("/inspect", content=IMAGES[number], headers={"Content-Type": "image/png"})
                taken.append(1000 * (time.perf_counter() - started))
                time.sleep(1 / RATE_HZ)
            return taken

        batch()
        taken: dict[int, list[float]] = {0: [], 1: [], 20: []}
        differences: dict[int, list[float]] = {1: [], 20: []}
        for _ in range(PAIRS):
            of = {}
            for count in taken:
                with ExitStack() as stack:
                    if count:
                        stack.enter_context(lookers(address, count))
                    of[count] = batch()
                taken[count] += of[count]
            for count, listed in differences.items():
                listed.append(median(of[count]) - median(of[0]))
        for count, all_ms in taken.items():
            p50, p99 = np.percentile(all_ms, (50, 99))
            more = f", median of paired differences {median(differences[count]):+.2f} ms" if count else ""
            print(f"{count} pages: p50 {p50:.2f}, p99 {p99:.2f} ms of {len(all_ms)} parts{more}", flush=True)


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as place:
        for name in ("feed", "soak"):
            make_bundle(Path(place, name, "models"))
        feed_cost(Path(place, "feed"))
        soak(Path(place, "soak"), seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
