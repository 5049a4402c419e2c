"""Whether the records are what was written: every link of the chain, every row and every kept image."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.station.chain import COVERED, REVIEW_COLUMNS, anchor, link_hash, row_text

# More of the same are counted, not listed.
_MOST_PROBLEMS = 1000


@dataclass
class Findings:
    """What was compared, and each thing that is not what was written; empty `problems`: all is."""

    links: int = 0
    inspections: int = 0
    pictures: int = 0
    reviews: int = 0
    without_link: int = 0
    head: str = ""
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)


def verify(
    connection: sqlite3.Connection,
    images: Path,
    *,
    key: bytes | None = None,
    known_head: str | None = None,
    sealed_from: int | None = None,
) -> Findings:
    """Walk the whole chain of one moment; `known_head` is a hash that was noted earlier and must be on it.

    Links from before the secret was set are made without it: what follows binds them, as long as it is known that the
    first link that is made with it is `sealed_from` or an earlier one.
    """
    connection.execute("BEGIN")
    found = Findings()
    deletions = _Deletions(connection)
    number, before = anchor(connection)
    heads = {before.hex()}
    unsealed = first_sealed = None
    for seq, kind, id_, content, link, body in connection.execute("SELECT * FROM chain ORDER BY seq"):
        found.links += 1
        if seq != number + 1:
            found.add(f"links {number + 1} to {seq - 1} of the chain are gone")
        if link_hash(before, kind, id_, content, key) == link:
            first_sealed = first_sealed or seq
        elif key is not None and first_sealed is None and link_hash(before, kind, id_, content, None) == link:
            unsealed = seq
        else:
            found.add(
                f"link {seq} ({kind} {id_}) does not follow from the one before: the chain was changed there, or is "
                "made with another secret (--seal-key)"
            )
        if body is not None and kind != "review" and hashlib.sha256(body.encode()).digest() != content:
            found.add(f"link {seq} ({kind} {id_}) was changed")
        for problem in _compare(connection, images, deletions, found, (seq, kind, id_, content, body)):
            found.add(problem)
        number, before = seq, link
        heads.add(link.hex())
    found.head = before.hex()
    if known_head is not None and known_head not in heads:
        found.add(f"{known_head} is on no link: the chain was written anew since it was noted, or that link is deleted")
    if unsealed is not None and (sealed_from is None or first_sealed is None or first_sealed > sealed_from):
        sealed = "none is made with it" if first_sealed is None else f"link {first_sealed} is the first that is"
        found.add(
            f"the links up to {unsealed} are made without the secret, {sealed}: until then who could write the file "
            "could write them anew; --sealed-from NUMBER says that you know since which link the secret was set (log)"
        )
    _find_strangers(connection, found)
    connection.rollback()
    return found


class _Deletions:
    """What the chain itself says was deleted."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._before = anchor(connection)[0]
        self._ranges: list[list[int]] = []
        self.pictures: set[str] = set()
        for (body,) in connection.execute("SELECT body FROM chain WHERE kind IN ('drop', 'prune')"):
            said = _read(body)
            self._ranges += said.get("inspections", [])
            self.pictures.update(said.get("pictures", []))
        self._ranges.sort()
        self._starts = [first for first, _ in self._ranges]

    def of_inspection(self, link: int | None) -> bool:
        """Whether the inspection of this link was deleted for its age; None is one of before the chain."""
        if link is None or link <= self._before:
            return True
        at = bisect_right(self._starts, link) - 1
        return at >= 0 and link <= self._ranges[at][1]


def _compare(
    connection: sqlite3.Connection, images: Path, deletions: _Deletions, found: Findings, link: tuple[Any, ...]
) -> Iterator[str]:
    seq, kind, id_, content, body = link
    if kind == "inspection":
        yield from check_inspection(connection, id_, content, deleted=deletions.of_inspection(seq))
        found.inspections += 1
    elif kind == "review":
        row = connection.execute(
            f"SELECT {', '.join(REVIEW_COLUMNS)} FROM reviews WHERE review_id = ?",  # noqa: S608
            (id_,),
        ).fetchone()
        found.reviews += 1
        if row is None:
            if not deletions.of_inspection(_read(body).get("inspection")):
                yield f"review {id_} was taken away"
        elif hashlib.sha256((row_text(row) + (body or "")).encode()).digest() != content:
            yield f"review {id_} of inspection {row[1]} was changed after it was written"
    elif kind == "image":
        said = _read(body)
        row = connection.execute(
            "SELECT image_sha256, map_sha256 FROM inspections WHERE inspection_id = ?", (id_,)
        ).fetchone()
        if row is not None:
            for name, sha256 in zip(("image", "map"), row, strict=True):
                found.pictures += sha256 is not None
                yield from _check_picture(images, (id_, name), sha256, said.get(name), deletions.pictures)


def check_inspection(
    connection: sqlite3.Connection, inspection_id: str, content: bytes, *, deleted: bool
) -> Iterator[str]:
    """What contradicts the link of an inspection."""
    row = connection.execute(
        f"SELECT {', '.join(COVERED)} FROM inspections WHERE inspection_id = ?",  # noqa: S608
        (inspection_id,),
    ).fetchone()
    if row is None:
        if not deleted:
            yield f"inspection {inspection_id} was taken away"
    elif hashlib.sha256(row_text(row).encode()).digest() != content:
        yield f"inspection {inspection_id} was changed after it was written"


def is_of_earlier_version(connection: sqlite3.Connection, inspection_id: str) -> bool:
    """Whether a row without a link was there before the chain."""
    found: bool = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM chain WHERE kind = 'upgrade') AND rowid < (SELECT coalesce(min(rowid), 1 << 62) "
        "FROM inspections WHERE link IS NOT NULL) FROM inspections WHERE inspection_id = ?",
        (inspection_id,),
    ).fetchone()[0]
    return bool(found)


def check_pictures(connection: sqlite3.Connection, images: Path, inspection_id: str) -> Iterator[str]:
    """What contradicts the newest link of the images of an inspection."""
    link = connection.execute(
        "SELECT body, content FROM chain WHERE kind = 'image' AND id = ? ORDER BY seq DESC LIMIT 1", (inspection_id,)
    ).fetchone()
    row = connection.execute(
        "SELECT image_sha256, map_sha256 FROM inspections WHERE inspection_id = ?", (inspection_id,)
    ).fetchone()
    body, content = link or (None, b"")
    if body is not None and hashlib.sha256(body.encode()).digest() != content:
        yield f"inspection {inspection_id}: the link of its images was changed"
    said = _read(body)
    for name, sha256 in zip(("image", "map"), row, strict=True):
        if sha256 is not None:
            yield from _check_picture(images, (inspection_id, name), sha256, said.get(name), set())


def _check_picture(
    images: Path, what: tuple[str, str], named: str | None, written: str | None, dropped: set[str]
) -> Iterator[str]:
    inspection_id, name = what
    if named is None:
        if written is not None and written not in dropped:
            yield f"inspection {inspection_id}: that its {name} was kept was taken away"
        return
    if named != written:
        yield f"inspection {inspection_id}: another {name} was put in the place of the one that was kept"
    try:
        data = (images / named[:2] / named).read_bytes()
    except FileNotFoundError:
        yield f"inspection {inspection_id}: the file of its {name} ({named}) is gone"
        return
    except OSError as error:
        yield f"inspection {inspection_id}: the file of its {name} ({named}) cannot be read ({error.strerror})"
        return
    if hashlib.sha256(data).hexdigest() != named:
        yield f"inspection {inspection_id}: the file of its {name} ({named}) was changed"


def _find_strangers(connection: sqlite3.Connection, found: Findings) -> None:
    """Rows that the chain does not know."""
    for inspection_id, link in connection.execute(
        "SELECT inspection_id, link FROM inspections AS i WHERE link IS NOT NULL AND NOT EXISTS (SELECT 1 FROM chain "
        "WHERE seq = i.link AND kind = 'inspection' AND id = i.inspection_id)"
    ):
        found.add(f"inspection {inspection_id} is on no link of the chain (it says {link}): it was put in later")
    for (review_id,) in connection.execute(
        "SELECT review_id FROM reviews AS r WHERE NOT EXISTS (SELECT 1 FROM chain WHERE seq = r.link AND "
        "kind = 'review' AND id = r.review_id)"
    ):
        found.add(f"review {review_id} is on no link of the chain: it was put in later")
    for inspection_id, says in connection.execute(
        "SELECT inspection_id, review FROM inspections AS i WHERE review IS NOT (SELECT after FROM reviews AS r WHERE "
        "r.inspection_id = i.inspection_id ORDER BY rowid DESC LIMIT 1)"
    ):
        found.add(f"inspection {inspection_id} says {says} of its review, and its newest review does not")
    for (inspection_id,) in connection.execute(
        "SELECT inspection_id FROM inspections WHERE open IS NULL AND review IS NULL AND link IS NOT NULL AND "
        "verdict IN ('NG', 'REVIEW')"
    ):
        found.add(f"inspection {inspection_id} has no review and waits for none: it was taken out of the queue")
    found.without_link = connection.execute("SELECT count(*) FROM inspections WHERE link IS NULL").fetchone()[0]
    said = connection.execute("SELECT max(body) FROM chain WHERE kind = 'upgrade'").fetchone()[0]
    allowed = _read(said).get("rows", 0)
    # The link of the upgrade may be deleted, but not before the rows that it speaks of.
    if found.without_link > allowed:
        found.add(
            f"{found.without_link} inspections have no link, {allowed} are of an earlier version: some were put in"
        )


def _read(body: str | None) -> dict[str, Any]:
    try:
        said = json.loads(body or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
