"""OpenTelemetry: FastAPI makes a span of each request and honours `traceparent`; this adds the inspection's stages.

Nothing is traced unless the standard OTEL_EXPORTER_OTLP_ENDPOINT is set and the extra `otel` installed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, MutableMapping
from typing import Any
from weakref import WeakSet

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode

from service.logs import redact

# The order in which the stages of an inspection happen; each begins where the one before ended, but for the quality,
# which is measured while the image waits for the model and is in it.
STAGES = ("read", "decode", "quality", "queue", "model", "postprocess")
_MEANWHILE = "quality"

_UNTRACED = ("/livez", "/readyz", "/metrics", "/web/", "/docs")
# What of a request's address is in its span.
_OF_CLIENTS = ("url.path", "url.query", "http.request.method_original")
_LONGEST_VALUE = 1_000
_TRACER = trace.get_tracer("draem_inspect")


def telemetry() -> TelemetryConfig:
    """FastAPI's own tracing, for requests that do something; metrics and logs have other ways out."""
    os.environ.setdefault("OTEL_SERVICE_NAME", "draem-inspect")

    def untraced(scope: MutableMapping[str, Any]) -> bool:
        return str(scope.get("path", "")).startswith(_UNTRACED)

    return {
        "auto_configure": True,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "exclude": untraced,
    }


def redact_spans() -> None:
    """Leave no key out of the log that is in a trace instead; to be called once FastAPI has its provider."""
    provider = trace.get_tracer_provider()
    # Without the extra, and without a collector, there is another one, which keeps nothing.
    if not hasattr(provider, "add_span_processor") or provider in _redacted:
        return
    from opentelemetry.sdk.trace import Span, SpanProcessor

    class Redacting(SpanProcessor):
        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            for name in _OF_CLIENTS:
                if isinstance(value := (span.attributes or {}).get(name), str):
                    # Without its question mark a query is not known for one.
                    span.set_attribute(name, redact(f"?{value}")[1 : _LONGEST_VALUE + 1])

    provider.add_span_processor(Redacting())
    _redacted.add(provider)


_redacted: WeakSet[trace.TracerProvider] = WeakSet()


def trace_inspection(
    seconds: Mapping[str, float],
    started: float,
    attributes: Mapping[str, str | float],
    *,
    problem: str | None = None,
    tracer: trace.Tracer = _TRACER,
) -> None:
    """Add an inspection to the current trace, if there is one: a span with one child for each stage in `seconds`.

    `started` is on time.monotonic; `problem` is the code of what ended the inspection early.
    """
    if not trace.get_current_span().is_recording():
        return
    begin = time.time_ns() - round(1e9 * (time.monotonic() - started))
    inspection = tracer.start_span("inspection", start_time=begin, attributes=dict(attributes))
    parent = trace.set_span_in_context(inspection)
    end = begin
    for stage in STAGES:
        if stage in seconds:
            span = tracer.start_span(stage, context=parent, start_time=end)
            took = round(1e9 * seconds[stage])
            span.end(end + took)
            end += 0 if stage == _MEANWHILE else took
    if problem is not None:
        inspection.set_status(Status(StatusCode.ERROR, problem))
    inspection.end()
