"""Ctrl-C, and packages that are not there, end a command with a line and never with a traceback."""

import subprocess
import sys
from typing import NoReturn

import pytest

from service.commands.outcome import attempt as attempt_of_service
from training.commands.outcome import attempt as attempt_of_training


def _stopped() -> NoReturn:
    raise KeyboardInterrupt


def test_ctrl_c_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert attempt_of_service(_stopped) == 130
    assert capsys.readouterr().err == "stopped\n"
    assert attempt_of_training(_stopped) == 130
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["torch", "scipy"])
def test_training_without_its_packages_says_how_to_get_them(package: str) -> None:
    """At the start, also where a package is not loaded before the training has ended."""
    code = f"import runpy, sys; sys.modules[{package!r}] = None; runpy.run_module('training', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: training needs an extra: make .venv/.training")
