"""A million records: what a search takes, and whether pruning delays those who write.

PYTHONPATH=. python tests/support/measure_records.py [ROWS]
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from service.station.calendar import Calendar
from service.station.chain import writing
from service.station.database import Database
from service.station.keeping import delete_old
from service.station.kept_images import KeptImages
from service.station.reader import FILE, IMAGES, Reader
from service.station.record import Record
from service.station.records import Records
from service.station.rows import write
from service.station.searching import Search
from service.station.tallies import Selection, grouped, scores
from service.station.verdicts import Verdict

ROWS = 1_000_000
DAYS = 100
VERDICTS = ["OK"] * 96 + ["REVIEW"] * 2 + ["NG"] * 2


def fill(folder: Path, rows: int) -> float:
    """Write so many records of the last 100 days; seconds that it took."""
    folder.mkdir()
    connection, calendar = Database(folder / FILE).writer(), Calendar()
    calendar.open(connection)
    rng, started, now = np.random.default_rng(0), time.perf_counter(), time.time()
    for first in range(0, rows, 5000):
        batch = [(_record(number, rows, now, rng), 0) for number in range(first, min(rows, first + 5000))]
        with writing(connection):
            write(connection, batch, calendar, key=None, again=False)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return time.perf_counter() - started


def _record(number: int, rows: int, now: float, rng: np.random.Generator) -> Record:
    reply = {
        "inspection_id": f"{number:08x}-3f0a-4f0e-9a55-0d2f2a6c9a11",
        "part_id": f"SN-{number:07d}",
        "camera_id": f"cam {number % 4}",
        "recipe": f"part {number % 3}",
        "version": "1",
        "verdict": VERDICTS[number % 100],
        "score": float(rng.beta(2.5, 70)),
        "regions": [],
        "timings_ms": {"total": 41.8},
    }
    when = now - (rows - number) / rows * DAYS * 86_400
    return Record(
        reply,
        when,
        None,
        None,
        lot_id=f"L-{number // 500}",
        metadata={"order": str(number // 2000)},
        brightness=100.0,
        sharpness=50.0,
        open=VERDICTS[number % 100] != "OK",
    )


def searches(folder: Path, rows: int) -> dict[str, float]:
    """Milliseconds of CPU time of each search, the slowest of five; the first page of 50. SQLite waits for nothing
    here, and what else the machine does is not counted.
    """
    cpu = time.process_time
    now, middle = time.time(), rows // 2
    asked = {
        "the newest": Search(),
        "part": Search(part_id=f"SN-{middle:07d}"),
        "part, by its beginning": Search(part_id=f"SN-{middle:07d}"[:-2] + "*"),
        "lot": Search(lot=f"L-{middle // 500}"),
        "the line's own name": Search(metadata={"order": str(middle // 2000)}),
        "camera and verdict": Search(camera="cam 2", verdicts=(Verdict.NG,)),
        "recipe, verdict and a day": Search(
            recipe="part 1", verdicts=(Verdict.REVIEW,), after=now - 50 * 86_400, before=now - 49 * 86_400
        ),
        "waiting for a review": Search(open=True),
        "nothing there": Search(part_id="none", camera="none"),
    }
    reader = Reader(folder)
    found = {
        name: max(_ms(partial(reader.search, search, limit=50), cpu) for _ in range(5))
        for name, search in asked.items()
    }
    day = Selection(None, None, None, now - 86_400, now)
    found["figures of a day, by hour"] = max(
        _ms(lambda: reader.ask(lambda one: grouped(one, day, "hour")), cpu) for _ in range(5)
    )
    every = Selection("part 1", None, "1", 0.0, now)
    found["100,000 scores for what-if"] = max(
        _ms(lambda: reader.ask(lambda one: scores(one, every)), cpu) for _ in range(3)
    )
    reader.close()
    return found


def _ms(question: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    question()
    return 1000 * (clock() - started)


def pruning(folder: Path, rows: int) -> tuple[list[float], list[float], int]:
    """Milliseconds that a reply's `add` takes, and until its record is there: while nothing else and while a tenth of
    the records is deleted.
    """
    records = Records(folder, image_budget_bytes=1 << 40)
    alone = _adds(records, "alone", 60)
    oldest = time.time() - 0.9 * DAYS * 86_400
    deleted = 0
    done = threading.Event()

    def prune() -> None:
        nonlocal deleted
        connection = Database(folder / FILE).writer()
        pictures = KeptImages(folder / IMAGES, 1 << 40)
        while number := delete_old(connection, pictures, {0: oldest}, None):
            deleted += number
            time.sleep(0.02)
        connection.close()
        done.set()

    thread = threading.Thread(target=prune, daemon=True)
    thread.start()
    beside: list[float] = []
    while not done.is_set():
        beside += _adds(records, f"beside {len(beside)}", 20)
    thread.join()
    records.close(600)
    return alone, beside, deleted


def _adds(records: Records, name: str, count: int) -> list[float]:
    taken = []
    for number in range(count):
        reply = {"inspection_id": f"{name} {number}", "recipe": "part 1", "verdict": "OK", "score": 0.1, "version": "1"}
        taken.append(_ms(partial(records.add, Record(reply, time.time(), None, None))))
        time.sleep(0.03)
    return taken


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "records"
        print(f"{rows:,} records written in {fill(folder, rows):.0f} s")
        print(f"{(folder / FILE).stat().st_size / 1e6:.0f} MB")
        for name, taken in searches(folder, rows).items():
            print(f"| {name} | {taken:.1f} ms |", flush=True)
        alone, beside, deleted = pruning(folder, rows)
        for name, taken_ms in (("alone", alone), (f"while {deleted:,} are deleted", beside)):
            p50, p99 = np.percentile(taken_ms, (50, 99))
            print(f"| a reply's record, {name} | p50 {p50:.3f}, p99 {p99:.3f}, longest {max(taken_ms):.3f} ms |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
