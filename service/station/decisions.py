"""Files in the folder of recipes that decide: ACTIVE, DEFAULT and LIMITS-<version>.json; and when they are believed.

    no key at all          they are believed: who may write the folder decides
    INSPECT_SEAL_KEY       only with a seal: HMAC-SHA256 with a secret that who writes the folder does not have
    INSPECT_TRUSTED_KEY,   none is believed and none is written: the newest signed version serves by its manifest's
    no INSPECT_SEAL_KEY    limits, and a file that would decide otherwise takes its recipe out of service

A seal is of one decision about one recipe. It says that this service made it, not that it is the last: the ledger,
a file among the records, knows the last one, so that an older file that is put back, or one that is gone, is noticed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import stat
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.bundle.files import remove_file, replace_file

# Among the records: what was decided, by whom and when.
LEDGER = "decisions.jsonl"
_MOST_BYTES = 64 * 1024
_FEWEST_KEY_BYTES = 32

log = logging.getLogger("draem_inspect")


@dataclass(frozen=True)
class Decided:
    """A decision `about` something, as the file says it; None: it was taken back."""

    at: str
    by: str
    about: str
    decision: str | None


class DecisionError(Exception):
    """A decision cannot be believed or kept; the message names the file, the reason and the remedy."""


class Decisions:
    """Reads and writes such files; `closed` is where bundles must be signed and nothing seals these."""

    def __init__(self, *, key: bytes | None = None, closed: bool = False, ledger: Path | None = None) -> None:
        self._key = key
        self._closed = closed and key is None
        self._ledger = None if ledger is None else Ledger(ledger, key)

    @property
    def kept(self) -> bool:
        """Whether a decision can be kept at all."""
        return not self._closed

    def read(self, file: Path) -> bytes | None:
        """The content of `file`, None where there is none; raises DecisionError, OSError."""
        _require_one_spelling(file)
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if file.is_symlink():
                raise DecisionError(f"{file}: symbolic links are refused here: remove it") from error
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise DecisionError(f"{file}: not a regular file: remove it")
        with os.fdopen(descriptor, "rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise DecisionError(f"{file}: too long to be what this service wrote: remove it")
        if self._closed:
            raise DecisionError(
                f"{file}: this service takes signed bundles only, and nothing seals this file: remove it, or set "
                "INSPECT_SEAL_KEY and decide again"
            )
        return data

    def seal(self, about: str, text: str) -> str | None:
        """The seal of `text` as a decision `about` something; None without a key."""
        if self._key is None:
            return None
        return hmac.new(self._key, f"{about}\n{text}".encode(), hashlib.sha256).hexdigest()

    def require_seal(self, file: Path, about: str, text: str, seal: str | None) -> None:
        """Raises DecisionError where this service asks for seals and did not make this one, or made a later one."""
        wanted = self.seal(about, text)
        if wanted is None:
            return
        if seal is None or not hmac.compare_digest(wanted.encode(), seal.encode()):
            raise DecisionError(f"{file}: not sealed by this service (INSPECT_SEAL_KEY): decide again, or remove it")
        self._require_last(file, about, seal)

    def require_none(self, file: Path, about: str) -> None:
        """Raises DecisionError where a sealed decision `about` this was made and its file is gone."""
        if self._key is not None:
            self._require_last(file, about, None)

    def write(self, file: Path, about: str, by: str, text: str, content: str) -> None:
        """Replace `file` by `content`, the decision `text` with its seal; raises DecisionError, OSError."""
        if self._closed:
            raise DecisionError(
                f"{file}: cannot be kept: this service takes signed bundles only and has no secret to seal a decision "
                "with: set INSPECT_SEAL_KEY"
            )
        _require_one_spelling(file)
        replace_file(file, content)
        self._note(about, by, text)

    def remove(self, file: Path, about: str, by: str) -> None:
        """Take a decision back; raises OSError."""
        remove_file(file)
        self._note(about, by, None)

    def history(self) -> list[Decided]:
        """What was decided, newest first, as far as this service wrote it; raises OSError."""
        return [] if self._ledger is None else self._ledger.history()

    def _note(self, about: str, by: str, text: str | None) -> None:
        log.info("decided by %s: %s: %s", by, about, "the manifest's" if text is None else " ".join(text.split()))
        if self._ledger:
            self._ledger.append(about, by, text, None if text is None else self.seal(about, text))

    def _require_last(self, file: Path, about: str, seal: str | None) -> None:
        if self._ledger and about in self._ledger.last and self._ledger.last[about] != seal:
            if seal is None:
                raise DecisionError(f"{file}: it is gone, and this station made a decision there: decide again")
            if seal in self._ledger.earlier:
                raise DecisionError(f"{file}: an earlier decision was put back: decide again")


def _require_one_spelling(file: Path) -> None:
    """Raises DecisionError where another file has the name as editors and other systems spell it: who wrote `Active` or
    `ACTIVE.txt` believes that it decides.
    """
    meant = {_folded(file.name), _folded(file.name.partition("-")[0] + file.suffix)}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(file.parent) as entries:
        for entry in entries:
            if entry.name == file.name or _folded(entry.name) not in meant or entry.is_dir(follow_symlinks=False):
                continue
            with suppress(OSError):
                # Where case makes no difference it is the file itself.
                if file.samefile(entry.path):
                    continue
            version = entry.name.removeprefix("LIMITS-").removesuffix(".json")
            if entry.name == f"LIMITS-{version}.json" and (file.parent / version).is_dir():
                continue
            raise DecisionError(
                f"{entry.path}: nobody reads it, and {file.name} seems to be meant: rename it to that, or remove it"
            )


def _folded(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold().removesuffix(".txt")
    return "".join(folded.split())


class Ledger:
    """Who decided what and when, one JSON object a line; with a key each line vouches for the one before it too."""

    def __init__(self, file: Path, key: bytes | None) -> None:
        self._file = file
        self._key = key
        self._mac = ""
        self.last: dict[str, str | None] = {}
        self.earlier: set[str] = set()
        try:
            lines = file.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        except OSError as error:
            # With a key it says which decisions are the last: without it an earlier one could be put back.
            if key is not None:
                raise
            log.error("%s: earlier decisions cannot be read there: %s", file, error)
            lines = []
        for number, line in enumerate(lines, 1):
            self._take(number, line)

    def append(self, about: str, by: str, decision: str | None, seal: str | None) -> None:
        """Note a decision that was made; where the ledger cannot be written, the log has an error."""
        entry: dict[str, Any] = {"at": datetime.now(UTC).isoformat(), "by": by, "about": about, "decision": decision}
        entry |= {"seal": seal, "after": self._mac}
        self._remember(about, seal)
        if self._key is not None:
            entry["mac"] = self._mac = self._mac_of(entry)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a+b") as stream:
                # After a power cut the last line may have no end.
                if stream.tell():
                    stream.seek(-1, os.SEEK_END)
                    stream.write(b"" if stream.read(1) == b"\n" else b"\n")
                stream.write(json.dumps(entry).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            log.error("%s: a decision is not noted there: %s", self._file, error)

    def history(self) -> list[Decided]:
        """Newest first; raises OSError."""
        try:
            lines = self._file.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        entries = [entry for line in lines if (entry := self._read(line)) is not None]
        names = ("at", "by", "about", "decision")
        return [Decided(*(entry.get(name) for name in names)) for entry in reversed(entries)]

    def _read(self, line: str) -> dict[str, Any] | None:
        """An entry; None for one that this service did not write."""
        try:
            entry: dict[str, Any] = json.loads(line)
            mac = entry.pop("mac", "")
            readable = isinstance(entry["about"], str) and isinstance(entry["seal"], str | None) and "after" in entry
            genuine = readable and (self._key is None or hmac.compare_digest(self._mac_of(entry), mac))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return entry | {"mac": mac} if genuine else None

    def _take(self, number: int, line: str) -> None:
        entry = self._read(line)
        if entry is None:
            log.error("%s:%d: not written by this service", self._file, number)
            return
        if entry["after"] != self._mac:
            log.error("%s:%d: a line before it is gone", self._file, number)
        self._mac = entry["mac"]
        self._remember(entry["about"], entry["seal"])

    def _remember(self, about: str, seal: str | None) -> None:
        if before := self.last.get(about):
            self.earlier.add(before)
        self.last[about] = seal

    def _mac_of(self, entry: dict[str, Any]) -> str:
        return hmac.new(self._key or b"", json.dumps(entry, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def read_key(file: Path) -> bytes:
    """The secret in `file`; raises ValueError where it is too short to be one, OSError where there is none."""
    key = file.read_bytes().strip()
    if len(key) < _FEWEST_KEY_BYTES:
        raise ValueError(f"{file}: {len(key)} bytes are no secret: openssl rand -hex 32 > {file}")
    return key
