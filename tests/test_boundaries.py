"""What must not be imported where; import-linter checks the source, this the running process."""

import subprocess
import sys


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
