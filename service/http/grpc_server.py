"""The Open Inference Protocol over gRPC: each call becomes the request of its HTTP form and goes through the same app.

So there is one way to a verdict, and one to each refusal, record and count: this file knows neither images nor
scores. A problem is a status with its sentence, and its code, verdict and request in the trailing metadata; a call's
metadata are a request's headers (`x-api-key`, `x-part-id`, …), its deadline is `X-Deadline-Ms`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np
import uvicorn
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from service.http.doors import Doors
from service.http.grpc_messages import MESSAGES, SERVICE
from service.settings import Settings

# Calls at once: each has its message in memory before anybody looks at it.
_MOST_CALLS = 64
# Bytes around the images of a message.
_ENVELOPE = 65_536
# Of a call itself, and no headers of a request.
_NOT_FORWARDED = {"host", "content-length", "content-type", "te", "user-agent", "inference-header-content-length"}
_LONGEST_MS = 600_000.0
_OK = 200
_STATUS = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_TYPES = {"FP32": "<f4"}

App = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]
_Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Grpc:
    """Listens at `address` (host:port) beside a server of uvicorn, and ends with it: running calls get `grace_s`."""

    def __init__(
        self, address: str, credentials: grpc.ServerCredentials | None, doors: Doors, *, most_bytes: int, grace_s: float
    ) -> None:
        self._address = address
        self._credentials = credentials
        self._doors = doors
        self._most_bytes = most_bytes
        self._grace_s = grace_s
        self._closing: asyncio.Task[None] | None = None

    async def listen(self, server: uvicorn.Server) -> Grpc:
        """Raises OSError where the port is taken."""
        self._doors.watch()
        calls = _Calls(server.config.loaded_app, server.lifespan.state, self._doors.arrival_of_call)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._most_bytes + _ENVELOPE),
                ("grpc.max_send_message_length", -1),
                # Two services on one port would each answer half of the calls.
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=_MOST_CALLS,
        )
        self._server.add_generic_rpc_handlers([calls.handler()])
        try:
            if self._credentials is None:
                self._server.add_insecure_port(self._address)
            else:
                self._server.add_secure_port(self._address, self._credentials)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen at {self._address}: {error}; set another INSPECT_GRPC_PORT") from error
        await self._server.start()
        return self

    # As one of uvicorn's servers.

    def close(self) -> None:
        self._closing = asyncio.ensure_future(self._server.stop(self._grace_s))

    async def wait_closed(self) -> None:
        if self._closing is not None:
            await self._closing


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Those of HTTPS, where the service speaks it; raises OSError for files that cannot be read."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    authority = None if settings.tls_client_ca is None else settings.tls_client_ca.read_bytes()
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())], authority, authority is not None
    )


class _Calls:
    """The methods of the protocol, answered by `app`; `state` is what its lifespan gave, `arrival` when a call came."""

    def __init__(self, app: App, state: Mapping[str, Any], arrival: Callable[[], float]) -> None:
        self._app = app
        self._state = state
        self._arrival = arrival
        # Of calls that ended early: each leaves its record.
        self._ending: set[asyncio.Task[None]] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        methods = {
            "ServerLive": partial(self._state_of, "/v2/health/live", "live"),
            "ServerReady": partial(self._state_of, "/v2/health/ready", "ready"),
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    method,
                    request_deserializer=MESSAGES[f"{name}Request"].FromString,
                    response_serializer=MESSAGES[f"{name}Response"].SerializeToString,
                )
                for name, method in methods.items()
            },
        )

    async def _state_of(self, path: str, name: str, _: Any, context: grpc.aio.ServicerContext) -> Message:
        reply = await self._get(path, context, fine={_OK, 503})
        return MESSAGES[f"Server{name.capitalize()}Response"](**{name: reply[name]})

    async def _model_ready(self, request: Any, context: grpc.aio.ServicerContext) -> Message:
        reply = await self._get(f"{_model(request.name, request.version)}/ready", context, fine={_OK, 503})
        # A problem, where recipes are still being loaded.
        return MESSAGES["ModelReadyResponse"](ready=bool(reply.get("ready")))

    async def _server_metadata(self, _: Any, context: grpc.aio.ServicerContext) -> Message:
        reply = await self._get("/v2", context)
        return MESSAGES["ServerMetadataResponse"](name=reply["name"], version=reply["version"])

    async def _model_metadata(self, request: Any, context: grpc.aio.ServicerContext) -> Message:
        reply = await self._get(_model(request.name, request.version), context)
        return MESSAGES["ModelMetadataResponse"](**reply)

    async def _model_infer(self, request: Any, context: grpc.aio.ServicerContext) -> Message:
        text, parts = _as_http(request)
        head = [
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", b"%d" % len(text)),
        ]
        path = f"{_model(request.model_name, request.model_version)}/infer"
        answer = await self._ask("POST", path, context, head, b"".join([text, *parts]))
        return _response(answer)

    async def _get(self, path: str, context: grpc.aio.ServicerContext, *, fine: Collection[int] = (_OK,)) -> Any:
        return json.loads((await self._ask("GET", path, context, [], b"", fine=fine)).body)

    async def _ask(
        self,
        method: str,
        path: str,
        context: grpc.aio.ServicerContext,
        head: Sequence[_Header],
        body: bytes,
        *,
        fine: Collection[int] = (_OK,),
    ) -> _Answer:
        """The app's answer; ends the call with the status of a problem where it is none of `fine`."""
        headers = [*_headers(context), *head, (b"host", b"localhost"), (b"content-length", b"%d" % len(body))]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            # Nobody's address: no call counts as one of this machine, which could administer.
            "client": None,
            "server": None,
            "state": {**self._state, "arrived": self._arrival()},
        }
        answer = await self._through_app(scope, body)
        metadata = tuple((name, value) for name, value in answer.headers.items() if name.startswith("x-"))
        if answer.status in fine:
            context.set_trailing_metadata(metadata)
            return answer
        problem = json.loads(answer.body)
        more = [(name, str(problem[name])) for name in ("code", "retry_after_ms") if name in problem]
        code = _STATUS.get(answer.status, grpc.StatusCode.INVALID_ARGUMENT)
        await context.abort(code, problem["detail"], (*metadata, *more))
        raise AssertionError("abort raises")

    async def _through_app(self, scope: dict[str, Any], body: bytes) -> _Answer:
        gone = asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        start: dict[str, Any] = {}
        parts: list[bytes] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        async def run() -> None:
            await self._app(scope, receive, send)

        task = asyncio.ensure_future(run())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        try:
            # The app itself ends what nobody waits for any more, and puts it on record.
            await asyncio.shield(task)
        except asyncio.CancelledError:
            gone.set()
            raise
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
        return _Answer(start["status"], headers, b"".join(parts))


def _model(name: str, version: str) -> str:
    return f"/v2/models/{name}/versions/{version}" if version else f"/v2/models/{name}"


def _headers(context: grpc.aio.ServicerContext) -> Iterator[_Header]:
    """The metadata as headers, with the call's deadline where it is the nearer one."""
    left = context.time_remaining()
    deadline_ms = min(_LONGEST_MS, 1000 * left) if left is not None else _LONGEST_MS
    asked = False
    for name, value in context.invocation_metadata() or ():
        if name in _NOT_FORWARDED or name.startswith("grpc-") or name.endswith("-bin"):
            continue
        if name == "x-deadline-ms" and left is not None:
            asked = True
            # What is no number the app refuses.
            with suppress(ValueError):
                value = str(min(float(value), max(1.0, deadline_ms)))
        yield name.encode(), value.encode() if isinstance(value, str) else value
    if left is not None and not asked and deadline_ms < _LONGEST_MS:
        yield b"x-deadline-ms", b"%.3f" % max(1.0, deadline_ms)


def _as_http(request: Any) -> tuple[bytes, list[bytes]]:
    """JSON and what stands behind it; whatever is wrong with the message is so in this form too, and refused there."""
    raw = list(request.raw_input_contents)
    sizes = [len(part) for part in raw]
    inputs = []
    for number, tensor in enumerate(request.inputs):
        one: dict[str, Any] = {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype}
        one |= _unknown(tensor)
        if parameters := _parameters(tensor.parameters):
            one["parameters"] = parameters
        if number < len(sizes):
            one["parameters"] = {**parameters, "binary_data_size": sizes[number]}
        if tensor.HasField("contents"):
            one["data"] = _contents(tensor.contents)
            # Of one kind: what is passed over in silence could have mattered.
            more = tensor.contents.ListFields()[1:]
            one |= {field.name: None for field, _ in more} | _unknown(tensor.contents)
        inputs.append(one)
    outputs = [
        {"name": output.name, "parameters": {"binary_data": True} | _parameters(output.parameters)} | _unknown(output)
        for output in request.outputs
    ]
    parameters = {"binary_data_output": True} | _parameters(request.parameters)
    asked = {"inputs": inputs, "outputs": outputs, "parameters": parameters} | _unknown(request)
    if request.id:
        asked["id"] = request.id
    return json.dumps(asked).encode(), raw


def _contents(contents: Any) -> list[Any]:
    if contents.bytes_contents:
        return [base64.b64encode(one).decode() for one in contents.bytes_contents]
    # Images are UINT8; of numbers of another kind there are none.
    return [number for _, numbers in contents.ListFields() for number in numbers]


def _parameters(parameters: Any) -> dict[str, Any]:
    return {name: getattr(one, one.WhichOneof("parameter_choice") or "", None) for name, one in parameters.items()}


def _unknown(message: Message) -> dict[str, Any]:
    """Fields that the protocol does not have, under names that nobody knows."""
    return {f"field {field.field_number}": None for field in UnknownFieldSet(message)}


def _response(answer: _Answer) -> Message:
    split = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    reply = json.loads(answer.body[:split])
    response: Any = MESSAGES["ModelInferResponse"](
        model_name=reply["model_name"], model_version=reply["model_version"], id=reply.get("id", "")
    )
    for name, value in reply.get("parameters", {}).items():
        response.parameters[name].bool_param = value
    at = split
    for output in reply["outputs"]:
        response.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
        if "data" in output:
            response.raw_output_contents.append(_packed(output["datatype"], output["data"]))
        else:
            end = at + output["parameters"]["binary_data_size"]
            response.raw_output_contents.append(answer.body[at:end])
            at = end
    return response


def _packed(datatype: str, data: list[Any]) -> bytes:
    """Values of JSON as the bytes of a raw tensor."""
    if datatype == "BYTES":
        return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in data)
    return np.array(data, _TYPES[datatype]).tobytes()
