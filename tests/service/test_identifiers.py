"""Names of parts beyond ASCII: one part has one name, however it was spelled on the way."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from replies import post

from service.app import create_app
from service.http.identifiers import read_identifier
from service.http.metadata import named
from service.settings import Settings


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("Gehäuse-17".encode(), "Gehäuse-17"),
        (unicodedata.normalize("NFD", "Gehäuse-17").encode(), "Gehäuse-17"),
        ("Gehäuse-17".encode("latin-1"), "Gehäuse-17"),
        ("17\u202e41".encode(), "17 41"),
        (b"a\tb", "a b"),
    ],
)
def test_what_bytes_are_read_as(sent: bytes, read: str) -> None:
    assert read_identifier(sent.decode("latin-1")) == read


@pytest.mark.parametrize("sent", ["", "  ", "\u202e"])
def test_an_empty_header_names_nothing(sent: str) -> None:
    assert named(read_identifier(sent.encode().decode("latin-1"))) is None


def test_a_part_is_found_by_either_spelling(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    app = create_app(Settings(records_dir=tmp_path / "records", models_dir=tmp_path / "models", backend="ort-cpu"))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        decomposed = unicodedata.normalize("NFD", "Gehäuse-17")
        # The test's own client takes no header of a reply that is not ASCII.
        refused = post(client, png(gray(51))[:20], headers={"X-Part-Id": decomposed.encode()})
        assert refused.status_code == 400
        for part in ("Gehäuse-17", decomposed, f"{decomposed[:6]}*"):
            wait_for(lambda part=part: client.get("/inspections", params={"part_id": part}).json())
