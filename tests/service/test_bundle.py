import json
import os
from pathlib import Path

import pytest
from bundles import list_versions, make_bundle

from service.bundle.folder import Bundle, describe, read_bundle, write_bundle
from service.bundle.manifest import MANIFEST, BundleError


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path)


def _edit_manifest(bundle: Bundle, **changes: object) -> None:
    file = bundle.path / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_was_written_is_read_back(bundle: Bundle) -> None:
    again = read_bundle(bundle.path)
    assert again.manifest == bundle.manifest
    assert again.model_sha256("fp32") == describe({"m": bundle.file("model.onnx").read_bytes()})["m"].sha256


def test_a_flipped_byte_is_named(bundle: Bundle) -> None:
    model = bundle.file("model.onnx")
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.onnx: sha256 differs"):
        read_bundle(bundle.path)


def test_a_shortened_a_missing_and_an_extra_file_are_named(bundle: Bundle) -> None:
    golden = bundle.file("golden/0.png")
    whole = golden.read_bytes()
    golden.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=r"golden/0\.png: \d+ bytes"):
        read_bundle(bundle.path)
    golden.unlink()
    with pytest.raises(BundleError, match=r"golden/0\.png: listed in manifest\.json but missing"):
        read_bundle(bundle.path)
    golden.write_bytes(whole)
    (bundle.path / "run.sh").write_text("echo")
    with pytest.raises(BundleError, match=r"run\.sh: not listed"):
        read_bundle(bundle.path)


@pytest.mark.parametrize("linked", ["model.onnx", MANIFEST, "golden"])
def test_symbolic_links_are_refused(bundle: Bundle, tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    (bundle.path / linked).rename(outside)
    (bundle.path / linked).symlink_to(outside)
    with pytest.raises(BundleError, match="symbolic links are refused"):
        read_bundle(bundle.path)


def test_pipes_are_refused(bundle: Bundle) -> None:
    os.mkfifo(bundle.path / "pipe")
    with pytest.raises(BundleError, match="not a regular file"):
        read_bundle(bundle.path)


@pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "a\\b", "", MANIFEST])
def test_paths_that_leave_the_bundle_are_refused(bundle: Bundle, path: str) -> None:
    _edit_manifest(bundle, models={"fp32": path})
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        read_bundle(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"format_version": 2}, "format_version 2: this service reads 1: serve the bundle with a release"),
        ({"format_version": "1"}, "format_version '1': this service reads 1"),
        ({"format_version": 0}, "format_version 0: this service reads 1"),
        ({"unfit": ""}, "unfit: String should have at least 1 character"),
        ({"recipe": "a/b"}, "recipe"),
        ({"models": {"fp32": "other.onnx"}}, r"no sha256 for other\.onnx"),
        ({"tolerances": {}}, "no golden tolerance for precision fp32"),
        ({"golden": []}, "golden"),
    ],
)
def test_manifests_that_are_not_understood_are_refused(bundle: Bundle, change: dict[str, object], message: str) -> None:
    _edit_manifest(bundle, **change)
    with pytest.raises(BundleError, match=message):
        read_bundle(bundle.path)


def test_crossed_thresholds_are_refused(bundle: Bundle) -> None:
    thresholds = json.loads(bundle.manifest.thresholds.model_dump_json())
    _edit_manifest(bundle, thresholds={**thresholds, "review": 0.9})
    with pytest.raises(BundleError, match=r"thresholds\.review 0\.9 is above"):
        read_bundle(bundle.path)


def test_not_json_and_no_manifest_are_named(bundle: Bundle) -> None:
    (bundle.path / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        read_bundle(bundle.path)
    (bundle.path / MANIFEST).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        read_bundle(bundle.path)


def test_a_renamed_bundle_is_refused(bundle: Bundle) -> None:
    moved = bundle.path.rename(bundle.path.parent / "2")
    with pytest.raises(BundleError, match="is of part/1"):
        read_bundle(moved)


def test_a_version_is_never_overwritten_and_a_failed_write_leaves_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {name: bundle.file(name).read_bytes() for name in bundle.manifest.files}
    with pytest.raises(BundleError, match="exists already"):
        write_bundle(tmp_path, bundle.manifest, contents)

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(tmp_path, bundle.manifest.model_copy(update={"version": "2"}), contents)
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["1"]


def test_versions_are_listed_oldest_first_and_half_written_ones_not_at_all(tmp_path: Path) -> None:
    make_bundle(tmp_path, version="b")
    make_bundle(tmp_path, version="a")
    (tmp_path / "part" / ".c.half").mkdir()
    (tmp_path / "part" / ".c.half" / MANIFEST).write_text("{}")
    (tmp_path / "empty").mkdir()
    assert list_versions(tmp_path) == {"part": ["b", "a"]}
