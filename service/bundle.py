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
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

# bf16 is not a file of its own: a runtime that can rounds the fp32 graph as it goes.
Precision = Literal["fp32", "fp16", "bf16", "int8"]
# How the graph makes its score of its map; training.scores has the formulas.
ScoreFormula = Literal["paper", "mean", "windows", "top"]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
UnitInterval = Annotated[float, Field(ge=0.0, le=1.0)]


class BundleError(Exception):
    """The bundle cannot be used; the message names the file and the reason."""


def _relative_inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ".." in parts or path == MANIFEST:
        raise ValueError(f"{path!r} is not a path inside the bundle")
    return path


FilePath = Annotated[str, AfterValidator(_relative_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FileEntry(_Strict):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class InputSpec(_Strict):
    """What the graph's `image` input expects; anything else is resized to it by `service.images.resize`."""

    height: Annotated[int, Field(ge=32, le=4096)]
    width: Annotated[int, Field(ge=32, le=4096)]
    interpolation: Literal["linear"] = "linear"
    color: Literal["RGB"] = "RGB"


class Calibration(_Strict):
    """How the thresholds were found: `false_rejects` of `good_images` held-out good parts score at or above reject.

    `false_reject_interval` is the exact two-sided 95 % Clopper-Pearson interval of that rate; the escape fields are the
    same for defects that score below review, where labelled or simulated defects were at hand. `good_scores` are the
    held-out good parts' scores, sorted: what drift is measured against.
    """

    target_false_reject_rate: UnitInterval
    good_images: Annotated[int, Field(ge=0)]
    false_rejects: Annotated[int, Field(ge=0)]
    false_reject_interval: tuple[UnitInterval, UnitInterval]
    defect_images: Annotated[int, Field(ge=0)] = 0
    defect_source: Literal["none", "simulated", "labelled"] = "none"
    escapes: Annotated[int, Field(ge=0)] = 0
    escape_interval: tuple[UnitInterval, UnitInterval] = (0.0, 1.0)
    good_scores: list[UnitInterval] = []
    warning: str | None = None


class QualityLimits(_Strict):
    """What a picture must be like to be judged at all; measured by `service.quality`, learned from good photos."""

    sharpness_min: Annotated[float, Field(ge=0.0)]
    contrast_min: Annotated[float, Field(ge=0.0)]
    brightness_min: Annotated[float, Field(ge=0.0, le=255.0)]
    brightness_max: Annotated[float, Field(ge=0.0, le=255.0)]
    dark_max: UnitInterval
    bright_max: UnitInterval
    aspect_min: Annotated[float, Field(gt=0.0)]
    aspect_max: Annotated[float, Field(gt=0.0)]


class Thresholds(_Strict):
    """score < review is OK, review <= score < reject is REVIEW, score >= reject is NG; `pixel` cuts regions."""

    review: UnitInterval
    reject: UnitInterval
    pixel: UnitInterval
    min_area: Annotated[int, Field(ge=0)] = 0  # regions of fewer pixels, at the input size, are not reported
    calibration: Calibration

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        if self.review > self.reject:
            raise ValueError(f"thresholds.review {self.review} is above thresholds.reject {self.reject}")
        return self


class GoldenImage(_Strict):
    image: FilePath
    anomaly_map: FilePath
    score: UnitInterval


class Tolerance(_Strict):
    """Largest absolute difference from the golden values that a backend may show."""

    score: Annotated[float, Field(gt=0.0, le=0.1)]
    anomaly_map: Annotated[float, Field(gt=0.0, le=0.5)]


class Manifest(_Strict):
    format_version: Literal[1]
    recipe: Name
    version: Name
    method: Name
    created: datetime
    git_revision: str | None
    input: InputSpec
    score_formula: ScoreFormula
    thresholds: Thresholds
    quality: QualityLimits
    models: Annotated[dict[Precision, FilePath], Field(min_length=1)]
    opset: Annotated[int, Field(ge=17)]
    keep_mask: FilePath | None = None  # picture of where anomalies count; it is inside the graph already
    golden: Annotated[list[GoldenImage], Field(min_length=1)]
    tolerances: dict[Precision, Tolerance]
    metrics: dict[str, JsonValue] | None = None
    training: dict[str, JsonValue] = {}
    signature: str | None = None  # Ed25519 over the rest of the manifest, base64; see service.signing
    files: dict[FilePath, FileEntry]

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        named = {*self.models.values(), *(f for g in self.golden for f in (g.image, g.anomaly_map))}
        named |= {self.keep_mask} if self.keep_mask else set()
        if missing := sorted(named - self.files.keys()):
            raise ValueError(f"no sha256 for {', '.join(missing)}")
        if without := sorted(self.models.keys() - self.tolerances.keys()):
            raise ValueError(f"no golden tolerance for precision {', '.join(without)}")
        return self


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
