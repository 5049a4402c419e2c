"""What was inspected: one SQLite file (WAL) and the images beside it, kept for a time and under a disk budget.

Written by one thread from a queue that is bounded in records and in bytes, so that a slow or full disk never delays a
verdict; what could not be written is counted. Rows are committed before images are written, normally within
milliseconds of the reply, which does not wait for it: rows that follow closely share a commit. What is committed
survives kill -9 and a loss of power (`synchronous = FULL`).
"""

from __future__ import annotations

import json
import logging
import queue
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from service.images.decoding import encode
from service.images.heatmap import draw_map
from service.station.calendar import Calendar
from service.station.chain import change_of_secret, head, writing
from service.station.database import Database, RecordsError
from service.station.keeping import count_old, delete_old, keep_image
from service.station.kept_images import KeptImages
from service.station.record import Answer, Record
from service.station.reviews import Review, add_review
from service.station.rows import Reset, write
from service.station.search import Search
from service.station.searching import find, find_one

T = TypeVar("T")

log = logging.getLogger("draem_inspect")

_QUEUE_SIZE = 2000
_MAX_ROWS = 200
# Seconds from one commit to the next: rows that come meanwhile share it. On its own each would cost its request, on the
# same cores, several changes of threads.
_COMMIT_EVERY_S = 0.025
# Seconds between two looks for records that are too old, and between two batches of them.
_EXPIRE_EVERY_S, _EXPIRE_PAUSE_S = 600.0, 0.1
# Most records that one look deletes: more than any line makes meanwhile, and not all there are.
_EXPIRED_MOST = 100_000


class Records:
    """Store of records in `folder`, kept for `days` (0: for ever).

    Images take at most `image_budget_bytes` there, oldest go first, and `waiting_bytes` in memory before they are
    written. A commit that fails is tried again after each of the pauses `retry_s` (seconds), and after the last of them
    again for as long as the disk may come back and what waits has room.
    """

    def __init__(
        self,
        folder: Path,
        *,
        image_budget_bytes: int,
        days: int = 0,
        waiting_bytes: int = 256_000_000,
        retry_s: Sequence[float] = (0.2, 1.0, 5.0),
        commit_every_s: float = _COMMIT_EVERY_S,
        on_lost: Callable[[int], None] = lambda count: None,
        on_image_lost: Callable[[], None] = lambda: None,
        calendar: Calendar | None = None,
        key: bytes | None = None,
    ) -> None:
        self.folder = folder
        self._key = key
        self._file = folder / "inspections.sqlite"
        self._days = days
        self._calendar = calendar or Calendar()
        self._retry_s = retry_s
        self._commit_every_s = commit_every_s
        self._on_lost = on_lost
        self._on_image_lost = on_image_lost
        # Each with the era in which it came.
        self._queue: queue.Queue[tuple[Record | Reset, int] | None] = queue.Queue(_QUEUE_SIZE)
        self._lock = threading.Lock()
        self._room = waiting_bytes
        self._closing = threading.Event()
        self._waiting: deque[Record] = deque()  # of committed rows
        self._in_hand = 0  # records of the batch that is being committed
        self._written = 0  # commits and images that the disk took
        self._expired = 0  # rows, in the look that is under way
        self._failing: dict[str, str] = {}
        self._database = Database(self._file)
        self._pictures = KeptImages(folder / "images", image_budget_bytes)
        with suppress(RecordsError), self._database.reading() as connection:
            self._calendar.open(connection)
            if (change := change_of_secret(connection, key)) is not None:
                log.warning("%s: %s", self._file, change)
        self._open = self._count_open()
        if (trouble := self._database.claim.ask()) is not None:
            log.error(trouble)
        self._thread = threading.Thread(target=self._write_all, name="records", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Queue a record; never waits. One that finds the queue full is lost, an image that finds no room in memory
        is left out of its record; both are counted.
        """
        if not self._take_room(record.size):
            self._lose_image(record.inspection_id, "too many images wait for the disk")
            record = replace(record, image=None, anomaly_map=None)
        try:
            self._queue.put_nowait((record, self._calendar.stamp()))
        except queue.Full:
            self._on_lost(1)
            self._give_room(record.size)

    def reset(self, recipe: str | None) -> None:
        """Count the parts of a recipe, or of all, anew; what came before this call is not among them."""
        try:
            self._queue.put_nowait((Reset(recipe, time.time()), self._calendar.stamp()))
        except queue.Full:
            log.error("the records are behind: the counters begin anew only until the next restart")

    def find(self, inspection_id: str) -> dict[str, Any] | None:
        """An inspection with its reviews; raises RecordsError."""
        with self._database.reading() as connection:
            return find_one(connection, inspection_id)

    def search(self, search: Search, *, limit: int, cursor: int | None = None) -> list[dict[str, Any]]:
        """What is on record, newest first; the `row` of the last one is the cursor of the next page. Raises
        RecordsError.
        """
        with self._database.reading() as connection:
            return find(connection, search, limit=limit, cursor=cursor)

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """What `question` reads; raises RecordsError."""
        with self._database.reading() as connection:
            return question(connection)

    def review(self, inspection_id: str, review: Review) -> dict[str, Any] | None:
        """Put a review on record, and on the disk; None for an unknown part. Raises RecordsError."""
        with self._database.reading() as connection:
            done = add_review(connection, inspection_id, review, self._key)
        if done is None:
            return None
        written, waited = done
        with self._lock:
            self._open -= waited
        return written

    @property
    def open_reviews(self) -> int:
        """Parts that wait for a review."""
        return max(0, self._open)

    def state(self) -> dict[str, Any]:
        """How full the disk is, what waits for it, and the head of the chain; None where it cannot be read."""
        try:
            chain: tuple[int, bytes] | None = self.ask(head)
            count = self.ask(lambda connection: connection.execute("SELECT count(*) FROM inspections").fetchone()[0])
            free = shutil.disk_usage(self.folder).free
        except (OSError, RecordsError):
            chain = count = free = None
        return {
            "folder": str(self.folder),
            "records": count,
            "images_bytes": self._pictures.bytes,
            "images_budget_bytes": self._pictures.budget,
            "disk_free_bytes": free,
            "queue": self._queue.qsize(),
            "open_reviews": self.open_reviews,
            "chain": None if chain is None else {"length": chain[0], "head": chain[1].hex()},
        }

    def answer_to(self, recipe: str, trigger_id: str) -> Answer | None:
        """The newest answer that a trigger got, for whatever image; raises RecordsError."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT sha256, era, time, reply FROM triggers JOIN inspections USING (inspection_id) "
                "WHERE triggers.recipe = ? AND triggers.trigger_id = ?",
                (recipe, trigger_id),
            ).fetchone()
        if row is None:
            return None
        sha256, era, written, reply = row
        return Answer(sha256, self._calendar.moment(era, written), json.loads(reply))

    def distrust(self, recipe: str) -> None:
        """Remember that what a recipe said until now is not to be said again. Waits for the disk."""
        era = self._calendar.stamp()
        try:
            with self._database.reading() as connection, connection:
                connection.execute("INSERT OR REPLACE INTO distrusted VALUES (?, ?, ?)", (recipe, time.time(), era))
        except RecordsError:
            log.exception("that recipe %s failed its golden images is not on record", recipe)

    def distrusted(self) -> dict[str, float]:
        """Every recipe that failed its golden images, with the moment of the last failure (calendar.steady)."""
        with suppress(RecordsError), self._database.reading() as connection:
            rows = connection.execute("SELECT recipe, time, era FROM distrusted").fetchall()
            return {recipe: self._calendar.moment(era, written) for recipe, written, era in rows}
        return {}

    def image(self, inspection_id: str) -> bytes | None:
        """The bytes that were inspected, if they were kept and are not yet over budget; raises RecordsError."""
        return self._picture(inspection_id, "image_sha256")

    def map(self, inspection_id: str) -> bytes | None:
        """The anomaly map of a kept image, as a gray PNG: 255 is 1; raises RecordsError."""
        return self._picture(inspection_id, "map_sha256")

    def _picture(self, inspection_id: str, column: str) -> bytes | None:
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT {column} FROM inspections WHERE inspection_id = ?",  # noqa: S608
                (inspection_id,),
            ).fetchone()
            return None if row is None or row[0] is None else self._pictures.read(row[0])

    def _count_open(self) -> int:
        with suppress(RecordsError), self._database.reading() as connection:
            count: int = connection.execute("SELECT count(*) FROM inspections WHERE open IS NOT NULL").fetchone()[0]
            return count
        return 0

    def troubles(self) -> list[str]:
        """What is wrong with the records now, though inspections go on."""
        doubt = self._calendar.doubt() if self._days else None
        return [*self._failing.values(), *filter(None, (doubt, self._database.claim.trouble))]

    def close(self, wait_s: float = 5.0) -> None:
        """Write what is queued and stop the thread; where the disk takes nothing for `wait_s`, the rest is lost and
        counted.
        """
        self._closing.set()
        # Wakes a thread that waits; none waits before a full queue.
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        before = -1
        while self._thread.is_alive() and self._written > before:
            before = self._written
            self._thread.join(wait_s)
        if self._thread.is_alive():
            self._give_up()
        self._database.claim.release()

    def _give_up(self) -> None:
        left: list[tuple[Record | Reset, int] | None] = []
        with suppress(queue.Empty):
            while True:
                left.append(self._queue.get_nowait())
        lost = self._in_hand + sum(one is not None and isinstance(one[0], Record) for one in left)
        self._in_hand = 0
        self._on_lost(lost)
        while self._waiting:
            self._lose_image(self._waiting.popleft().inspection_id, "the service ended before the disk took it")
        log.error("%s takes nothing more: %d records are lost", self._file, lost)

    def _write_all(self) -> None:
        expiry = due = time.monotonic()
        while True:
            try:
                self._database.claim.ask()
                # Rows go first: at most one image is written between two looks at the queue.
                if not self._waiting:
                    self._closing.wait(max(0.0, due - time.monotonic()))
                ending = self._closing.is_set()
                batch = self._take(0.0 if self._waiting or ending else max(0.0, expiry - time.monotonic()))
                if ending and not batch and not self._waiting:
                    break
                if batch:
                    due = time.monotonic() + self._commit_every_s
                if batch and self._commit(batch):
                    records = [one for one, _ in batch if isinstance(one, Record)]
                    self._waiting.extend(record for record in records if record.image is not None)
                    with self._lock:
                        self._open += sum(record.open for record in records)
                if self._waiting:
                    self._keep_image(self._waiting.popleft())
                if time.monotonic() >= expiry:
                    expiry = time.monotonic() + _EXPIRE_EVERY_S
                    if self._expire():
                        expiry = time.monotonic() + _EXPIRE_PAUSE_S
                    else:
                        self._expired = 0
            # Records must not end with one that cannot be written.
            except Exception:
                log.exception("%s: writing records failed and goes on", self._file)
        with suppress(OSError, sqlite3.Error), self._database.writer() as connection:
            self._calendar.save(connection, sign_of_life=True)
            log.info("%s ends with link %d of the chain, %s", self._file, *_spoken(head(connection)))
        self._database.disconnect()

    def _take(self, wait_s: float) -> list[tuple[Record | Reset, int]]:
        """What is queued, up to a limit; waits for the first."""
        batch: list[tuple[Record | Reset, int] | None] = []
        with suppress(queue.Empty):
            batch.append(self._queue.get(timeout=wait_s))
            while len(batch) < _MAX_ROWS:
                batch.append(self._queue.get_nowait())
        return [record for record in batch if record is not None]

    def _commit(self, batch: list[tuple[Record | Reset, int]]) -> bool:
        """Commit the rows of a batch, however long the disk takes none while there is room for more to wait; False
        where that is given up and the batch is lost.
        """
        tried, self._in_hand = 0, sum(isinstance(one, Record) for one, _ in batch)
        while True:
            try:
                with writing(self._database.writer()) as connection:
                    write(connection, batch, self._calendar, key=self._key, again=tried > 0)
                self._in_hand, self._written = 0, self._written + 1
                self._failing.pop("rows", None)
                return True
            except Exception as error:
                reason, passing = f"{self._file}: {error}", isinstance(error, OSError | sqlite3.OperationalError)
                if tried <= len(self._retry_s):
                    log.warning("%d records could not be written to %s: %r", len(batch), self._file, error)
                if not self._database.set_aside_if_damaged(error):
                    self._database.disconnect()
            if tried >= len(self._retry_s):
                if not self._retry_s or not passing or self._closing.is_set() or self._queue.full():
                    break
                self._failing["rows"] = f"records wait to be written: {reason}"
            self._closing.wait(self._retry_s[min(tried, len(self._retry_s) - 1)])
            tried += 1
        self._failing["rows"] = f"records are lost: {reason}"
        self._give_room(sum(one.size for one, _ in batch if isinstance(one, Record)))
        lost, self._in_hand = self._in_hand, 0
        self._on_lost(lost)
        log.error("%d records are lost: make room on the disk of %s, or end what locks it", lost, self._file)
        return False

    def _keep_image(self, record: Record) -> None:
        """Write the image of a committed record, then say so in its row; later where its file is not to be had."""
        image, anomaly_map = record.image, record.anomaly_map
        try:
            contents = [image if isinstance(image, bytes) else encode(image, ".png")] if image is not None else []
            if anomaly_map is not None:
                contents.append(encode(draw_map(anomaly_map), ".png"))
            keep_image(self._database.writer(), self._pictures, record.inspection_id, contents, self._key)
            self._failing.pop("pictures", None)
            self._written += 1
        except Exception as error:
            if isinstance(error, sqlite3.OperationalError) and self._retry_s and not self._closing.is_set():
                self._failing["pictures"] = f"images wait to be written: {error}"
                self._waiting.appendleft(record)
                # A connection that a disk has failed may stay so, and no row may come that would end it.
                self._database.disconnect()
                self._closing.wait(self._retry_s[min(1, len(self._retry_s) - 1)])
                return
            self._failing["pictures"] = f"images are lost: {error}"
            self._lose_image(record.inspection_id, repr(error))
        self._give_room(record.size)

    def _expire(self) -> bool:
        """Delete some of the records that are too old, with their images; True where there may be more."""
        with self._database.writer() as connection:
            self._calendar.save(connection, sign_of_life=True)
        limits = self._calendar.limits(self._days) if self._days else {}
        if not self._expired:
            self._announce(limits)
        deleted = delete_old(self._database.writer(), self._pictures, limits, self._key)
        self._expired += deleted
        self._open = self._count_open()
        return bool(deleted) and self._expired < _EXPIRED_MOST

    def _announce(self, limits: dict[int, float]) -> None:
        """Say what is about to be deleted, and why."""
        due = count_old(self._database.writer(), limits)
        if number := sum(due.values()):
            before = datetime.fromtimestamp(max(oldest for oldest, rows in due.items() if rows), UTC)
            log.warning(
                "%d records from before %s are deleted, %d of them now: they are older than INSPECT_RECORDS_DAYS=%d",
                *(number, before.isoformat(timespec="seconds"), min(number, _EXPIRED_MOST), self._days),
            )

    def _lose_image(self, inspection_id: str, reason: str) -> None:
        self._on_image_lost()
        log.error("the image of inspection %s is not kept: %s", inspection_id, reason)

    def _take_room(self, size: int) -> bool:
        with self._lock:
            if size > self._room:
                return False
            self._room -= size
            return True

    def _give_room(self, size: int) -> None:
        with self._lock:
            self._room += size


def _spoken(newest: tuple[int, bytes]) -> tuple[int, str]:
    return newest[0], newest[1].hex()
