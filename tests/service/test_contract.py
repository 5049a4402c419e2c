"""The service does what its OpenAPI document says, for requests that nobody thought of."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import running_service

# 503 and 504 are answers too: invented deadlines cannot be met.
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503, 504]
"""


@pytest.mark.slow
def test_schemathesis_finds_nothing(models: Path, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    with running_service(models, tmp_path / "log") as (_, client):
        command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{client.base_url}/openapi.json"]
        # Random bytes are a valid request body and no image: that 400 is right.
        flags = ["--exclude-checks", "positive_data_acceptance", "--max-examples", "25", "--seed", "1"]
        done = subprocess.run([*command, *flags], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in (tmp_path / "log").read_text()
