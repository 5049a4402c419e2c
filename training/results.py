"""Rows of figures in one JSON file, written one by one: a queue of trainings that may be killed and goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import JsonValue


class ResultsError(Exception):
    """The file holds something else; the message names it."""


class Results:
    """Rows by key, kept in `file` with the settings they were made with; other settings raise ResultsError."""

    def __init__(self, file: Path, settings: dict[str, JsonValue]) -> None:
        self.file = file
        # Through JSON, so that what was read back compares equal.
        self.settings: dict[str, JsonValue] = json.loads(json.dumps(settings))
        self.rows: dict[str, dict[str, JsonValue]] = {}
        if not file.exists():
            return
        try:
            contents = json.loads(file.read_text())
            found, self.rows = contents["settings"], contents["rows"]
        except (ValueError, TypeError, KeyError) as error:
            raise ResultsError(f"{file}: no results of an earlier run: choose another --out") from error
        if found != self.settings:
            raise ResultsError(f"{file}: holds rows of other settings: choose another --out")

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def __setitem__(self, key: str, row: dict[str, JsonValue]) -> None:
        self.rows[key] = row
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f".{self.file.name}.new")
        with temporary.open("w") as stream:
            stream.write(json.dumps({"settings": self.settings, "rows": self.rows}, indent=2) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.file)
