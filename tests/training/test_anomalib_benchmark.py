import importlib.util
from pathlib import Path

import pytest

from training.benchmarks.anomalib import main


@pytest.mark.skipif(importlib.util.find_spec("anomalib") is not None, reason="anomalib is installed")
def test_missing_anomalib_is_named_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path), "--textures", str(tmp_path), "--minutes", "1"]) == 1
    assert "anomalib cannot be imported" in capsys.readouterr().err
