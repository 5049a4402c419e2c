"""Ed25519 signatures of manifests: the manifest holds the sha256 of every file, so it vouches for the whole bundle."""

from __future__ import annotations

import base64
from pathlib import Path

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
        load_pem_public_key,
    )
except ImportError as error:
    # Where it is asked for without the extra: a line for whoever asks, as for any setting that cannot be.
    raise ValueError(f"signatures need an extra: in the checkout, pip install '.[signing]' ({error})") from error

from service.bundle.folder import Bundle
from service.bundle.manifest import BundleError, Manifest


def new_keys(private: Path, public: Path) -> None:
    """Write a fresh key pair as PEM files, the private one readable by its owner only; neither may exist yet."""
    key = Ed25519PrivateKey.generate()
    private.touch(mode=0o600, exist_ok=False)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with public.open("xb") as stream:
        stream.write(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def sign(manifest: Manifest, private: Path) -> Manifest:
    """The manifest with the signature of the key in PEM file `private`; raises ValueError for another kind of key."""
    said = manifest.model_copy(update={"signature": None}).model_dump_json()
    signature = base64.b64encode(load_private_key(private).sign(said.encode())).decode()
    return manifest.model_copy(update={"signature": signature})


def load_private_key(file: Path) -> Ed25519PrivateKey:
    """The Ed25519 private key in a PEM file; raises ValueError for anything else, OSError where there is none."""
    key = load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{file}: not an Ed25519 private key")
    return key


def load_public_key(file: Path) -> Ed25519PublicKey:
    """The key in PEM file `file`; raises ValueError for another kind of key."""
    key = load_pem_public_key(file.read_bytes())
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{file}: not an Ed25519 public key")
    return key


def require_signature(bundle: Bundle, key: Ed25519PublicKey) -> None:
    """Raises BundleError unless the bundle was signed with the private half of `key`."""
    signature = bundle.manifest.signature
    if signature is None:
        raise BundleError(f"{bundle.path}: not signed, and this service takes signed bundles only")
    try:
        # What the file says, and no more: a field that is younger than the bundle was not signed, nor can it be added.
        said = bundle.manifest.model_copy(update={"signature": None}).model_dump_json(exclude_unset=True)
        key.verify(base64.b64decode(signature, validate=True), said.encode())
    except (InvalidSignature, ValueError) as error:
        raise BundleError(f"{bundle.path}: the signature is not from the key that this service trusts") from error
