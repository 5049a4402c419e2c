import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from service.bundle.folder import read_bundle
from service.bundle.manifest import InputSpec, TrainingRecord
from training.benchmarks.contender import Contender, Subject, in_openvino
from training.benchmarks.inference import (
    BenchError,
    contenders,
    export_random,
    parameters_and_macs,
    reached,
    run_bench,
    subject_of,
    tabulate,
)
from training.bundling.arithmetic import macs
from training.bundling.graph import InspectionGraph
from training.bundling.onnx import to_onnx
from training.commands import run as main
from training.commands.bench import network_of
from training.networks.anomaly_map import AnomalyMap
from training.networks.draem import Draem


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return export_random(partial(AnomalyMap, Draem(4, 4)), 32, 32, tmp_path_factory.mktemp("bench"))


def test_arithmetic_is_that_of_the_network(subject: Subject) -> None:
    parameters, arithmetic = parameters_and_macs(subject.models["fp32"])
    # BatchNorm is folded: its scale is gone into the weights, its shift into biases that the network has already.
    weights = sum(p.numel() for p in Draem(4, 4).parameters() if p.ndim == 4)
    assert weights < parameters < weights * 1.1
    layers = list(macs(onnx.load(subject.models["fp32"])).values())
    # The last one gives the difference of the logits, one channel.
    assert (layers[0], layers[-1]) == (3 * 4 * 9 * 32 * 32, 4 * 1 * 9 * 32 * 32)
    assert arithmetic == sum(layers) < weights * 32 * 32


def test_every_contender_is_timed_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    settings = ["--preset", "paper", "--reconstructive-width", "4", "--discriminative-width", "4", "--size", "64"]
    command = ["bench", *settings, "--batch", "1", "2", "--rounds", "3", "--out", str(out)]
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
        assert (row["ceiling"] is None) == (row["precision"] in record["emulated"])
        assert row["ceiling"] is None or 0 < row["ceiling"] <= 1
        assert row["cold_start_s"] > 0
    # A runtime's process holds that runtime: PyTorch's own libraries are 200 MB.
    assert rows["ort-cpu", "fp32"]["peak_memory_mib"] < rows["pytorch", "fp32"]["peak_memory_mib"] - 100
    assert record["ceiling_gmac_per_s"].keys() >= {"fp32", "int8"}
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "| ort-cpu | fp32 |" in capsys.readouterr().out


def test_a_type_that_the_cpu_only_emulates_has_no_ceiling(tmp_path: Path) -> None:
    """In a process held to AVX2, where bfloat16 is emulated on every x86 CPU."""
    program = (
        "from training.benchmarks.contender import probe\n"
        "import torch; torch.set_num_threads(1)\n"
        "print(probe('fp32'), probe('bf16'), probe('int8'))"
    )
    held = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", program], env=held, capture_output=True, text=True, check=True)
    fp32, bf16, int8 = map(float, done.stdout.split())
    assert min(fp32, bf16, int8) > 0
    if platform.machine() == "x86_64":
        assert bf16 < fp32
    record = {
        "cpu": "a CPU",
        "parameters": 10,
        "macs": 10,
        "threads": 1,
        "ceiling_gmac_per_s": {"fp32": 33.5, "bf16": 0.4},
        "matrix_product_gmac_per_s": {"fp32": 30.1, "bf16": 0.4},
        "emulated": ["bf16"],
        "rows": [
            {"runtime": "pytorch", "precision": precision, "timings": [_TIMING], "peak_memory_mib": 300.0}
            | {"cold_start_s": 1.25, "ceiling": ceiling}
            for precision, ceiling in (("fp32", 0.5), ("bf16", None))
        ],
    }
    table = tabulate(record)
    assert "| pytorch | bf16 | 5.0 / 6.0 | 200.0 | 1.0x | none | 300 | 1.2 |" in table
    assert "No ceiling in bf16: the fastest here reaches 0.4 GMAC/s in it and 33.5 in fp32" in table
    assert "The ceiling in fp32 is the fastest row's 33.5 GMAC/s: PyTorch's matrix product reaches 30.1." in table


def test_a_runtime_that_outdoes_the_matrix_product_is_the_ceiling() -> None:
    rates = {Contender("ort-cpu", "int8"): 5.0, Contender("openvino", "int8"): 9.0, Contender("ort-cpu", "fp32"): 2.0}
    assert reached({"fp32": 3.0, "int8": 1.0}, rates) == {"fp32": 3.0, "int8": 9.0}


def test_other_runtimes_do_not_bring_pytorch_with_them() -> None:
    program = "import sys, training.benchmarks.contender; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


_TIMING = {"batch": 1, "p50_ms": 5.0, "p99_ms": 6.0, "images_per_s": 200.0, "joules": None}


class _Answer(NamedTuple):
    anomaly_map: torch.Tensor
    pred_score: torch.Tensor


class _Peer(nn.Module):
    """Answers as anomalib's Draem does, by name."""

    def forward(self, images: torch.Tensor) -> _Answer:
        mean = images.mean(dim=1)
        return _Answer(mean, mean.amax(dim=(1, 2)))


# OpenVINO reads networks of PyTorch by a trace.
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_a_peer_runs_in_openvino_as_it_does_in_torch() -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    found = in_openvino(_Peer(), InputSpec(height=32, width=48))(images)
    assert found[0] == pytest.approx(images.mean(axis=3) / 255, abs=5e-3)
    assert found[1] == pytest.approx(images.mean(axis=3).max() / 255, abs=5e-3)


def test_a_contender_that_cannot_be_opened_is_named(subject: Subject, tmp_path: Path) -> None:
    broken = tmp_path / "model.int8.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(BenchError, match="ort-cpu in int8 ended"):
        run_bench(replace(subject, models={**subject.models, "int8": broken}), threads=1, batches=[1], rounds=1)


def test_a_bundle_is_timed_beside_its_network_where_its_manifest_tells_the_settings() -> None:
    demo = read_bundle(Path(__file__).parents[2] / "models" / "demo" / "1")
    network = network_of(demo)
    assert network is not None
    own = onnx.load(demo.file("model.onnx")).graph.initializer
    ours = onnx.load_from_string(to_onnx(InspectionGraph(network()).eval(), 64, 64)).graph.initializer
    assert [w.dims for w in ours if len(w.dims) == 4] == [w.dims for w in own if len(w.dims) == 4]
    imported = replace(
        demo, manifest=demo.manifest.model_copy(update={"training": TrainingRecord(imported=["a", "b"])})
    )
    assert network_of(imported) is None
    assert "pytorch" not in [contender.runtime for contender in contenders(subject_of(imported, None))]
