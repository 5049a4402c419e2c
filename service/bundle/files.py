"""Small files that decide something, and folders that appear whole: what a caller is told and what is on disk agree."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger("draem_inspect")

# What file systems answer that cannot write a folder's entries through to the disk: SMB, VirtualBox, some FUSE.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EISDIR}
# Seconds after which a temporary file is no writer's any more: it is written in milliseconds.
_LEFT_OVER_S = 60.0


def replace_file(file: Path, text: str) -> None:
    """Write a file in one step: a reader, or a restart after a power cut, finds the old text or the new one.

    Raises OSError where the file could not be replaced; it then has its old text, and nothing else is left behind.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.new")
    before = _content(file)
    with folder_sync(file.parent) as sync:
        try:
            with temporary.open("x") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_or_undo(sync, file, before)


def remove_file(file: Path) -> None:
    """Remove a file, if it is there; raises OSError where it could not be removed, and then it is still there."""
    before = _content(file)
    if before is None:
        return
    with folder_sync(file.parent) as sync:
        file.unlink(missing_ok=True)
        _sync_or_undo(sync, file, before)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in `folder` of writers that ended in the middle."""
    for temporary in folder.glob(".*.new"):
        with suppress(OSError):
            if temporary.is_file() and abs(time.time() - temporary.lstat().st_mtime) > _LEFT_OVER_S:
                temporary.unlink()
                log.warning("%s: removed: its writer ended in the middle", temporary)


class FolderSync:
    """Writes a folder's entries through to the disk, where its file system can do that."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def __call__(self) -> None:
        if self._descriptor is None:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise


@contextmanager
def folder_sync(folder: Path) -> Iterator[FolderSync]:
    """Opened before anything is changed: a folder that cannot be opened refuses the change, not half of it."""
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    try:
        yield FolderSync(descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _sync_or_undo(sync: FolderSync, file: Path, before: bytes | None) -> None:
    try:
        sync()
    except OSError:
        try:
            _put_back(file, before)
        except OSError as error:
            # What every reader finds now is the change; to call it refused would be the lie.
            log.error("%s: changed, but not yet safe from a power cut, and it cannot be undone: %s", file, error)
            return
        raise


def _put_back(file: Path, before: bytes | None) -> None:
    if before is None:
        file.unlink(missing_ok=True)
        return
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.new")
    try:
        temporary.write_bytes(before)
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
