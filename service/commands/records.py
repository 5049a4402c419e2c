"""`python -m service records verify | export | backup | prune`: the records of this machine."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.flags import POSITIONAL
from service.http.times import Time
from service.settings import Settings, read_settings
from service.station.decisions import read_key
from service.station.exporting import to_csv, to_zip
from service.station.pruning import prune_records
from service.station.reader import FILE, IMAGES, Reader
from service.station.search import Search
from service.station.verdicts import Verdict
from service.station.verifying import verify


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
            lambda connection: verify(connection, folder / IMAGES, key=request.key(), known_head=request.head)
        )
    for problem in found.problems:
        print(problem)
    print(json.dumps(asdict(found) | {"problems": len(found.problems)}))
    return 1 if found.problems else 0


def _export(request: Records, folder: Path) -> int:
    out = _new(request, "--out FILE.csv, or FILE.zip")
    search = Search(recipe=request.recipe, verdicts=request.verdict, after=request.after, before=request.before)
    with closing(Reader(folder)) as reader, out.open("xb") as stream:
        found = _all(reader, search)
        zipped = out.suffix == ".zip"
        for piece in to_zip(found, reader, settings_of().max_pixels) if zipped else to_csv(found):
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
    out.mkdir(parents=True)
    with closing(sqlite3.connect(folder / FILE, timeout=60)) as source, closing(sqlite3.connect(out / FILE)) as copy:
        # In one piece, of one moment: in a file with a write-ahead log nobody waits for it.
        source.backup(copy)
        names = {
            sha256
            for row in copy.execute("SELECT image_sha256, map_sha256 FROM inspections WHERE image_sha256 IS NOT NULL")
            for sha256 in row
            if sha256 is not None
        }
    gone = 0
    for name in sorted(names):
        target = out / IMAGES / name[:2] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(folder / IMAGES / name[:2] / name, target)
        except FileNotFoundError:
            gone += 1
    for other in ("decisions.jsonl",):
        if (folder / other).is_file():
            shutil.copy2(folder / other, out / other)
    print(json.dumps({"folder": str(out), "pictures": len(names) - gone, "gone_meanwhile": gone}))
    return 0


def _prune(request: Records, folder: Path) -> int:
    if request.days is None and request.images_mb is None:
        raise ValueError("prune needs --days, --images-mb, or both")

    def tell(old: int) -> None:
        print(f"{old} records are older than {request.days} days")

    budget = request.images_mb * 1_000_000 if request.images_mb else None
    deleted, gone = prune_records(folder, request.key(), days=request.days, image_bytes=budget, tell=tell)
    print(json.dumps({"deleted": deleted, "pictures": gone}))
    return 0


def _new(request: Records, flag: str) -> Path:
    if request.out is None:
        raise ValueError(f"{request.action} needs {flag}")
    if request.out.exists():
        raise ValueError(f"{request.out} exists: nothing is overwritten")
    return request.out
