"""The pages and files beside inspection: the operator's page, the documentation, the golden images."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from bundles import gray, make_bundle, png, wait_until_loaded
from fastapi.testclient import TestClient
from replies import assert_problem, post

from service.app import create_app
from service.http.problems import PROBLEMS, ProblemBody
from service.http.replies import InspectionReply
from service.settings import Settings

GOOD, DOUBTFUL, BAD = png(gray(51)), png(gray(102)), png(gray(204))


def test_openapi_describes_both_ways_to_send_an_image(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    content = schema["paths"]["/inspect"]["post"]["requestBody"]["content"]
    assert {"image/jpeg", "image/png", "multipart/form-data"} <= content.keys()
    assert {"400", "404", "413", "429", "503", "504"} <= schema["paths"]["/inspect"]["post"]["responses"].keys()
    assert "verdict" in schema["components"]["schemas"]["ProblemBody"]["properties"]


def test_page_and_its_files_come_from_the_service_itself(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("web/station.js", "web/station.css"):
        assert f'"{name}"' in page.text
        assert client.get(f"/{name}").status_code == 200
    assert "http://" not in page.text.replace("http://localhost", "")


def test_docs_need_no_internet(client: TestClient) -> None:
    page = client.get("/docs")
    assert "//" not in page.text.replace("</", "")
    for file in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert client.get(file).status_code == 200
    assert "swagger-ui-bundle.js" in page.text
    policy = page.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_golden_images_can_be_fetched(client: TestClient) -> None:
    (recipe,) = client.get("/recipes").json()
    assert (recipe["recipe"], recipe["ready"], recipe["golden_images"]) == ("part", True, 1)
    assert client.get("/recipes/part/golden/0.png").headers["content-type"] == "image/png"
    assert_problem(client.get("/recipes/part/golden/1.png"), 404, "not_found")
    assert_problem(client.get("/recipes/part/golden/x.png"), 422, "invalid_request")


def test_the_page_is_told_where_anomalies_count(models: Path) -> None:
    mask = png(gray(255))
    make_bundle(models, "masked", keep=mask)
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        assert {reply["recipe"]: reply["keep_mask"] for reply in client.get("/recipes").json()} == {
            "masked": True,
            "part": False,
        }
        assert client.get("/recipes/masked/keep.png").content == mask
        assert_problem(client.get("/recipes/part/keep.png"), 404, "not_found")


def test_the_examples_of_the_api_are_what_it_answers(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    (example,) = schema["components"]["schemas"]["InspectionReply"]["examples"]
    assert InspectionReply.model_validate(example).verdict == "NG"
    assert example.keys() == post(client, GOOD).json().keys()
    responses = schema["paths"]["/inspect"]["post"]["responses"]
    examples = {
        code: (status, example["value"])
        for status, response in responses.items()
        for code, example in response["content"].get("application/problem+json", {}).get("examples", {}).items()
    }
    assert examples.keys() == PROBLEMS.keys()
    for code, (status, value) in examples.items():
        assert (ProblemBody.model_validate(value).code, str(value["status"])) == (code, status)
