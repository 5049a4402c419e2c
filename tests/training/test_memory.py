"""Memory that does not suffice is said before the hours of a training, with what needs less."""

from pathlib import Path

import pytest
import torch

from training.commands import run as main
from training.data.demo_parts import write_dataset
from training.loop.memory import MemoryShortError, free_bytes, require_memory, shortage_named


def test_what_is_free_is_the_least_of_machine_and_container(tmp_path: Path) -> None:
    machine = tmp_path / "meminfo"
    assert free_bytes(machine, tmp_path) is None
    require_memory(0, "nothing")
    machine.write_text("MemTotal: 16 kB\nMemAvailable:    8192 kB\n")
    assert free_bytes(machine, tmp_path) == 8192 * 1024
    for name, text in (("max", "9000000"), ("current", "8500000"), ("stat", "anon 1\ninactive_file 300000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_bytes(machine, tmp_path) == 800_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(machine, tmp_path) == 8192 * 1024


def test_a_training_that_cannot_fit_is_refused_before_it_reads_a_photo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", good=4, test_good=1, defects_per_kind=0, seed=0)
    flags = ["--data", str(tmp_path / "data" / "train" / "good"), "--run", str(tmp_path / "run")]
    asked = ["--method", "fusion", "--size", "1024", "--samples", "1000000"]
    assert main(["train", "--recipe", "part", *flags, *asked]) != 0
    said = capsys.readouterr().err
    assert "fusion on 4 photos with --size 1024 and --tiles 1x1 needs about" in said
    assert "take a smaller --size" in said


def test_memory_that_pytorch_does_not_get_is_named_and_other_errors_are_not() -> None:
    with pytest.raises(MemoryShortError, match="a smaller --size"), shortage_named("training"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(MemoryShortError, match="a smaller --size"), shortage_named("training"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(RuntimeError, match="shapes"), shortage_named("training"):
        raise RuntimeError("shapes do not fit")
