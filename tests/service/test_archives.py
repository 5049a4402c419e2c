"""Recipes that come as archives: all of a bundle or nothing, and only the archive that was meant."""

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from bundles import list_versions, make_bundle

from service.bundle.archives import fetch
from service.bundle.manifest import BundleError
from service.commands import run


def _pack(folder: Path, archive: Path, mode: str = "w:gz") -> str:
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, arcname=".")
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def _pack_files(archive: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(archive, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Where recipes were trained: two of them."""
    make_bundle(tmp_path / "trained", "nut")
    make_bundle(tmp_path / "trained", "bolt", "2")
    return tmp_path / "trained"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_recipes_arrive_as_they_were_written(trained: Path, tmp_path: Path, mode: str) -> None:
    sha256 = _pack(trained, tmp_path / "recipes.tar", mode)
    bundles = fetch(str(tmp_path / "recipes.tar"), sha256, tmp_path / "models")
    assert list_versions(tmp_path / "models") == {"bolt": ["2"], "nut": ["1"]}
    for bundle in bundles:
        for file in ("manifest.json", "model.onnx", "golden/0.png"):
            there = trained / bundle.manifest.recipe / bundle.manifest.version / file
            assert bundle.file(file).read_bytes() == there.read_bytes()
    # As when an init container runs a second time.
    assert fetch(str(tmp_path / "recipes.tar"), sha256, tmp_path / "models") == bundles


def test_the_command_fetches_over_http_and_names_what_it_brought(
    trained: Path, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = _pack(trained / "nut", tmp_path / "wrong-level.tar.gz")
    models = tmp_path / "models"
    assert run(["fetch", f"{address}/wrong-level.tar.gz", "--sha256", sha256, "--models", str(models)]) == 2
    assert "is not a file <recipe>/<version>/" in capsys.readouterr().err
    sha256 = _pack(trained, tmp_path / "recipes.tar.gz")
    assert run(["fetch", f"{address}/recipes.tar.gz", "--sha256", sha256.upper(), "--models", str(models)]) == 0
    assert sorted(capsys.readouterr().out.split()) == [str(models / "bolt" / "2"), str(models / "nut" / "1")]
    assert run(["fetch", f"{address}/nothing.tar.gz", "--sha256", sha256, "--models", str(models)]) == 2
    assert "404" in capsys.readouterr().err


def test_another_archive_than_the_one_meant_is_not_opened(trained: Path, tmp_path: Path) -> None:
    _pack(trained, tmp_path / "recipes.tar.gz")
    with pytest.raises(BundleError, match=r"sha256 is \w+, not 0000"):
        fetch(str(tmp_path / "recipes.tar.gz"), "0" * 64, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def _damage(name: str, files: dict[str, bytes]) -> dict[str, bytes]:
    manifest = json.loads(files["nut/1/manifest.json"])
    match name:
        case "file changed":
            files["nut/1/model.onnx"] += b"x"
        case "file missing":
            del files["nut/1/model.onnx"]
        case "file too many":
            files["nut/1/more"] = b""
        case "no manifest":
            del files["nut/1/manifest.json"]
        case "no bundle's manifest":
            files["nut/1/manifest.json"] = b"{}"
        case "leaves the folder":
            manifest["recipe"] = "../nut"
            files["nut/1/manifest.json"] = json.dumps(manifest).encode()
        case "loose file":
            files["readme.txt"] = b""
        case "empty":
            files.clear()
    return files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file changed", "nut/1 has other files"),
        ("file missing", "nut/1 has other files"),
        ("file too many", "nut/1 has other files"),
        ("no manifest", "nut/1 has no manifest.json"),
        ("no bundle's manifest", "manifest.json: format_version: Field required"),
        ("leaves the folder", "manifest.json: recipe: String should match"),
        ("loose file", "'readme.txt' is not a file"),
        ("empty", "there is no recipe in it"),
    ],
)
def test_what_is_no_bundle_is_refused_and_leaves_nothing(
    trained: Path, tmp_path: Path, name: str, message: str
) -> None:
    nut = trained / "nut" / "1"
    files = {f"nut/1/{f.relative_to(nut).as_posix()}": f.read_bytes() for f in nut.rglob("*") if f.is_file()}
    sha256 = _pack_files(tmp_path / "recipes.tar", _damage(name, files))
    with pytest.raises(BundleError, match=message):
        fetch(str(tmp_path / "recipes.tar"), sha256, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "recipes.tar", "w") as tar:
        member = tarfile.TarInfo("nut/1/model.onnx")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(member)
    sha256 = hashlib.sha256((tmp_path / "recipes.tar").read_bytes()).hexdigest()
    with pytest.raises(BundleError, match="is not a file"):
        fetch(str(tmp_path / "recipes.tar"), sha256, tmp_path / "models")


def test_a_version_with_another_content_is_not_overwritten(trained: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "models", "nut", review=0.1)
    before = (tmp_path / "models" / "nut" / "1" / "manifest.json").read_bytes()
    sha256 = _pack(trained, tmp_path / "recipes.tar")
    with pytest.raises(BundleError, match="is there already and differs"):
        fetch(str(tmp_path / "recipes.tar"), sha256, tmp_path / "models")
    assert (tmp_path / "models" / "nut" / "1" / "manifest.json").read_bytes() == before


def test_a_file_that_is_no_archive_says_so(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>")
    sha256 = hashlib.sha256(b"<html>").hexdigest()
    with pytest.raises(BundleError, match="not a tar archive"):
        fetch(str(tmp_path / "page.html"), sha256, tmp_path / "models")


def test_an_address_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1/part\.tar: .*can it be reached from here"):
        fetch("http://127.0.0.1:1/part.tar", "0" * 64, tmp_path)
