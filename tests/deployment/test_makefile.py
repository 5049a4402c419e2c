"""The Makefile says what is missing before it installs anything."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from training.methods import METHODS

_ROOT = Path(__file__).parents[2]
_STAMPS = ("venv/.venv", "venv/.service", "venv/.training", "venv/.dev")


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    command = [make, "--makefile", str(_ROOT / "Makefile"), f"VENV={folder / 'venv'}", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "usage: make train DATA=folder-of-good-photos RECIPE=name"),
        (("RECIPE=part",), "usage: make train DATA=folder-of-good-photos RECIPE=name"),
        (("DATA=.",), "usage: make train DATA=folder-of-good-photos RECIPE=name"),
        (("DATA=nowhere", "RECIPE=part"), "nowhere: no such folder"),
        (("DATA=.", "RECIPE=part", "PRESET=typo"), "PRESET=typo: no such preset; there are station short"),
        (("DATA=.", "RECIPE=part", "PRESET=edge quick"), "no such preset"),
        (("DATA=.", "RECIPE=my part"), "RECIPE=my part: a name is of letters"),
        (("DATA=.", "RECIPE=../part"), "RECIPE=../part: a name is of letters"),
        (("DATA=.", "RECIPE=part", "TEXTURES=dtd"), "dtd: no such folder of textures"),
    ],
)
def test_train_says_what_is_missing_and_installs_nothing(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = _make(tmp_path, "train", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "venv").exists()


def test_make_knows_every_preset(tmp_path: Path) -> None:
    shown = _make(tmp_path, "--print-data-base", "--dry-run", "test").stdout
    listed = next(line for line in shown.splitlines() if line.startswith("PRESETS = ")).split()[2:]
    assert sorted(listed) == sorted(preset for method in METHODS.values() for preset in method.presets)


def test_test_avx2_holds_the_runtimes_to_avx2(tmp_path: Path) -> None:
    shown = _make(tmp_path, "--print-data-base", "--dry-run", "test-avx2").stdout
    assert "ONEDNN_MAX_CPU_ISA = AVX2" in shown
    assert "ATEN_CPU_CAPABILITY = avx2" in shown


def test_no_advice_names_a_distribution_that_no_index_has() -> None:
    """The project is on no package index: only the checkout can be installed, as '.[extra]'."""
    for folder in ("service", "training", "docker", "helm"):
        for file in (_ROOT / folder).rglob("*"):
            if file.suffix in {".py", ".md", ".yaml", ".html"}:
                assert "draem-inspect[" not in file.read_text(), file
    assert "draem-inspect[" not in (_ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "failing", [None, "mypy", "lint-imports", *(f"tests/{name}" for name in ("training/test_z", "service/test_a"))]
)
def test_every_test_is_run_once_and_one_that_fails_is_enough(tmp_path: Path, failing: str | None) -> None:
    """Everything is installed, by the stamps, and answers what it is told to."""
    programs, asked = tmp_path / "venv" / "bin", tmp_path / "asked"
    programs.mkdir(parents=True)
    for name in ("ruff", "mypy", "lint-imports", "python"):
        script = f'echo "$*" >>{asked}; case "{name} $*" in *"{failing}"*) exit 1;; esac'
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    for age, name in enumerate(("pyproject.toml", "constraints.txt", *_STAMPS)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (age, age))
    parts = {"training": "az", "service": "az9", "deployment": "az"}
    files = [f"tests/{folder}/test_{letter}.py" for folder, letters in parts.items() for letter in letters]
    files += ["tests/deployment/test_helm_values.py", "tests/deployment/test_observability.py"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert (_make(tmp_path, "test").returncode == 0) is (failing is None)
    runs = [line.split() for line in asked.read_text().splitlines() if "pytest" in line]
    for file in files:
        # A run that leaves files out is of all others.
        assert sum((file in words) is not ("--ignore" in words) for words in runs) == 1, file
