"""Checkpoints that cannot be this run's: each is refused by name, with the remedy, and stays where it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import TINY, train

from training.loop.runs import CHECKPOINT, TrainingError, begin_with, peak_memory, training_minutes

SHORT = replace(TINY, steps=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run")
    train(SHORT, folder)
    state: dict[str, Any] = torch.load(folder / CHECKPOINT, weights_only=True)
    return state


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def _not_finite(state: dict[str, Any]) -> object:
    network = {name: weights.clone() for name, weights in state["network"].items()}
    next(iter(network.values())).fill_(float("nan"))
    return state | {"network": network}


FOREIGN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "weights alone": (lambda state: state["network"], "not a checkpoint of this program"),
    "a list": (lambda state: [1, 2], "not a checkpoint of this program"),
    "without its generators": (_without("generators"), "not a checkpoint of this program"),
    "not finite": (_not_finite, "weights that are not finite"),
    "of another network": (lambda state: state | {"network": {"a": torch.zeros(1)}}, "of another network"),
    "of another optimizer": (lambda state: state | {"optimizer": {"x": 1}}, "of another network or optimizer"),
    "of other photos": (lambda state: state | {"inputs": "0" * 64}, "other photos or textures"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_checkpoint_is_refused_with_the_remedy(tmp_path: Path, checkpoint: dict[str, Any], kind: str) -> None:
    change, said = FOREIGN[kind]
    torch.save(change(checkpoint), tmp_path / CHECKPOINT)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(TrainingError, match=rf"{CHECKPOINT}: .*{said}.*remove it to start again"):
        train(replace(TINY, steps=2), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_what_is_no_checkpoint_is_said_wherever_it_is_read(tmp_path: Path) -> None:
    torch.save({"network": {}}, tmp_path / CHECKPOINT)
    asks: list[Callable[[Path], object]] = [training_minutes, peak_memory]
    asks.append(lambda run: begin_with(run, torch.nn.Linear(1, 1)))
    for ask in asks:
        with pytest.raises(TrainingError, match="not a checkpoint of this program"):
            ask(tmp_path)


def test_lost_statistics_stop_no_run(tmp_path: Path) -> None:
    train(SHORT, tmp_path)
    (tmp_path / "stats.jsonl").unlink()
    train(replace(TINY, steps=2), tmp_path)
