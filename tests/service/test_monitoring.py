from bundles import gray, png
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from service.station.monitoring import SECONDS, STAGES


def _samples(client: TestClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


# The quality is measured while an image waits for the model and is in it.
ONE_AFTER_ANOTHER = [stage for stage in STAGES if stage not in {"quality", "total"}]


def test_stages_add_up_to_the_total_and_match_the_reply(client: TestClient) -> None:
    picture = png(gray(51, 900))
    replies = [client.post("/inspect", files={"image": picture}).json() for _ in range(20)]
    for reply in replies:
        timings = reply["timings_ms"]
        parts = sum(timings[stage] for stage in ONE_AFTER_ANOTHER)
        assert set(timings) == set(STAGES)
        # Each is rounded.
        assert parts <= timings["total"] + 0.01
        assert 0 < timings["quality"] < timings["total"]
    samples = _samples(client)

    def seconds(stage: str) -> float:
        return samples["inspect_stage_seconds_sum", (("recipe", "part"), ("stage", stage))]

    assert (
        seconds("total") * 1000 == sum(r["timings_ms"]["total"] for r in replies)
        or abs(seconds("total") * 1000 / sum(r["timings_ms"]["total"] for r in replies) - 1) < 0.01
    )
    assert sum(map(seconds, ONE_AFTER_ANOTHER)) > 0.95 * seconds("total")


def test_verdicts_scores_errors_and_model_are_counted(client: TestClient) -> None:
    for value in (51, 51, 204):
        client.post("/inspect", files={"image": png(gray(value))})
    client.post("/inspect", content=b"", headers={"Content-Type": "image/png"})
    samples = _samples(client)
    assert samples["inspect_verdicts_total", (("recipe", "part"), ("verdict", "OK"))] == 2
    assert samples["inspect_verdicts_total", (("recipe", "part"), ("verdict", "NG"))] == 1
    assert samples["inspect_errors_total", (("code", "empty_image"),)] == 1
    assert samples["inspect_score_sum", (("recipe", "part"),)] > 1.19
    assert samples["inspect_ready", ()] == 1
    assert samples["inspect_queue_depth", ()] == 0
    assert any(name == "inspect_model_info" and value == 1 for (name, _), value in samples.items())


def test_invented_recipes_make_no_new_series(client: TestClient) -> None:
    before = len(_samples(client))
    for i in range(20):
        client.post("/inspect", params={"recipe": f"invented-{i}"}, files={"image": b"x"})
    assert len(_samples(client)) <= before + 2


def test_drift_of_a_version_that_no_longer_serves_is_not_told(client: TestClient) -> None:
    metrics = client.app_state["station"].metrics
    metrics.drift.labels("part").set(1.0)
    assert "inspect_score_drift{" not in client.get("/metrics").text


def test_buckets_start_at_a_millisecond() -> None:
    assert SECONDS[0] == 0.001
    assert list(SECONDS) == sorted(SECONDS)
