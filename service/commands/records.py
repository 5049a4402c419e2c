"""`python -m service records verify | export | backup | prune`: the records of this machine."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.flags import POSITIONAL
from service.http.times import Time
from service.settings import Settings, read_settings
from service.station.chain import fits
from service.station.decisions import LEDGER, read_key
from service.station.exporting import to_csv, to_zip
from service.station.pruning import prune_records
from service.station.reader import FILE, IMAGES, Reader, naming, open_to_read
from service.station.search import Search
from service.station.verdicts import Verdict
from service.station.verifying import verify

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class RecordsFolder(BaseModel):
    """The records that a command is about."""

    model_config = ConfigDict(frozen=True)

    records: Annotated[
        Path | None, Field(description="folder of the records; without the flag INSPECT_RECORDS_DIR")
    ] = None
    seal_key: Annotated[
        Path | None,
        Field(description="file of the secret that the chain is made with; without the flag INSPECT_SEAL_KEY"),
    ] = None

    def find(self) -> Path:
        """The folder; raises ValueError where there are no records."""
        folder = self.records or settings_of().records_dir
        if folder is None or not (folder / FILE).is_file():
            raise ValueError(f"no records in {folder}: name their folder with --records")
        return folder

    def key(self) -> bytes | None:
        file = self.seal_key or settings_of().seal_key
        return None if file is None else read_key(file)


class Records(RecordsFolder):
    """Work on the records: verify, export, backup or prune. All of it may be done while the service runs.

    verify: compare every row, image and review with the chain of hashes; what was changed is named. Exit 0: nothing
    was. export: write a table (--out FILE.csv) or a ZIP with images, maps and masks (--out FILE.zip). backup: copy all
    to a new folder (--out), which a service can be started on. prune: delete what is older than --days, and the oldest
    images above --images-mb.
    """

    action: Annotated[
        Literal["verify", "export", "backup", "prune"], POSITIONAL, Field(description="what is to be done")
    ]
    out: Annotated[Path | None, Field(description="file of an export, new folder of a backup")] = None
    head: Annotated[str | None, Field(description="verify: a hash that was noted earlier, of the log for example")] = (
        None
    )
    sealed_from: Annotated[
        int | None,
        Field(ge=1, description="verify: number of the first link since the secret was set, which the log has"),
    ] = None
    days: Annotated[int | None, Field(ge=1, le=36_500, description="prune: days that records are kept")] = None
    images_mb: Annotated[int | None, Field(ge=1, description="prune: megabytes of images that are kept")] = None
    recipe: Annotated[str | None, Field(description="export: of this recipe")] = None
    verdict: Annotated[tuple[Verdict, ...], Field(description="export: with one of these verdicts")] = ()
    after: Annotated[Time, Field(description="export: from this time on, ISO 8601")] = None
    before: Annotated[Time, Field(description="export: up to this time")] = None


def run(request: Records) -> int:
    folder = request.find()
    actions = {"verify": _verify, "export": _export, "backup": _backup, "prune": _prune}
    return actions[request.action](request, folder)


def settings_of() -> Settings:
    return read_settings()


def _verify(request: Records, folder: Path) -> int:
    with closing(Reader(folder)) as reader:
        found = reader.ask(
            lambda connection: verify(
                connection,
                folder / IMAGES,
                key=request.key(),
                known_head=request.head,
                sealed_from=request.sealed_from,
            )
        )
    for problem in found.problems:
        print(problem)
    print(json.dumps(asdict(found) | {"problems": len(found.problems)}))
    return 1 if found.problems else 0


def _export(request: Records, folder: Path) -> int:
    out = _new(request, "--out FILE.csv, or FILE.zip")
    kind = out.suffix.lower()
    if kind not in {".csv", ".zip"}:
        raise ValueError(f"{out}: an export is a FILE.csv or a FILE.zip")
    search = Search(recipe=request.recipe, verdicts=request.verdict, after=request.after, before=request.before)
    with closing(Reader(folder)) as reader, _whole(out) as unfinished, unfinished.open("xb") as stream:
        found = _all(reader, search)
        for piece in to_zip(found, reader, settings_of().max_pixels) if kind == ".zip" else to_csv(found):
            stream.write(piece)
    print(out)
    return 0


def _all(reader: Reader, search: Search) -> Iterator[dict[str, Any]]:
    cursor = None
    while page := reader.search(search, limit=1000, cursor=cursor):
        yield from page
        cursor = page[-1]["row"]


def _backup(request: Records, folder: Path) -> int:
    out = _new(request, "--out FOLDER")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _whole(out) as unfinished:
        unfinished.mkdir()
        names = _copy_rows(folder / FILE, unfinished / FILE)
        gone, unreadable = _copy_images(folder / IMAGES, unfinished / IMAGES, names)
        if (folder / LEDGER).is_file():
            shutil.copy2(folder / LEDGER, unfinished / LEDGER)
    copied = len(names) - gone - unreadable
    print(json.dumps({"folder": str(out), "pictures": copied, "gone_meanwhile": gone, "unreadable": unreadable}))
    return 1 if unreadable else 0


def _copy_rows(file: Path, to: Path) -> set[str]:
    """Copy the rows; the names of the images that they have."""
    with closing(open_to_read(file)) as source, closing(sqlite3.connect(to)) as copy, naming(file):
        try:
            # In one piece, of one moment: in a file with a write-ahead log nobody waits for it.
            source.backup(copy)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        rows = copy.execute("SELECT image_sha256, map_sha256 FROM inspections WHERE image_sha256 IS NOT NULL")
        return {sha256 for row in rows for sha256 in row if sha256 is not None}


def _copy_images(images: Path, to: Path, names: set[str]) -> tuple[int, int]:
    """Copy images; how many are gone meanwhile, and how many a damaged disk does not give, each of which is named."""
    gone = unreadable = 0
    for name in sorted(names):
        file, target = images / name[:2] / name, to / name[:2] / name
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            gone += 1
            continue
        except OSError as error:
            print(f"error: {file}: cannot be read ({error.strerror}): the backup is without it", file=sys.stderr)
            unreadable += 1
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return gone, unreadable


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Where to write what is to appear as `out` once it is whole: half a backup must not be taken for one.

    Raises OSError that names `out` where the disk is full, and then leaves nothing behind.
    """
    unfinished = out.with_name(f".{out.name}.{secrets.token_hex(4)}.new")
    try:
        yield unfinished
        unfinished.rename(out)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise OSError(f"{out}: cannot be written ({error.strerror}): make room, then run this again") from error
        raise


def _prune(request: Records, folder: Path) -> int:
    if request.days is None and request.images_mb is None:
        raise ValueError("prune needs --days, --images-mb, or both")

    def tell(old: int) -> None:
        print(f"{old} records are older than {request.days} days")

    budget = request.images_mb * 1_000_000 if request.images_mb else None
    with closing(Reader(folder)) as reader:
        if not reader.ask(lambda connection: fits(connection, request.key())):
            raise ValueError(
                f"{folder / FILE}: the chain is made with another secret: name it with --seal-key, or what is "
                "deleted could not be told from what was taken away"
            )
    with naming(folder / FILE):
        deleted, gone = prune_records(folder, request.key(), days=request.days, image_bytes=budget, tell=tell)
    print(json.dumps({"deleted": deleted, "pictures": gone}))
    return 0


def _new(request: Records, flag: str) -> Path:
    if request.out is None:
        raise ValueError(f"{request.action} needs {flag}")
    if request.out.exists():
        raise ValueError(f"{request.out} exists: nothing is overwritten: name another --out")
    return request.out
