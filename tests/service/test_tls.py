"""HTTPS that cannot be served as asked for is refused at the start, never served as something else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from certificates import write_certificate

from service.http.tls import TlsFileError, tls_context
from service.settings import Settings


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    authority = write_certificate(tmp_path, "authority", None)
    write_certificate(tmp_path, "service", authority)
    (tmp_path / "text").write_text("no PEM")
    (tmp_path / "open.key").write_bytes((tmp_path / "service.key").read_bytes())
    (tmp_path / "open.key").chmod(0o666)
    return {
        "cert": tmp_path / "service.pem",
        "key": tmp_path / "service.key",
        "other": tmp_path / "authority.key",
        "authority": tmp_path / "authority.pem",
        "text": tmp_path / "text",
        "open": tmp_path / "open.key",
        "nothing": tmp_path / "nothing",
    }


@pytest.mark.parametrize(
    ("tls_cert", "tls_key", "tls_client_ca", "message"),
    [
        (None, None, "authority", "set INSPECT_TLS_CERT and INSPECT_TLS_KEY"),
        ("cert", None, None, "set INSPECT_TLS_KEY"),
        ("cert", None, "authority", "set INSPECT_TLS_KEY"),
        (None, "key", None, "set INSPECT_TLS_CERT"),
        ("nothing", "key", None, "not a PEM certificate"),
        ("cert", "nothing", None, "nothing: the private key cannot be read"),
        ("text", "key", None, "not a PEM certificate"),
        ("cert", "text", None, "not a PEM certificate"),
        ("cert", "other", None, "not a PEM certificate"),
        ("cert", "open", None, "chmod go-rwx"),
        ("cert", "key", "nothing", "not a PEM file of authorities"),
        ("cert", "key", "text", "not a PEM file of authorities"),
    ],
)
def test_half_of_https_is_refused(
    files: dict[str, Path], tls_cert: str | None, tls_key: str | None, tls_client_ca: str | None, message: str
) -> None:
    names = {"tls_cert": tls_cert, "tls_key": tls_key, "tls_client_ca": tls_client_ca}
    with pytest.raises(TlsFileError, match=message):
        tls_context(Settings(**{name: value and files[value] for name, value in names.items()}))


def test_none_and_all_of_it_is_served(files: dict[str, Path]) -> None:
    assert tls_context(Settings()) is None
    assert tls_context(Settings(tls_cert=files["cert"], tls_key=files["key"], tls_client_ca=files["authority"]))


@pytest.mark.slow
def test_the_command_says_so_and_serves_nothing(files: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "service", "--port", "0", "--records-dir", "none"]
    done = subprocess.run(
        [*command, "--tls-client-ca", str(files["authority"])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: INSPECT_TLS_CLIENT_CA")
