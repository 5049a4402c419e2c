"""A version beside the one in service, on images that the records kept: what it would have said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from service.backends.base import Backend
from service.backends.opening import open_backend
from service.bundle.folder import Bundle, read_bundle
from service.comparing.versions import Comparison, Contender, Sample, compare
from service.images.decoding import Pixels
from service.images.headers import ImageError
from service.station.decisions import Decisions
from service.station.exporting import pixels_of
from service.station.limits import read_limits
from service.station.search import Search

_PAGE = 200


class Recorded(Protocol):
    """The records, as far as they are needed here."""

    def search(self, search: Search, *, limit: int, cursor: int | None = None) -> list[dict[str, Any]]: ...

    def image(self, inspection_id: str) -> bytes | None: ...


def opener(cache: Path, threads: int = 1) -> Callable[[Bundle], Backend]:
    """What opens versions to compare them: on the CPU and in full precision, whatever the station runs on."""
    return partial(open_backend, choice="ort-cpu", threads=threads, precision="fp32", cache=cache)


def compare_versions(
    folder: Path,
    names: tuple[str, str],
    records: Recorded,
    open_model: Callable[[Bundle], Backend],
    *,
    decisions: Decisions,
    most: int,
    max_pixels: int,
) -> Comparison:
    """The first of the versions `names` of the recipe in `folder`, and the second, on at most `most` kept images.

    Raises BundleError, LimitsError, BackendError; ValueError where no image of the recipe is kept.
    """
    opened: list[Contender] = []
    try:
        for name in names:
            bundle = read_bundle(folder / name)
            limits = read_limits(folder, bundle.manifest, decisions)
            opened.append(Contender(name, open_model(bundle), bundle.manifest.input, limits.thresholds, limits.quality))
        before, after = opened
        found = compare(folder.name, recorded_samples(records, folder.name, most, max_pixels), before, after)
    finally:
        for one in opened:
            one.backend.close()
    if not found.images:
        raise ValueError(
            f"no image of recipe {folder.name} is kept in the records: set INSPECT_RECORD_IMAGES to failed or all, and "
            "let the line run"
        )
    return found


def recorded_samples(records: Recorded, recipe: str, most: int, max_pixels: int) -> Iterator[Sample]:
    """Kept images of a recipe, the newest first: those that people reviewed, then others, as far as there is room."""
    for reviewed in (True, False):
        cursor = None
        search = Search(recipe=recipe, reviewed=reviewed)
        while most > 0 and (page := records.search(search, limit=_PAGE, cursor=cursor)):
            cursor = page[-1]["row"]
            for one in page:
                if one["image"] and most > 0:
                    most -= 1
                    yield _sample(records, one, max_pixels)


def _sample(records: Recorded, one: dict[str, Any], max_pixels: int) -> Sample:
    layout = one["layout"]

    def picture() -> Pixels:
        data = records.image(one["inspection_id"])
        if data is None:
            raise ImageError("corrupt_image", "the image went for the disk budget meanwhile")
        return pixels_of(data, layout, max_pixels)

    return Sample(
        f"{one.get('part_id') or one['inspection_id']}, {one['verdict']} then",
        picture,
        one["review"] or "unknown",
        tensor=layout is not None and "tensor" in layout,
    )
