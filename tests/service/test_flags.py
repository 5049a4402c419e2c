"""Command lines: every flag explained, every wrong value one line with the remedy."""

import subprocess
import sys

import pytest
from pydantic import BaseModel

from service.commands import COMMANDS, run
from service.flags import FlagError, read_flags
from service.settings import Settings, read_settings


def _help(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "service", *words, "--help"], capture_output=True, text=True, check=True
    )
    return " ".join(done.stdout.split())


def test_the_help_has_every_setting_with_its_variable_and_lists_every_command() -> None:
    text = _help()
    for name, field in Settings.model_fields.items():
        assert f"INSPECT_{name.upper()}" in text
        assert " ".join((field.description or "").split()[:3]) in text
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_of_every_command_has_a_sentence(name: str) -> None:
    assert all(field.description for field in COMMANDS[name].request.model_fields.values())
    assert COMMANDS[name].request.__doc__


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["qualify", "x.png", "--rate", "fast", "--deadline", "80ms"], "--rate fast"),
        (["qualify", "x.png", "--rate", "3/s", "--deadline", "80ms", "--required", "2"], "--required 2"),
        (["qualify", "x.png", "--rate", "3/s"], "--deadline is missing"),
        (["new-key", "boss", "me"], "role boss"),
        (["limits", "part", "--review", "7"], "--review 7"),
        (["limits", "part", "--quality", "sharp"], "name=figure"),
        (["limits", "part", "--review", "0.5", "--reset"], "--reset"),
        (["build-engine", "--max-batch", "0"], "--max-batch 0"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_flag(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line


@pytest.mark.parametrize(("flags", "variables"), [(["--port", "70000"], {}), ([], {"INSPECT_PORT": "70000"})])
def test_the_service_names_the_flag_or_the_variable(
    flags: list[str], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-m", "service", *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert ("--port" if flags else "INSPECT_PORT") in line
    assert "65535" in line


def test_commands_that_need_no_setting_work_beside_a_wrong_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INSPECT_PORT", "70000")
    assert run(["new-key", "inspect", "camera 4"]) == 0
    assert run(["fetch", "nowhere.tar", "--sha256", "0"]) == 2
    assert "INSPECT_PORT 70000" in capsys.readouterr().err


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(FlagError) as told:
        read_settings({"port": "-1", "backend": "gpu"})
    assert len(str(told.value).splitlines()) == 2


def test_a_missing_value_says_what_it_is_for() -> None:
    class Request(BaseModel):
        size: int

    with pytest.raises(FlagError, match="--size is missing"):
        read_flags(Request, {})
