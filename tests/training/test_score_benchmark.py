from pathlib import Path

import numpy as np
import pytest
from bundles import demo_trained_on, make_bundle
from numpy.typing import NDArray

from service.bundle.folder import read_bundle
from training.benchmarks.scores import FORMULAS, PLACES, SIZES, Scores, compare, main, places, render, tabulate
from training.data.demo_parts import render_good, write_dataset

DEMO = Path(__file__).parents[2] / "models" / "demo" / "1"
GOOD = [render_good(np.random.default_rng(seed)) for seed in range(2)]


class Perfect:
    """Finds what differs from the first photo, exactly."""

    name, precision, provider, max_batch_size = "perfect", "fp32", "none", 8

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        maps = (np.abs(images.astype(int) - GOOD[0]).max(axis=3) > 12).astype(np.float32)
        return maps, maps.max(axis=(1, 2))

    def close(self) -> None:
        pass


def test_places_say_how_many_sides_of_the_image_cut_the_defect() -> None:
    for across in SIZES:
        allowed = places((256, 256), across)
        assert sum(mask.astype(int) for mask in allowed.values()).max() == 1, "no centre is two places"  # type: ignore[union-attr]
        for place, sides in (("interior", 0), ("edge", 1), ("corner", 2)):
            y, x = np.nonzero(allowed[place])
            reach = across / 2
            cut = [y < reach, y > 255 - reach, x < reach, x > 255 - reach]
            assert (np.sum(cut, axis=0) == sides).all()
            assert len(y) > 0
        rows, _ = np.nonzero(allowed["interior"])
        assert rows.min() - across / 2 >= 10, "the paper's window around it is never padded"


def test_every_size_is_rendered_at_every_place() -> None:
    extents: dict[tuple[int, str], list[int]] = {}
    for cell, picture in render([GOOD[0]] * 4, seed=0):
        y, x = np.nonzero((picture != GOOD[0]).any(axis=2))
        extents.setdefault(cell, []).append(max(np.ptp(y), np.ptp(x)) + 1)
        near = sum(min(v.mean(), 255 - v.mean()) < max(10, cell[0]) for v in (y, x))
        assert near >= PLACES.index(cell[1])
        assert cell[1] != "interior" or min(y.min(), x.min(), 255 - y.max(), 255 - x.max()) > 0
    assert set(extents) == {(size, place) for size in SIZES for place in PLACES}
    assert np.mean(extents[40, "interior"]) > 2 * np.mean(extents[5, "interior"])


def test_the_formulas_are_compared_on_one_set_of_maps() -> None:
    """What the detector finds exactly, the paper's score still cannot show in a corner."""
    bundle = read_bundle(DEMO)
    found = compare(bundle, Perfect(), [GOOD[0]] * 6, seed=0)
    assert set(found) == set(FORMULAS)
    assert all((scores.good == 0).all() for scores in found.values())
    middle = {formula: np.median(scores.chosen(5, "corner")) for formula, scores in found.items()}
    assert middle["paper"] < 0.06 < middle["mean"]
    assert middle["windows"] > 0.4
    assert (found["mean"].chosen(40, "corner") >= found["paper"].chosen(40, "corner") - 1e-6).all()


def test_the_table_has_auroc_and_escapes_below_each_formulas_own_threshold() -> None:
    of = {(size, place): np.float32([0.2, 0.9]) for size in SIZES for place in PLACES}
    thresholds = read_bundle(DEMO).manifest.thresholds.model_copy(update={"review": 0.4, "reject": 0.5})
    of[5, "corner"] = np.float32([0.0, 0.05])
    table = tabulate({"part": {"paper": Scores(np.float32([0.1, 0.3]), thresholds, of)}})
    head, row = (line.split("|")[1:-1] for line in (table.splitlines()[0], table.splitlines()[2]))
    cells = {name.strip(): cell.strip() for name, cell in zip(head, row, strict=True)}
    assert cells["10 px"] == cells["interior"] == "75.0 / 50"
    assert cells["5 px"] == f"{100 * (2 * 0.75 + 0) / 3:.1f} / 67"
    assert cells["corner"] == f"{100 * 4 * 0.75 / 5:.1f} / 60"


@pytest.mark.slow
def test_the_photos_are_those_that_training_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "flange", good=10, test_good=1, defects_per_kind=1, seed=0)
    demo = demo_trained_on(tmp_path / "flange", tmp_path / "models")
    assert main(["--bundle", str(demo), "--data", str(tmp_path / "flange")]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("|")[1:3] for row in rows] == [[" demo/1, 2 good ", f" `{formula}` "] for formula in FORMULAS]


def test_a_bundle_without_held_out_photos_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path)
    assert main(["--bundle", str(bundle.path), "--data", str(tmp_path)]) == 1
    assert f"{bundle.path}: its manifest does not tell which photos were held out" in capsys.readouterr().err
