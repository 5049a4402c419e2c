"""The commands on records that are damaged, locked, sealed, or on a full or read-only disk: nothing is lost, nothing is
left half, and the message names the file and the remedy.
"""

import os
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from service.commands import run
from service.station.chain import Entry, append, writing
from service.station.schema import upgrade

FILE = "inspections.sqlite"


def _make(folder: Path, key: bytes | None = None) -> Path:
    """Records of twenty links, as large as a few pages, and an image."""
    (folder / "images" / "aa").mkdir(parents=True)
    (folder / "images" / "aa" / "aa").write_bytes(b"i" * 300_000)
    with closing(sqlite3.connect(folder / FILE)) as connection:
        upgrade(connection)
        body = "{}" + " " * 3000
        with writing(connection):
            append(connection, [Entry("drop", str(number), body, body) for number in range(20)], key)
            connection.execute(
                "INSERT INTO inspections (inspection_id, time, recipe, verdict, reply, image_sha256) "
                "VALUES ('x', ?, 'part', 'OK', ?, 'aa')",
                (time.time(), '{"inspection_id": "x", "verdict": "OK"}'),
            )
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # A number sign, a question mark and a per cent sign are nothing special in the name of a folder.
    return _make(tmp_path / "records#1?%41")


def _run(folder: Path, action: str, *more: str) -> int:
    return run(["records", action, "--records", str(folder), *more])


def _actions(out: Path) -> list[tuple[str, ...]]:
    return [("verify",), ("export", "--out", f"{out}.csv"), ("backup", "--out", str(out)), ("prune", "--days", "1")]


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """Files that may grow no further, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("damage", [b"no database at all" * 4096, b""])
def test_what_is_no_records_file_is_named_and_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    (tmp_path / FILE).write_bytes(damage)
    for action in _actions(tmp_path / "out"):
        assert _run(tmp_path, *action) == 2
        said = capsys.readouterr().err
        assert str(tmp_path / FILE) in said
        assert "go on with a backup" in said or "start the service on it once" in said or "service wrote?" in said
        assert (tmp_path / FILE).read_bytes() == damage
    assert not list(tmp_path.glob("*out*"))


def test_damaged_pages_are_named_and_stay(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / FILE
    with file.open("r+b") as stream:
        for page in range(4096, file.stat().st_size, 4096):
            stream.seek(page)
            stream.write(b"\xff" * 100)
    damaged = file.read_bytes()
    for action in _actions(tmp_path / "out"):
        assert _run(folder, *action) == 2
        assert f"{file}: database disk image is malformed: what it holds is as it was" in capsys.readouterr().err
        assert file.read_bytes() == damaged
    assert not list(tmp_path.glob("*out*"))


def test_half_a_backup_or_an_export_is_none(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The rows do not fit, or the image does not.
    for size in (20_000, 250_000):
        with _largest_file(size):
            assert _run(folder, "backup", "--out", str(tmp_path / "out")) == 2
        said = capsys.readouterr().err
        assert str(tmp_path / "out") in said or str(folder) in said
        assert list(tmp_path.iterdir()) == [folder]
    with _largest_file(250_000):
        assert _run(folder, "export", "--out", str(tmp_path / "out.zip")) == 2
    assert f"{tmp_path / 'out.zip'}: cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [folder]
    assert _run(folder, "backup", "--out", str(tmp_path / "out")) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", FILE]


def test_an_export_is_one_of_two_kinds(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(folder, "export", "--out", str(tmp_path / "parts.xlsx")) == 2
    assert "FILE.csv or a FILE.zip" in capsys.readouterr().err
    assert _run(folder, "export", "--out", str(tmp_path / "parts.CSV")) == 0


def test_records_are_pruned_with_the_secret_of_their_chain_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, secret = _make(tmp_path / "records", b"s" * 40), tmp_path / "secret"
    secret.write_text("t" * 40)
    for more in ([], ["--seal-key", str(secret)]):
        assert _run(folder, "prune", "--days", "1", *more) == 2
        assert "--seal-key" in capsys.readouterr().err
    secret.write_text("s" * 40)
    assert _run(folder, "prune", "--days", "1", "--seal-key", str(secret)) == 0


def test_while_the_clock_is_in_doubt_nothing_is_called_old(folder: Path) -> None:
    stray = folder / "images" / "bb" / "bb"
    stray.parent.mkdir()
    stray.write_bytes(b"i")
    os.utime(stray, (0, 0))
    for doubt_s, kept in ((3600.0, True), (0.0, False)):
        with closing(sqlite3.connect(folder / FILE)) as connection, connection:
            connection.execute("UPDATE inspections SET time = 1e9")
            connection.execute("INSERT OR REPLACE INTO clock VALUES (0, ?, ?, 1e7)", (time.time(), doubt_s))
        assert _run(folder, "prune", "--days", "1") == 0
        with closing(sqlite3.connect(folder / FILE)) as connection:
            assert connection.execute("SELECT count(*) FROM inspections").fetchone() == (int(kept),)
        assert stray.exists() == kept


def test_a_locked_file_is_named_with_the_remedy(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: connect(*given, **(named | {"timeout": 0})))
    with closing(sqlite3.connect(folder / FILE)) as holder:
        holder.execute("PRAGMA journal_mode = DELETE")
        holder.execute("BEGIN EXCLUSIVE")
        assert _run(folder, "backup", "--out", str(tmp_path / "out")) == 2
    assert "database is locked: another process holds it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [folder]


def test_one_image_or_row_that_cannot_be_read_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = folder / "images" / "aa" / "aa"
    image.unlink()
    image.mkdir()
    with closing(sqlite3.connect(folder / FILE)) as connection, writing(connection):
        append(connection, [Entry("image", "x", "{}", "{}")])
        connection.execute("UPDATE inspections SET reply = '{broken'")
    assert _run(folder, "verify") == 1
    assert "inspection x: the file of its image (aa) cannot be read (Is a directory)" in capsys.readouterr().out
    assert _run(folder, "export", "--out", str(tmp_path / "out.csv")) == 2
    assert f"{folder / FILE}: a row was changed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [folder]
    assert _run(folder, "backup", "--out", str(tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert f"{image}: cannot be read (Is a directory): the backup is without it" in said.err
    assert '"unreadable": 1' in said.out
    assert (tmp_path / "out" / FILE).is_file()
