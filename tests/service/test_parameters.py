"""Every route refuses what it does not read: the tests walk over all routes of the app."""

import json
import re
from collections.abc import Iterable, Iterator

import pytest
from bundles import gray, png
from fastapi.testclient import TestClient
from httpx2 import Response
from replies import assert_problem, post
from starlette.routing import BaseRoute, Mount, Route
from tensors import INFER, image_input

GOOD, BAD = png(gray(51)), png(gray(204))
VALUES = {
    "recipe": "part",
    "model": "part",
    "version": "1",
    "index": "0",
    "inspection_id": "none",
    "path": "station.js",
    "picture": "image",
}
# A file below each folder that is served as it is.
FILES = {"/web": "/web/station.js", "/docs/files": "/docs/files/swagger-ui.css"}


def _routes(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str, BaseRoute]]:
    """Method, address and route of all that the app answers to."""
    for route in routes:
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from _routes(inner.routes)
        elif isinstance(route, Mount):
            yield "GET", FILES[route.path], route
        else:
            assert isinstance(route, Route)
            address = re.sub(r"{(\w+)(:\w+)?}", lambda found: VALUES.get(found[1], "none"), route.path)
            for method in (route.methods or {"GET"}) - {"HEAD"}:
                yield method, address, route


def _ask(client: TestClient, method: str, address: str, **more: object) -> Response:
    if address.endswith("/infer"):
        more.setdefault("json", image_input(gray(51)[None]))
    elif method == "PATCH":
        more.setdefault("json", {"review": 0.3})
    elif address.startswith("/inspect") and method == "POST":
        more.setdefault("files", {"image": GOOD})
    return client.request(method, address, **more)  # type: ignore[arg-type]


def test_the_walk_sees_the_whole_app(client: TestClient) -> None:
    seen = {(method, address) for method, address, _ in _routes(client.app.routes)}  # type: ignore[attr-defined]
    schema = client.get("/openapi.json").json()
    described = {
        (method.upper(), re.sub(r"{(\w+)}", lambda found: VALUES.get(found[1], "none"), path))
        for path, methods in schema["paths"].items()
        for method in methods
    }
    assert described <= seen
    assert {("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/web/station.js")} <= seen - described


@pytest.mark.parametrize(
    "query", ["recipy=part", "Recipe=part", "recipe[]=part", "part_number=7", "recipe%20=part", "a;b"]
)
def test_no_route_passes_an_unknown_parameter_over(client: TestClient, query: str) -> None:
    name = query.split("=")[0].replace("%20", " ")
    for method, address, _ in _routes(client.app.routes):  # type: ignore[attr-defined]
        body = assert_problem(_ask(client, method, f"{address}?{query}"), 422, "invalid_request")
        assert repr(name) in str(body["detail"]), (method, address)


@pytest.mark.parametrize(
    "header",
    [
        *("X-Recipe", "Recipe", "X-Heatmap", "X-Part", "Part-Id", "X-PartId", "X-Prat-Id", "X-Part-Number"),
        *("X-Deadline", "X-Deadline-Seconds", "X-Deadlne-Ms", "X-Trigger", "X-TriggerID", "X-Camera", "X-Camera-Name"),
        *("X-Receipe", "X-Recpie", "X-Heat-Maps", "X-Model", "X-Model-Name", "X-Timeout-Ms", "X-Threshold", "X-Widht"),
        *("X-Recipe-Version", "X-Width", "X-Pixel-Format", "X-Verdict", "X-Score", "X-Inspection-Id"),
    ],
)
def test_no_route_passes_a_header_over_that_could_be_meant_for_it(client: TestClient, header: str) -> None:
    for method, address, route in _routes(client.app.routes):  # type: ignore[attr-defined]
        if not isinstance(route, Mount):
            body = assert_problem(_ask(client, method, address, headers={header: "17"}), 422, "invalid_request")
            assert header.lower() in str(body["detail"]), (method, address)


def test_headers_that_one_route_reads_are_refused_by_those_that_do_not(client: TestClient) -> None:
    batch = {"files": [("image", GOOD)]}
    for header in ("X-Trigger-Id", "Inference-Header-Content-Length"):
        refused = client.post("/inspect/batch", headers={header: "17"}, **batch)  # type: ignore[arg-type]
        assert header.lower() in str(assert_problem(refused, 422, "invalid_request")["detail"])
    assert client.get("/counters", headers={"X-API-Key": "unused", "X-Request-Id": "17"}).status_code == 200


def test_headers_of_everybody_else_are_let_through(client: TestClient) -> None:
    others = {
        "X-Forwarded-For": "10.0.0.1",
        "X-Forwarded-Prefix": "/a",
        "X-Real-IP": "10.0.0.1",
        "X-Request-Start": "t=1",
        "X-Partner-Id": "7",
        "X-Parent-Id": "7",
        "X-Trace-Id": "7",
        "X-B3-ParentSpanId": "7",
        "X-Cluster-Id": "7",
        "X-Correlation-Id": "7",
        "X-Envoy-Expected-Rq-Timeout-Ms": "7",
        "X-Api-Version": "2",
        "Version": "1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Width": "7",
        "DNT": "1",
    }
    assert post(client, GOOD, headers=others).json()["verdict"] == "OK"


def test_what_is_given_twice_is_refused(client: TestClient) -> None:
    for query in ("recipe=part&recipe=part", "recipe=part&recipe=other", "heatmap=none&heatmap=auto"):
        assert "2 times" in str(assert_problem(post(client, GOOD, params=query), 422, "invalid_request")["detail"])
    twice = [("Content-Type", "image/png"), ("X-Part-Id", "17"), ("X-Part-Id", "18")]
    assert_problem(client.post("/inspect", content=GOOD, headers=twice), 422, "invalid_request")
    assert_problem(post(client, GOOD, params="recipe="), 422, "invalid_request")
    assert_problem(post(client, GOOD, params="recipe"), 422, "invalid_request")


def test_a_body_where_none_is_read_is_refused(client: TestClient) -> None:
    """`{"version": "2"}` sent to /rollback was meant to matter."""
    for method, address, route in _routes(client.app.routes):  # type: ignore[attr-defined]
        schema = client.get("/openapi.json").json()["paths"].get(getattr(route, "path", ""), {}).get(method.lower(), {})
        if "requestBody" in schema or isinstance(route, Mount):
            continue
        body = assert_problem(client.request(method, address, json={"version": "2"}), 422, "invalid_request")
        assert "reads no body" in str(body["detail"]), (method, address)
        chunked = client.request(method, address, content=iter([b"{}"]))
        assert_problem(chunked, 422, "invalid_request")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": "other"}, "recipe"),
        ({"parameters": {"binary_data": True}}, "parameters.binary_data"),
        ({"parameters": {"priority": 1}}, "parameters.priority"),
        (
            {"inputs": [{**image_input(gray(51)[None])["inputs"][0], "parameters": {"binary_data": True}}]},
            "binary_data",
        ),
        ({"inputs": [{**image_input(gray(51)[None])["inputs"][0], "recipe": "other"}]}, "inputs.0.recipe"),
        ({"outputs": [{"name": "score", "parameters": {"classification": 1}}]}, "classification"),
    ],
)
def test_unknown_fields_of_open_inference_are_refused(
    client: TestClient, change: dict[str, object], named: str
) -> None:
    body = assert_problem(client.post(INFER, json=image_input(gray(51)[None]) | change), 422, "invalid_request")
    assert named in str(body["detail"])
    assert "binary_data_output" in str(body["detail"])


def test_a_name_that_comes_twice_in_json_is_refused(client: TestClient) -> None:
    text = json.dumps(image_input(gray(51)[None]))
    for twice in (
        text[:-1] + f', "inputs": {json.dumps(image_input(gray(204)[None])["inputs"])}}}',
        '{"id": "1", "id": "2"}',
    ):
        body = assert_problem(client.post(INFER, content=twice), 422, "invalid_request")
        assert "comes twice" in str(body["detail"])
    assert_problem(client.post(INFER, content='{"id": NaN}'), 422, "invalid_request")


def test_prometheus_may_name_what_it_wants(client: TestClient) -> None:
    some = client.get("/metrics", params=[("name[]", "inspect_ready"), ("name[]", "inspect_in_flight")]).text
    assert sorted(re.findall(r"^inspect_\w+", some, re.M)) == ["inspect_in_flight", "inspect_ready"]
