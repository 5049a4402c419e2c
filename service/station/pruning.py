"""Records that are deleted on demand, whether the service runs or not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from service.station.calendar import Calendar
from service.station.database import Database
from service.station.keeping import count_old, delete_old, free
from service.station.kept_images import KeptImages
from service.station.reader import FILE, IMAGES

_WITHOUT_END = 1 << 62


def prune_records(
    folder: Path, key: bytes | None, *, days: int | None, image_bytes: int | None, tell: Callable[[int], None]
) -> tuple[int, int]:
    """Delete rows that are older than `days`, files of images as old that no row has, and the oldest images above
    `image_bytes`: how many rows and images.

    `tell` gets the number of rows before the first is deleted.
    """
    database = Database(folder / FILE)
    connection = database.writer()
    pictures = KeptImages(folder / IMAGES, _WITHOUT_END if image_bytes is None else image_bytes)
    deleted = strays = 0
    if days is not None:
        calendar = Calendar()
        calendar.open(connection)
        limits = calendar.limits(days)
        tell(sum(count_old(connection, limits).values()))
        while number := delete_old(connection, pictures, limits, key):
            deleted += number
            # The service's own writes come between.
            time.sleep(0.02)
        # No limits: the clock is in doubt, and with it how old a file is.
        if limits:
            strays = pictures.drop_strays(time.time() - days * 86_400, connection)
    gone = free(connection, pictures, key)
    database.disconnect()
    return deleted, gone + strays
