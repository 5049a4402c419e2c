from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings, read_settings

README = Path(__file__).parents[2] / "service" / "README.md"


def test_environment_and_flags_set_the_same_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECT_MAX_BATCH", "4")
    monkeypatch.setenv("INSPECT_PORT", "9000")
    settings = read_settings({"port": "9001", "models_dir": "elsewhere"})
    assert (settings.max_batch, settings.port, settings.models_dir) == (4, 9001, Path("elsewhere"))


def test_impossible_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECT_PORT", "70000")
    with pytest.raises(ValidationError, match="port"):
        Settings()


def test_settings_cannot_change_after_they_were_read() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_readme_table_has_every_setting_with_its_default() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `INSPECT_")]
    assert rows == [
        f"| `INSPECT_{name.upper()}` | `{'' if field.default is None else field.default}` | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
