"""`python -m service replay`: recorded inspections once more, to prove their verdicts or to show what differs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from service.backends.base import Backend, BackendChoice
from service.backends.opening import open_backend
from service.bundle.folder import Bundle
from service.commands.records import RecordsFolder, settings_of
from service.http.times import Time
from service.station.reader import Reader
from service.station.replaying import Replayer
from service.station.search import Search
from service.station.verdicts import Verdict


class Replay(RecordsFolder):
    """Repeat recorded inspections from their kept images; one JSON line each. Exit 0: every verdict is proven, 1: one
    differs or was tampered with, 2: one cannot be repeated.
    """

    ids: Annotated[tuple[str, ...], Field(description="inspection ids")] = ()
    since: Annotated[Time, Field(description="all from this time on whose image is kept, ISO 8601")] = None
    recipe: Annotated[str | None, Field(description="with --since: of this recipe")] = None
    verdict: Annotated[tuple[Verdict, ...], Field(description="with --since: with one of these verdicts")] = ()
    models: Annotated[Path | None, Field(description="folder of recipes; without the flag INSPECT_MODELS_DIR")] = None
    threads: Annotated[int, Field(ge=1, le=256, description="threads of one inference")] = 1


def run(request: Replay) -> int:
    if not request.ids and request.since is None:
        raise ValueError("replay needs --ids, or --since with a time such as 2026-11-29T14:00:00")
    folder, settings = request.find(), settings_of()
    outcomes: Counter[str] = Counter()

    def opened(bundle: Bundle, choice: BackendChoice, precision: Any) -> Backend:
        return open_backend(bundle, choice, threads=request.threads, precision=precision, cache=settings.cache_dir)

    with closing(Reader(folder)) as reader:
        replayer = Replayer(folder, request.models or settings.models_dir, reader, opened, settings.max_pixels)
        for inspection_id in _chosen(request, reader):
            replay = replayer.replay(inspection_id)
            outcomes[replay.outcome] += 1
            print(json.dumps(replay.as_json()))
    print(json.dumps(dict(outcomes)))
    if outcomes["differs"] or outcomes["tampered"]:
        return 1
    return 2 if outcomes["impossible"] else 0


def _chosen(request: Replay, reader: Reader) -> Iterator[str]:
    yield from request.ids
    cursor = None
    search = Search(recipe=request.recipe, verdicts=request.verdict, after=request.since)
    while request.since is not None and (page := reader.search(search, limit=500, cursor=cursor)):
        yield from (one["inspection_id"] for one in page if one["image"])
        cursor = page[-1]["row"]
