"""The report of a shift or a lot: every part in it once, whatever became of it."""

import json
import time as clock
from pathlib import Path

from bundles import gray, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from replies import post

from service.app import create_app
from service.settings import Settings
from service.station.record import Record
from service.station.records import Records
from service.station.reporting import Span, report

GOOD, DOUBTFUL, BAD = (png(gray(value)) for value in (51, 102, 204))


def test_a_report_has_every_part_of_its_shift_or_lot_and_what_people_found(models: Path, tmp_path: Path) -> None:
    app = create_app(Settings(records_dir=tmp_path / "records", models_dir=models, backend="ort-cpu"))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        sent = [(GOOD, "L 1"), (GOOD, "L 2"), (BAD, "L 1"), (BAD, "L 1"), (DOUBTFUL, "L 1"), (png(gray(0)), "L 1")]
        ids = [post(client, image, headers={"X-Lot-Id": lot}).json().get("inspection_id") for image, lot in sent]
        post(client, b"text", headers={"X-Lot-Id": "L 2"})
        wait_for(lambda: len(client.get("/inspections").json()) == 7)
        for name, verdict in ((ids[0], "defect"), (ids[2], "good"), (ids[3], "defect")):
            said = {"verdict": verdict, "reviewer": " Anna  B "}
            written = client.post(f"/inspections/{name}/reviews", json=said).json()
            assert written["by"] == "Anna B (anybody)"
        shift = client.get("/report").json()
        assert shift["shift"] == client.get("/shift").json()["name"]
        (part,) = (one for one in shift["parts"] if one["recipe"])
        assert (part["total"], part["OK"], part["REVIEW"], part["NG"], part["NOT_INSPECTED"]) == (6, 2, 1, 2, 1)
        assert sum(one["total"] for one in shift["parts"]) == 7
        assert shift["not_inspected"] == {"too dark": 1, "unsupported_image": 1}
        assert shift["reviews"] == {"reviewed": 3, "waiting": 3, "rejected_good": 1, "passed_defects": 1}
        assert client.get("/report?shift=before").json()["parts"] == []
        lot = client.get("/report?lot=L 1").json()
        assert (lot["lot"], sum(one["total"] for one in lot["parts"]), lot["last"] >= lot["first"]) == ("L 1", 5, True)
        assert client.get("/report?lot=none").json()["first"] is None
        assert (
            client.post(f"/inspections/{ids[0]}/reviews", json={"verdict": "good", "reviewer": " "}).status_code == 422
        )


def test_refusals_that_were_summed_up_are_all_in_the_report(tmp_path: Path) -> None:
    records, now = Records(tmp_path, image_budget_bytes=1000), clock.time()
    reply = {"inspection_id": "1", "recipe": None, "verdict": "NOT_INSPECTED", "code": "refusals_summed"}
    records.add(Record(reply | {"refused": {"part": {"overloaded": 40}, "": {"unknown_recipe": 2}}}, now, None, None))
    records.close(wait_s=600)
    found = records.ask(lambda connection: report(connection, Span(now - 1, now + 1)))
    assert {one["recipe"]: one["total"] for one in found["parts"]} == {"part": 40, "": 2}
    assert found["not_inspected"] == {"overloaded": 40, "unknown_recipe": 2}


def test_who_decided_what_can_be_read(models: Path, tmp_path: Path) -> None:
    settings = Settings(records_dir=tmp_path / "records", models_dir=models, backend="ort-cpu")
    with TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        assert client.patch("/recipes/part/limits", json={"review": 0.25}).status_code == 200
        limits, *earlier = client.get("/decisions").json()
        assert (limits["by"], limits["about"]) == ("this machine", "the limits of part/1")
        assert json.loads(limits["decision"])["review"] == 0.25
        assert {one["about"] for one in earlier} >= {"the version of part"}
        with (tmp_path / "records" / "decisions.jsonl").open("a") as stream:
            stream.write("{}\nnot a line\n")
        assert client.get("/decisions?limit=1").json() == [limits]
