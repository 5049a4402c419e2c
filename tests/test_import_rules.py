"""The rules of pyproject.toml for imports: each holds, and each breaks where one import breaks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

# An import that must not be, for each contract: the file that gets it, and what it imports.
BREACHES = {
    "torch-free": ("service/images/quality.py", "torch"),
    "service-floors": ("service/bundle/manifest.py", "service.station.cameras"),
    "allow-list": ("training/data/regions.py", "service.settings"),
    "training-floors": ("training/loop/muon.py", "training.bundling.scores"),
    "methods-apart": ("training/methods/other/method.py", "training.methods.draem.config"),
    "one-table": ("training/loop/muon.py", "training.methods.draem.config"),
    "no-circles": ("training/data/folders.py", "training.data.masks"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, with a second method beside DRÆM."""
    copy = tmp_path_factory.mktemp("sources")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for package in ("service", "training"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.md"))
    other = copy / "training" / "methods" / "other"
    other.mkdir()
    for name in ("__init__.py", "method.py"):
        (other / name).touch()
    return copy


def _lint(copy: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    command += [word for contract in contracts for word in ("--contract", contract)]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


def test_every_contract_holds_and_has_a_breach(copy: Path) -> None:
    done = _lint(copy)
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in done.stdout, done.stdout + done.stderr
    assert [contract["id"] for contract in CONTRACTS] == list(BREACHES)


@pytest.mark.parametrize("contract", BREACHES)
def test_a_contract_breaks_where_one_import_breaks_it(copy: Path, contract: str) -> None:
    name, imported = BREACHES[contract]
    file = copy / name
    before = file.read_text()
    file.write_text(f"{before}\nimport {imported}\n")
    try:
        done = _lint(copy, contract)
    finally:
        file.write_text(before)
    assert done.returncode == 1
    assert "0 kept, 1 broken" in done.stdout, done.stdout + done.stderr
