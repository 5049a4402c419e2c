"""A million records: what a search takes, and whether pruning delays those who write.

PYTHONPATH=. python tests/support/measure_records.py [ROWS]
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

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
from service.station.search import Search
from service.station.tallies import Selection, grouped, scores
from service.station.verdicts import Verdict

ROWS = 1_000_000
DAYS = 100
OK, NG, REVIEW = Verdict.OK, Verdict.NG, Verdict.REVIEW
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
    # Long ago the light failed now and then.
    verdict = "NOT_INSPECTED" if number < rows // 50 and number % 5 == 0 else VERDICTS[number % 100]
    recipe = number % 3
    reply = {
        "inspection_id": f"{number:08x}-3f0a-4f0e-9a55-0d2f2a6c9a11",
        "part_id": f"SN-{number:07d}",
        # Each camera sees one recipe.
        "camera_id": f"cam {number % 6}",
        "recipe": f"part {recipe}",
        "version": "2" if recipe == 1 and number > rows // 2 else "1",
        "verdict": verdict,
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
        # No part of nest 1 is of mould 2.
        metadata={"order": str(number // 2000), "nest": str(number % 2), "mould": str(number % 4)},
        brightness=100.0,
        sharpness=50.0,
        open=verdict != "OK",
    )


def asked(rows: int, now: float) -> dict[str, list[dict[str, Any]]]:
    """What one may ask for, by filter: few parts and many, new and old ones, and some that never come together."""
    day, middle = 86_400, rows // 2
    return {
        "part": [{"part_id": f"SN-{middle:07d}"}, {"part_id": f"SN-{middle:07d}"[:-2] + "*"}, {"part_id": "SN-00*"}],
        "lot": [{"lot": f"L-{middle // 500}"}, {"lot": "L-3*"}],
        "names": [{"metadata": {"order": str(middle // 2000)}}, {"metadata": {"nest": "1"}}],
        "camera": [{"camera": "cam 2"}, {"camera": "none"}],
        "recipe": [{"recipe": "part 1"}, {"recipe": "part 2"}],
        "version": [{"version": "1"}, {"version": "2"}],
        "verdict": [{"verdicts": one} for one in ((NG,), (OK,), (Verdict.NOT_INSPECTED,), (NG, REVIEW))],
        "waits": [{"open": True}, {"open": False}],
        "reviewed": [{"reviewed": True}, {"reviewed": False}],
        "time": [
            {"after": now - 50 * day, "before": now - 49 * day},
            {"before": now - 80 * day},
            {"after": now - day},
        ],
    }


def searches(folder: Path, rows: int) -> list[tuple[float, Search]]:
    """Milliseconds of CPU time of each filter alone and of each two, the faster of two runs, slowest first; the first
    page of 50. SQLite waits for nothing here, and what else the machine does is not counted.
    """
    filters = asked(rows, time.time())
    chosen = list(filters.values())
    combined = [{}, *chain(*chosen)]
    for one, other in combinations(chosen, 2):
        combined += [first | second for first, second in product(one, other)]
    combined.append({"metadata": {"nest": "1", "mould": "2"}})
    reader = Reader(folder)
    found = []
    for fields in combined:
        search = Search(**fields)
        question = partial(reader.search, search, limit=50)
        found.append((min(_ms(question, time.process_time) for _ in range(2)), search))
    reader.close()
    return sorted(found, key=lambda one: -one[0])


def figures(folder: Path) -> dict[str, float]:
    """Milliseconds of CPU time of what Quality and Recipes ask for, the slowest of three."""
    reader, now = Reader(folder), time.time()
    day = Selection(None, None, None, now - 86_400, now)
    every = Selection("part 0", None, "1", 0.0, now)
    questions: dict[str, Callable[[], object]] = {
        "figures of a day, by hour": lambda: reader.ask(partial(grouped, selection=day, by="hour")),
        "100,000 scores for what-if": lambda: reader.ask(partial(scores, selection=every)),
    }
    found = {name: max(_ms(one, time.process_time) for _ in range(3)) for name, one in questions.items()}
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


def review(folder: Path, rows: int) -> None:
    """Say of all NG but the newest tenth that they were defects; written as reviews do it."""
    with closing(Database(folder / FILE).writer()) as connection, connection:
        connection.execute(
            "UPDATE inspections SET review = 'defect', open = NULL WHERE verdict = 'NG' AND rowid < ?", (0.9 * rows,)
        )


def show(folder: Path, rows: int) -> None:
    found = searches(folder, rows)
    taken = [ms for ms, _ in found]
    print(f"{len(found)} searches: median {np.median(taken):.1f}, p99 {np.percentile(taken, 99):.1f} ms; the slowest:")
    for ms, search in found[:8]:
        given = {name: value for name, value in vars(search).items() if value not in (None, (), {})}
        print(f"| {ms:.1f} ms | {given} |", flush=True)
    for name, ms in figures(folder).items():
        print(f"| {name} | {ms:.1f} ms |", flush=True)


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "records"
        print(f"{rows:,} records written in {fill(folder, rows):.0f} s")
        review(folder, rows)
        print(f"{(folder / FILE).stat().st_size / 1e6:.0f} MB")
        show(folder, rows)
        alone, beside, deleted = pruning(folder, rows)
        for name, taken_ms in (("alone", alone), (f"while {deleted:,} are deleted", beside)):
            p50, p99 = np.percentile(taken_ms, (50, 99))
            print(f"| a reply's record, {name} | p50 {p50:.3f}, p99 {p99:.3f}, longest {max(taken_ms):.3f} ms |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
