"""One service writes to a folder of records: the shift and the counters of two are each of its own parts alone."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class Claim:
    """Held for as long as the process lives, or until it is released; `trouble` is what was wrong when last asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None
        self.trouble: str | None = None

    def ask(self) -> str | None:
        """What is wrong while another service holds the folder; else it is held from now on. Waits for the disk."""
        if self._descriptor is None:
            self.trouble = self._take()
        return self.trouble

    def _take(self) -> str | None:
        # A folder that is away is another trouble; a file system without locks tells nothing.
        with suppress(OSError):
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return (
                        f"another service writes to {self._folder}: each shows its own parts of the shift alone: set "
                        "another INSPECT_RECORDS_DIR"
                    )
            else:
                self._descriptor = descriptor
        return None

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
