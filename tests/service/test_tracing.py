"""Traces as a collector gets them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from bundles import gray, png
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from processes import running_service

from service.station.tracing import STAGES, trace_inspection

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[Span]]]:
    """An OTLP collector on this machine: its address, and the spans it was sent so far."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(body)
            spans.extend(s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", spans
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_a_request_is_part_of_its_callers_trace(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (url, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with running_service(models, tmp_path / "log", drain_grace_s=0) as (process, client):
            headers = {"Content-Type": "image/png", "traceparent": f"00-{TRACE}-{CALLER}-01"}
            assert client.post("/inspect", content=png(gray(204)), headers=headers).json()["verdict"] == "NG"
            assert client.post("/inspect", content=png(gray(204))[:-30], headers=headers).status_code == 400
            for secret in (
                "?api_key=hush-hush",
                "?X-API-Key=hush-hush",
                "/Bearer%20hush-hush",
                "?part=7&client_secret=hush-hush",
            ):
                assert client.post(f"/inspect{secret}", content=b"", headers=headers).status_code in {404, 422}
            process.terminate()
            process.wait(300)
    named = {(span.name, span.status.message): span for span in spans}
    (request, *others) = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    assert len(others) == 5
    assert "hush" not in str(spans)
    assert "part=7&client_secret=[redacted]" in str(spans)
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, CALLER)
    inspection = named["inspection", ""]
    assert inspection.parent_span_id == request.span_id
    assert {a.key: a.value.string_value for a in inspection.attributes}["verdict"] == "NG"
    for stage in STAGES:
        assert named[stage, ""].trace_id == request.trace_id
    assert named["inspection", "corrupt_image"].trace_id == request.trace_id


def test_stages_follow_one_another_below_their_inspection() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    trace_inspection({"model": 0.02}, 0.0, {}, tracer=tracer)
    assert not exporter.get_finished_spans(), "without a request there is no trace"
    with tracer.start_as_current_span("request"):
        trace_inspection(
            {"read": 0.01, "model": 0.02, "quality": 0.003, "queue": 0.005, "total": 9.0},
            *(0.0, {"recipe": "part"}),
            tracer=tracer,
        )
    read, quality, queue, model, inspection, _ = exporter.get_finished_spans()
    assert [span.name for span in (read, quality, queue, model)] == ["read", "quality", "queue", "model"]
    assert quality.start_time == queue.start_time, "the quality is measured meanwhile"
    assert (read.end_time, queue.end_time) == (queue.start_time, model.start_time)
    assert model.end_time is not None
    assert model.start_time is not None
    assert model.end_time - model.start_time == 20_000_000
    assert {span.parent.span_id for span in (read, queue, model) if span.parent} == {inspection.context.span_id}
    assert inspection.attributes == {"recipe": "part"}
