"""A short run of the fuzz target from the same start each time; the long one is a command."""

import subprocess
import sys
from pathlib import Path

import pytest

TARGET = Path(__file__).parents[1] / "support" / "fuzz_images.py"


@pytest.mark.slow
def test_the_fuzz_target_finds_nothing_in_a_short_run(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris does not install on this platform or Python")
    # Linux hands the peak memory of a process to what it executes, and libFuzzer would take that of this test run for
    # its own and call it too much. What a shell starts begins anew.
    afresh = ["/bin/sh", "-c", '"$@"; exit $?', "sh"]
    command = [*afresh, sys.executable, str(TARGET), "-runs=20000", "-seed=1"]
    environment = {"PYTHONPATH": str(TARGET.parents[2]), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 20000 runs" in done.stderr
