"""The bundle: everything that one version of a recipe needs, in one folder, checked before it is believed.

    models/<recipe>/<version>/
        manifest.json     Manifest below: thresholds, provenance, sha256 of every other file
        model.onnx        image uint8 (N, H, W, 3) RGB -> anomaly_map float32 (N, H, W) in [0, 1], score float32 (N,)
        golden/           images with the maps and scores that the trained network gave for them
        report.json …     whatever else training wants to keep; it is listed and hashed like the rest

Training writes bundles, the service reads them; neither knows more of the other than this file. Writing is atomic: a
reader sees a whole version or none. Reading refuses what it does not understand, and gives no byte of a file that is
not the one in the manifest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.bundle.files import folder_sync
from service.bundle.litter import is_litter
from service.bundle.manifest import MANIFEST, MOST_BYTES, BundleError, FileEntry, Manifest, Precision, parse_manifest

_CHANGED = "the file was changed or damaged: copy the bundle again"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Where a file is. Who judges by its content takes `read`: the file may have been replaced since."""
        return self.path / name

    def read(self, name: str) -> bytes:
        """The content of a file, read once and compared with the manifest; raises BundleError, OSError."""
        file, entry = self.path / name, self.manifest.files[name]
        with file.open("rb") as stream:
            # One byte more tells a file that grew, without reading all that was put there.
            data = stream.read(entry.bytes + 1)
        if len(data) != entry.bytes:
            raise BundleError(f"{file}: not the {entry.bytes} bytes of the manifest: {_CHANGED}")
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(f"{file}: sha256 differs from the manifest: {_CHANGED}")
        return data

    def model_sha256(self, precision: Precision) -> str:
        return self.manifest.files[self.manifest.models[precision]].sha256


def read_bundle(path: Path) -> Bundle:
    """Read and verify the bundle in folder `path`; raises BundleError naming the first thing that is wrong."""
    manifest = read_manifest(path)
    if (manifest.recipe, manifest.version) != (path.parent.name, path.name):
        raise BundleError(f"{path}: the manifest is of {manifest.recipe}/{manifest.version}: do not rename bundles")
    found = set(_files_in(path, manifest))
    if extra := sorted(found - manifest.files.keys()):
        raise BundleError(f"{path / extra[0]}: not listed in {MANIFEST}: remove it, or copy the bundle again")
    for name, entry in manifest.files.items():
        file = path / name
        if name not in found:
            raise BundleError(f"{file}: listed in {MANIFEST} but missing: copy the bundle again, and whole")
        try:
            if (size := file.stat().st_size) != entry.bytes:
                raise BundleError(f"{file}: {size} bytes, the manifest says {entry.bytes}: {_CHANGED}")
            if _sha256(file) != entry.sha256:
                raise BundleError(f"{file}: sha256 differs from the manifest: {_CHANGED}")
        except OSError as error:
            raise BundleError(f"{file}: cannot be read ({error.strerror})") from error
    return Bundle(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle in folder `path`; raises BundleError."""
    return parse_manifest(read_manifest_bytes(path), str(path / MANIFEST))


def read_manifest_bytes(path: Path) -> bytes:
    """The manifest as it is written; raises BundleError."""
    file = path / MANIFEST
    if path.is_symlink() or file.is_symlink():
        raise BundleError(f"{file}: symbolic links are refused in bundles")
    try:
        # Nobody may ever write to a pipe that stands there, and all recipes would wait for it.
        with open(file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise BundleError(f"{file}: not a regular file: remove it, or copy the bundle again")
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror})") from error
    if len(data) > MOST_BYTES:
        raise BundleError(f"{file}: no manifest is longer than {MOST_BYTES} bytes: copy the bundle again")
    return data


def litter_in(bundle: Bundle) -> list[str]:
    """Files of a verified bundle's folder that were passed over: see service.bundle.litter."""
    return sorted(set(_files_in(bundle.path, bundle.manifest, litter=True)) - bundle.manifest.files.keys())


def write_bundle(root: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Write `root/<recipe>/<version>` in one step and read it back; `manifest.files` must describe `contents`.

    A version is never overwritten. Raises BundleError when it exists, or has a name or a time that other versions
    cannot be told apart from; OSError (naming the file) when the disk fails, and then leaves nothing behind.
    """
    if contents.keys() != manifest.files.keys():
        raise ValueError("contents and manifest.files name different files")
    final = require_new(root, manifest.recipe, manifest.version)
    if manifest.created.tzinfo is None:
        raise BundleError(f"{final}: created {manifest.created} has no time zone: which version is newer depends on it")
    final.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot keeps half-written folders out of the versions.
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
        with folder_sync(final.parent) as sync:
            temporary.rename(final)
            try:
                sync()
            except OSError:
                final.rename(temporary)
                raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return read_bundle(final)


def require_new(root: Path, recipe: str, version: str) -> Path:
    """Where a version is to be written; raises BundleError where there is one, or its name means something else."""
    place = root / recipe / version
    if version.upper() in {"ACTIVE", "COLLECTING"} or version.upper().startswith("LIMITS-"):
        raise BundleError(f"{place}: a file of this name says what serves: choose another --version")
    if place.exists():
        raise BundleError(f"{place}: this version exists already: choose another --version")
    return place


def describe(contents: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """The manifest's `files` entry for file contents."""
    return {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in contents.items()
    }


def _files_in(path: Path, manifest: Manifest, *, litter: bool = False) -> Iterator[str]:
    """Files below `path` but the manifest; litter that the manifest lists not, on demand alone."""
    for folder, folders, files in os.walk(path, onerror=_raise):
        for name in sorted(folders + files):
            entry = Path(folder, name)
            inside = entry.relative_to(path).as_posix()
            if entry.is_symlink():
                raise BundleError(f"{entry}: symbolic links are refused in bundles")
            if name in folders:
                if is_litter(name, folder=True) and not any(file.startswith(f"{inside}/") for file in manifest.files):
                    folders.remove(name)
                    if litter:
                        yield f"{inside}/"
                continue
            if not entry.is_file():
                raise BundleError(f"{entry}: not a regular file")
            if inside == MANIFEST:
                continue
            if litter or inside in manifest.files or not is_litter(name, folder=False):
                yield inside


def _raise(error: OSError) -> None:
    raise BundleError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
