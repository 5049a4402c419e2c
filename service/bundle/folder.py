"""The bundle: everything that one version of a recipe needs, in one folder, checked before it is believed.

    models/<recipe>/<version>/
        manifest.json     Manifest below: thresholds, provenance, sha256 of every other file
        model.onnx        image uint8 (N, H, W, 3) RGB -> anomaly_map float32 (N, H, W) in [0, 1], score float32 (N,)
        golden/           images with the maps and scores that the trained network gave for them
        report.json …     whatever else training wants to keep; it is listed and hashed like the rest

Training writes bundles, the service reads them; neither knows more of the other than this file. Writing is atomic: a
reader sees a whole version or none. Reading refuses what it does not understand.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from service.bundle.manifest import MANIFEST, BundleError, FileEntry, Manifest, Precision


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        return self.path / name

    def model_sha256(self, precision: Precision) -> str:
        return self.manifest.files[self.manifest.models[precision]].sha256


def read_bundle(path: Path) -> Bundle:
    """Read and verify the bundle in folder `path`; raises BundleError naming the first thing that is wrong."""
    manifest = _read_manifest(path)
    if (manifest.recipe, manifest.version) != (path.parent.name, path.name):
        raise BundleError(f"{path}: the manifest is of {manifest.recipe}/{manifest.version}: do not rename bundles")
    found = set(_files_in(path))
    if extra := sorted(found - manifest.files.keys()):
        raise BundleError(f"{path / extra[0]}: not listed in {MANIFEST}")
    for name, entry in manifest.files.items():
        if name not in found:
            raise BundleError(f"{path / name}: listed in {MANIFEST} but missing")
        file = path / name
        if (size := file.stat().st_size) != entry.bytes:
            raise BundleError(f"{file}: {size} bytes, the manifest says {entry.bytes}")
        if _sha256(file) != entry.sha256:
            raise BundleError(f"{file}: sha256 differs from the manifest: the file was changed or damaged")
    return Bundle(path, manifest)


def write_bundle(root: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Write `root/<recipe>/<version>` in one step and read it back; `manifest.files` must describe `contents`.

    A version is never overwritten. Raises BundleError when it exists, OSError (naming the file) when the disk fails.
    """
    if contents.keys() != manifest.files.keys():
        raise ValueError("contents and manifest.files name different files")
    final = root / manifest.recipe / manifest.version
    if final.exists():
        raise BundleError(f"{final}: this version exists already: choose another --version")
    final.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot keeps half-written folders out of `list_versions`.
    temporary = Path(tempfile.mkdtemp(prefix=f".{manifest.version}.", dir=final.parent))
    try:
        for name, data in {**contents, MANIFEST: manifest.model_dump_json(indent=2).encode() + b"\n"}.items():
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        temporary.chmod(0o755)
        temporary.rename(final)
        _fsync_folder(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return read_bundle(final)


def replace_file(file: Path, text: str) -> None:
    """Write a file in one step: a reader, or a restart after a power cut, finds the old text or the new one."""
    temporary = file.with_name(f".{file.name}.new")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    _fsync_folder(file.parent)


def describe(contents: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """The manifest's `files` entry for file contents."""
    return {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in contents.items()
    }


def list_versions(root: Path) -> dict[str, list[str]]:
    """Recipe -> versions found below `root`, oldest first (by `created`, unreadable manifests by name, first)."""
    recipes: dict[str, list[str]] = {}
    for manifest in sorted(root.glob(f"[!.]*/[!.]*/{MANIFEST}")):
        recipes.setdefault(manifest.parent.parent.name, []).append(manifest.parent.name)
    for recipe, versions in recipes.items():
        versions.sort(key=lambda version: (_created(root / recipe / version), version))
    return recipes


def _created(path: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return datetime.fromisoformat(json.loads((path / MANIFEST).read_bytes())["created"]).isoformat()
    return ""


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if path.is_symlink() or file.is_symlink():
        raise BundleError(f"{file}: symbolic links are refused in bundles")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror})") from error
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{file}: {where}: {first['msg']}") from error


def _files_in(path: Path) -> Iterator[str]:
    for entry in sorted(path.rglob("*")):
        if entry.is_symlink():
            raise BundleError(f"{entry}: symbolic links are refused in bundles")
        if entry.is_dir():
            continue
        if not entry.is_file():
            raise BundleError(f"{entry}: not a regular file")
        name = entry.relative_to(path).as_posix()
        if name != MANIFEST:
            yield name


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
