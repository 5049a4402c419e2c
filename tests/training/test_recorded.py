"""What people said at the station becomes the data that the next version is trained on."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import gray, png
from fakes import wait_for

from service.images.decoding import encode, read
from service.station.record import Record
from service.station.records import Records
from service.station.reviews import Box, Review
from training.commands import run
from training.data.labels import labelled_images

SIZE = 64


def _mask() -> bytes:
    drawn = np.zeros((SIZE, SIZE), np.uint8)
    drawn[10:20, 30:50] = 255
    return encode(drawn, ".png")


@pytest.fixture
def station(tmp_path: Path) -> Path:
    """Records of twelve good parts, of three defects, and of parts that nobody reviewed."""
    folder = tmp_path / "records"
    records = Records(folder, image_budget_bytes=10_000_000)
    said = {f"good {number}": Review("good", "Ada") for number in range(12)}
    said["boxed"] = Review("defect", "Ada", defect_type="Deep scratch!", boxes=[Box(1, 2, 3, 4)])
    said["drawn"] = Review("defect", "Ada", defect_type="good", mask=_mask())
    said["named"] = Review("defect", "Ada")
    layouts = {"drawn": {"width": SIZE, "height": SIZE, "pixel_format": "Mono8"}}
    for number, name in enumerate([*said, "unseen", "lost"]):
        image = bytes([number]) * SIZE * SIZE if name in layouts else png(gray(number))
        reply = {"inspection_id": name, "recipe": "part", "verdict": "NG"}
        kept = None if name == "lost" else image
        records.add(Record(reply, time.time(), None, kept, layout=layouts.get(name)))
    wait_for(lambda: records.find("lost") and all(records.image(name) for name in said))
    records.review("boxed", Review("good", "Bob"))
    for name, review in said.items():
        records.review(name, review)
    records.review("lost", Review("good", "Ada"))
    records.close(wait_s=600)
    return folder


def test_reviewed_parts_become_a_data_set(station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert run(["collect", "--records", str(station), "--out", str(out)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["masks"], said["left_out"]) == (2, {"no image is kept": 1})
    assert said["images"].pop("train/good") + said["images"].pop("test/good", 0) == 12
    assert said["images"] == {"test/deep_scratch": 1, "test/defect_good": 1, "test/defect": 1}
    box = cv2.boundingRect(read(out / "ground_truth/deep_scratch/boxed_mask.png")[:, :, 0])
    assert box == (1, 2, 3, 4)
    drawn = read(out / "ground_truth/defect_good/drawn_mask.png")[:, :, 0]
    assert cv2.boundingRect(drawn) == (30, 10, 20, 10)
    assert read(out / "test/defect_good/drawn.png").shape == (SIZE, SIZE, 3)
    labelled = labelled_images(out)
    assert len(labelled) == 3 + len(list((out / "test").glob("good/*")))
    assert run(["collect", "--records", str(station), "--out", str(out)]) == 1
    assert "not empty" in capsys.readouterr().err


def test_what_cannot_be_collected_is_named(station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["collect", "--records", str(tmp_path), "--out", str(tmp_path / "a")]) == 1
    assert "INSPECT_RECORDS_DIR" in capsys.readouterr().err
    assert run(["collect", "--records", str(station), "--recipe", "other", "--out", str(tmp_path / "a")]) == 1
    assert "no part was reviewed" in capsys.readouterr().err
    for image in station.glob("images/*/*"):
        image.write_bytes(b"another")
    assert run(["collect", "--records", str(station), "--out", str(tmp_path / "a")]) == 1
    assert "not what was inspected" in capsys.readouterr().err
    # Half a data set would pass for a whole one.
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
    with closing(sqlite3.connect(station / "inspections.sqlite")) as connection, connection:
        connection.execute("UPDATE inspections SET recipe = 'nut' WHERE inspection_id = 'drawn'")
    assert run(["collect", "--records", str(station), "--out", str(tmp_path / "a")]) == 1
    assert "parts of nut, part: name one of them with --recipe" in capsys.readouterr().err
