"""A signature is of what the manifest's file says: it outlives fields that are younger than the bundle."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import make_bundle

from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import MANIFEST, BundleError
from service.bundle.signing import load_private_key, load_public_key, new_keys, require_signature


@pytest.fixture
def older(tmp_path: Path) -> tuple[Bundle, Path]:
    """A bundle that was signed before `keep_mask` was a field, and the key to trust."""
    private, public = tmp_path / "line.pem", tmp_path / "line.pub"
    new_keys(private, public)
    bundle = make_bundle(tmp_path / "models")
    said = json.loads((bundle.path / MANIFEST).read_text())
    del said["keep_mask"]
    text = json.dumps(said | {"signature": None}, separators=(",", ":"), ensure_ascii=False)
    said["signature"] = base64.b64encode(load_private_key(private).sign(text.encode())).decode()
    (bundle.path / MANIFEST).write_text(json.dumps(said))
    return bundle, public


def test_a_bundle_signed_before_a_field_was_there_is_trusted(older: tuple[Bundle, Path]) -> None:
    bundle, public = older
    require_signature(read_bundle(bundle.path), load_public_key(public))


@pytest.mark.parametrize("change", [{"keep_mask": None}, {"method": "other"}, {"metrics": {"image_auroc": 1.0}}])
def test_a_field_that_was_added_or_changed_breaks_the_signature(
    older: tuple[Bundle, Path], change: dict[str, object]
) -> None:
    bundle, public = older
    file = bundle.path / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BundleError, match="signature is not from the key"):
        require_signature(read_bundle(bundle.path), load_public_key(public))


def test_without_the_extra_a_command_names_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography.exceptions'] = None; from service.commands import run; "
        "sys.exit(run(['new-signing-keys', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "line")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install '.[signing]'" in done.stderr
