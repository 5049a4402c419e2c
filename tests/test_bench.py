import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from service.bundle import read_bundle
from training.__main__ import main
from training.bench import BenchError, Subject, export_random, parameters_and_macs, subject_of
from training.networks import Draem


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return export_random((4, 4), 32, tmp_path_factory.mktemp("bench"))


def test_arithmetic_is_that_of_the_network(subject: Subject) -> None:
    parameters, macs = parameters_and_macs(subject.models["fp32"])
    # BatchNorm is folded: its scale is gone into the weights, its shift into biases that the network has already.
    weights = sum(p.numel() for p in Draem(4, 4).parameters() if p.ndim == 4)
    assert weights < parameters < weights * 1.1
    first, last = 3 * 4 * 9 * 32 * 32, 4 * 2 * 9 * 32 * 32
    assert macs > 2 * (first + last)
    assert macs < weights * 32 * 32


def test_every_contender_is_timed_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    command = ["bench", "--widths", "4", "4", "--size", "64", "--batch", "1", "2", "--rounds", "3", "--out", str(out)]
    assert main(command) == 0
    record = json.loads(out.read_text())
    rows = {(row["runtime"], row["precision"]): row for row in record["rows"]}
    assert {("pytorch", "fp32"), ("ort-cpu", "fp32"), ("ort-cpu", "int8")} <= rows.keys()
    assert (("openvino", "int8") in rows) == bool(find_spec("openvino"))
    assert ("ort-cpu", "bf16") not in rows
    for row in rows.values():
        assert [timing["batch"] for timing in row["timings"]] == [1, 2]
        assert all(0 < timing["p50_ms"] <= timing["p99_ms"] for timing in row["timings"])
        assert row["peak_memory_mib"] > 10
        assert row["ceiling"] > 0
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "| ort-cpu | fp32 |" in capsys.readouterr().out


def test_an_imported_bundle_is_told_to_give_its_widths() -> None:
    demo = read_bundle(Path(__file__).parents[1] / "models" / "demo" / "1")
    assert subject_of(demo).widths == (16, 16)
    imported = replace(demo, manifest=demo.manifest.model_copy(update={"training": {"imported": ["a", "b"]}}))
    with pytest.raises(BenchError, match="use --widths"):
        subject_of(imported)
