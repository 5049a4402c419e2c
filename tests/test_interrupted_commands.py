"""Ctrl-C ends a command with a line, wherever it was, and with the status that shells know."""

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
