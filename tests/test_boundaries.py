"""What must not be imported where; import-linter checks the source, this the running process."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _loaded(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_service_loads_neither_torch_nor_training() -> None:
    loaded = _loaded("import service.app, service.__main__, service.backends.ort")
    assert not loaded & {"torch", "training", "onnx", "sklearn", "scipy", "matplotlib"}
    assert "fastapi" in loaded


def test_a_bundle_can_be_read_without_web_server_or_runtime() -> None:
    assert not _loaded("import service.bundle.folder") & {"fastapi", "onnxruntime", "cv2", "torch"}


def test_what_is_installed_needs_no_laboratory(tmp_path: Path) -> None:
    """The sources less what the wheel leaves out: the commands are there."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    left_out = build["targets"]["wheel"]["exclude"]
    assert "training/experiments" in left_out
    assert "training/benchmarks/inference.py" not in left_out
    for package in ("service", "training"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in left_out:
        path = tmp_path / name
        assert path.exists(), f"{name}: nothing of that name to leave out"
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("service/web/index.html", "service/web/words/de.js", "training/evaluation/report_template.html"):
        assert (tmp_path / name).is_file()
    kept = {file.name for file in (tmp_path / "training" / "benchmarks").iterdir()}
    assert kept == {"__init__.py", "contender.py", "inference.py"}, "what only the project measures itself with"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "training", "--help"]
    shown = subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert "bench" in shown
    assert "ablate" not in shown
