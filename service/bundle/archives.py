"""Recipes as archives: `<recipe>/<version>/…` in a tar file, checked by sha256 before anything in it is looked at."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx2

from service.bundle.folder import Bundle, describe, read_bundle, write_bundle
from service.bundle.manifest import MANIFEST, BundleError, parse_manifest

_CHUNK = 1 << 20


def fetch(source: str, sha256: str, models: Path) -> list[Bundle]:
    """Bring the recipes of an archive, an http(s) address or a file, to `models`; those that are there stay.

    Raises BundleError for another sha256, for anything in the archive but whole bundles, and for a version that is
    there with another content; httpx2.HTTPError and OSError where the archive cannot be read. What was refused leaves
    nothing behind.
    """
    models.mkdir(parents=True, exist_ok=True)
    # Beside the recipes: the archive of a large network may not fit into a container's /tmp.
    with tempfile.TemporaryFile(dir=models) as archive:
        digest = hashlib.sha256()
        for chunk in _chunks(source):
            digest.update(chunk)
            archive.write(chunk)
        if digest.hexdigest() != sha256.lower():
            raise BundleError(f"{source}: sha256 is {digest.hexdigest()}, not {sha256}: nothing of it was used")
        archive.seek(0)
        return [_keep(models, source, contents) for contents in _bundles(source, archive)]


def _chunks(source: str) -> Iterator[bytes]:
    if source.startswith(("http://", "https://")):
        try:
            with httpx2.stream("GET", source, follow_redirects=True, timeout=60) as response:
                response.raise_for_status()
                yield from response.iter_bytes(_CHUNK)
        except httpx2.TransportError as error:
            # It does not say of what it speaks.
            raise OSError(f"{source}: {error}: is the address right, and can it be reached from here?") from error
    else:
        with Path(source).open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk


def _bundles(source: str, archive: IO[bytes]) -> Iterator[dict[str, bytes]]:
    """The files of each bundle, by their path inside it; one bundle at a time is in memory."""
    try:
        with tarfile.open(fileobj=archive) as tar:
            members: dict[str, list[tarfile.TarInfo]] = defaultdict(list)
            for member in tar:
                parts = member.name.removeprefix("./").split("/", 2)
                if member.isdir():
                    continue
                if not member.isfile() or len(parts) != 3:
                    raise BundleError(f"{source}: {member.name!r} is not a file <recipe>/<version>/…")
                members["/".join(parts[:2])].append(member)
            if not members:
                raise BundleError(f"{source}: there is no recipe in it")
            for place, files in members.items():
                contents = {}
                for member in files:
                    if stream := tar.extractfile(member):
                        contents[member.name.removeprefix("./").removeprefix(f"{place}/")] = stream.read()
                if MANIFEST not in contents:
                    raise BundleError(f"{source}: {place} has no {MANIFEST}")
                yield contents
    except (tarfile.TarError, EOFError) as error:
        raise BundleError(f"{source}: not a tar archive ({error})") from error


def _keep(models: Path, source: str, contents: dict[str, bytes]) -> Bundle:
    manifest = parse_manifest(contents.pop(MANIFEST), f"{source}: {MANIFEST}")
    place = models / manifest.recipe / manifest.version
    if place.exists():
        bundle = read_bundle(place)
        if bundle.manifest != manifest:
            raise BundleError(f"{source}: {place} is there already and differs: versions are never overwritten")
        return bundle
    if describe(contents) != manifest.files:
        raise BundleError(f"{source}: {manifest.recipe}/{manifest.version} has other files than its manifest lists")
    return write_bundle(models, manifest, contents)
