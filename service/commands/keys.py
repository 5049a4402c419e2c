"""`python -m service new-key | new-signing-keys`: API keys, and the pair of keys that signs bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.flags import POSITIONAL
from service.http.access import Role, new_key


class NewKey(BaseModel):
    """Print a new API key, and the line that lets it in."""

    model_config = ConfigDict(frozen=True)

    role: Annotated[Role, POSITIONAL, Field(description="what the key may do")]
    name: Annotated[str, POSITIONAL, Field(min_length=1, description='who has the key, such as "camera 4"')]


class NewSigningKeys(BaseModel):
    """Write NAME.pem to sign bundles with (keep it where recipes are trained) and NAME.pub to trust them by."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[Path, POSITIONAL, Field(description="path of the two files without their ending")]


def run_new_key(request: NewKey) -> int:
    key, line = new_key(request.role, request.name)
    print(f"key, shown once: {key}\nline for INSPECT_API_KEYS_FILE: {line}")
    return 0


def run_new_signing_keys(request: NewSigningKeys) -> int:
    # Only needed where bundles are signed.
    from service.bundle.signing import new_keys

    new_keys(request.name.with_suffix(".pem"), request.name.with_suffix(".pub"))
    return 0
