from copy import deepcopy

import pytest
import torch

from training.benchmarks.step import main, make_batches, plain_losses, run_steps
from training.methods.draem.lesson import draem_losses
from training.networks.compact import CompactDraem
from training.networks.draem import Draem


def test_plain_losses_are_our_losses_written_otherwise() -> None:
    batch = make_batches(1, 64, 4, seed=0)[0]
    torch.manual_seed(0)
    reconstruction, logits = Draem(4, 4)(batch.augmented)
    assert batch.mask.any()
    ours = sum(draem_losses(reconstruction, logits, batch.clean, batch.mask).values())
    torch.testing.assert_close(plain_losses(reconstruction, logits, batch.clean, batch.mask), ours, rtol=1e-4, atol=0)


@pytest.mark.parametrize("networks", [Draem, CompactDraem])
def test_both_steps_follow_the_same_losses(networks: type[Draem | CompactDraem]) -> None:
    batches = make_batches(5, 64, 4, seed=0)
    torch.manual_seed(0)
    network = networks(4, 4)
    plain, ours = (run_steps(kind, batches, deepcopy(network)) for kind in ("plain", "ours"))
    assert ours.losses == pytest.approx(plain.losses, rel=0.03)
    assert len(set(plain.losses)) == 5


@pytest.mark.slow
def test_table_has_a_row_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--compact", "--widths", "4", "4", "--size", "64", "--batch", "2", "--steps", "3", "--rounds", "1"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["plain", "ours"]
    assert all(float(row[1]) > 0 for row in rows)
