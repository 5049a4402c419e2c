"""All settings of the service: read once at start from flags (`--port 9000`) and environment (`INSPECT_PORT=9000`)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.backends.base import BackendChoice, EnginePolicy, PrecisionChoice
from service.backends.plans import PlanChoice
from service.flags import Group, add_flags, read_flags
from service.station.shifts import read_shifts

PREFIX = "INSPECT_"
# What people look for first.
GROUPS = (
    Group(
        "most used",
        (
            *("host", "port", "models_dir", "default_recipe", "backend", "precision"),
            *("deadline_ms", "records_dir", "api_keys_file", "banner"),
        ),
    ),
)


# What Kubernetes puts into `<SERVICE>_PORT` for every service of the namespace: of one called `inspect` it has the name
# of the setting, and is none.
_SERVICE_LINK = ("tcp://", "udp://", "sctp://")
_PORT = 8000
# The host that listens on no TCP port.
NO_HOST = "none"


def _no_service_link(value: object) -> object:
    return _PORT if isinstance(value, str) and value.startswith(_SERVICE_LINK) else value


def _no_grpc_link(value: object) -> object:
    return 0 if isinstance(value, str) and value.startswith(_SERVICE_LINK) else value


def _prefix(value: object) -> object:
    stripped = value.strip("/") if isinstance(value, str) else value
    return f"/{stripped}" if stripped else ""


def _none(value: object) -> object:
    return None if value == "none" else value


def _check_shifts(text: str) -> str:
    read_shifts(text)
    return text


class Settings(BaseSettings):
    """One declaration gives flag, environment variable, validation and documentation."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
    )

    host: Annotated[
        str, Field(description="address to listen on; `::` is IPv6 and IPv4, the word `none` no TCP port")
    ] = "127.0.0.1"
    port: Annotated[int, BeforeValidator(_no_service_link), Field(ge=0, le=65535, description="TCP port")] = _PORT
    unix_socket: Annotated[
        Path | None,
        Field(
            description="path of a UNIX socket to listen on too, for programs of this machine that its owner and group "
            "run; with the host `none` it is the only one"
        ),
    ] = None
    grpc_port: Annotated[
        int,
        BeforeValidator(_no_grpc_link),
        Field(
            ge=0,
            le=65535,
            description="TCP port of the Open Inference Protocol over gRPC, at the same address (extra `grpc`); 0: no",
        ),
    ] = 0
    root_path: Annotated[
        str,
        BeforeValidator(_prefix),
        Field(
            pattern=r"^(/[A-Za-z0-9._~-]+)*$",
            description="prefix of all addresses behind a proxy, such as `/station`; the proxy may take it off",
        ),
    ] = ""
    models_dir: Annotated[Path, Field(description="folder of recipes: `<recipe>/<version>/manifest.json`")] = Path(
        "models"
    )
    default_recipe: Annotated[
        str | None,
        Field(description="recipe of requests that name none; else the one that was made the default, or the only one"),
    ] = None
    backend: Annotated[
        BackendChoice,
        Field(
            description="`auto`, `ort-cpu`, `openvino`, `ort-cuda`, `ort-tensorrt` or `tensorrt`: what runs the network"
        ),
    ] = "auto"
    precision: Annotated[
        PrecisionChoice,
        Field(
            description="`auto`, `fp32`, `fp16`, `bf16` or `int8`; `auto` is what is fastest on a CPU, fp16 on a GPU"
        ),
    ] = "auto"
    cache_dir: Annotated[
        Path, Field(description="folder of what was made for this machine: TensorRT engines, measured choices")
    ] = Path("cache")
    engine_policy: Annotated[
        EnginePolicy, Field(description="a missing, stale or foreign engine: `build` it at the start, or `refuse` to")
    ] = "build"
    threads: Annotated[int, Field(ge=0, le=256, description="threads of one inference; 0: all cores")] = 0
    cpu_plan: Annotated[
        PlanChoice,
        Field(
            description="on a CPU: runs side by side x images in one of them, `2x1`, `4x1`, `1x4` …; `auto` is "
            "measured once for each model and kept in `cache_dir`"
        ),
    ] = "auto"
    max_batch: Annotated[int, Field(ge=1, le=256, description="most images in one inference")] = 8
    queue_size: Annotated[int, Field(ge=1, le=10_000, description="images that may wait; more are refused (429)")] = 64
    idle_tick_s: Annotated[
        float,
        Field(
            ge=0, le=3600, description="seconds without work after which the network runs once, to stay warm; 0: never"
        ),
    ] = 0
    deadline_ms: Annotated[
        float, Field(gt=0, le=600_000, description="milliseconds a request may take where it sends no `X-Deadline-Ms`")
    ] = 5000
    codec_threads: Annotated[int, Field(ge=1, le=64, description="threads that decode and draw images")] = 2
    max_upload_bytes: Annotated[int, Field(ge=1024, description="largest request body (413)")] = 32 * 1024 * 1024
    max_pixels: Annotated[int, Field(ge=1024, description="largest image, width times height (413)")] = 50_000_000
    drain_grace_s: Annotated[
        float,
        Field(ge=0, le=600, description="seconds after SIGTERM in which `/readyz` says draining, still serving"),
    ] = 3
    drain_timeout_s: Annotated[int, Field(ge=0, le=600, description="seconds that running requests get after that")] = (
        20
    )
    api_keys_file: Annotated[
        Path | None,
        Field(
            description="file of lines `role sha256-of-key name`, role `inspect`, `review`, `metrics` or `admin`; "
            "without it all may inspect and review"
        ),
    ] = None
    local_admin: Annotated[
        bool,
        Field(description="without keys programs on this machine administer, by its loopback address; else nobody"),
    ] = True
    open_views: Annotated[
        bool,
        Field(description="with keys too everybody may read `/state`, `/recipes`, `/counters`, `/metrics`"),
    ] = False
    records_dir: Annotated[
        Path | None, BeforeValidator(_none), Field(description="folder of the records; the word `none` keeps none")
    ] = Path("records")
    record_images: Annotated[
        Literal["none", "failed", "all"],
        Field(description="images kept with the records: `failed` is all but OK, and the sample of OK"),
    ] = "failed"
    sample_ok: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="of so many OK parts one waits for a review, with its image where `failed` are kept; 0: none",
        ),
    ] = 200
    record_images_mb: Annotated[int, Field(ge=1, description="megabytes of kept images; the oldest go first")] = 2000
    records_days: Annotated[
        int, Field(ge=0, le=36_500, description="days that records and their images are kept; 0: for ever")
    ] = 90
    shifts: Annotated[
        str,
        AfterValidator(_check_shifts),
        Field(description="when shifts begin, on a quarter of an hour by the clock of the station; A, B, C …"),
    ] = "06:00,14:00,22:00"
    trigger_hours: Annotated[
        float,
        Field(
            ge=0,
            le=8760,
            description="hours in which a repeated `X-Trigger-Id` gets the answer it got before, as long as it is on "
            "record; 0: never",
        ),
    ] = 24
    trusted_key: Annotated[
        Path | None, Field(description="PEM file of an Ed25519 public key; then only bundles it signed are served")
    ] = None
    seal_key: Annotated[
        Path | None,
        Field(description="file of a secret, 32 bytes or more: chosen versions and limits count only with its seal"),
    ] = None
    forbid_older: Annotated[
        bool, Field(description="activate and roll back to no version that is older than the one in service")
    ] = False
    serve_unfit: Annotated[
        bool, Field(description="serve a version also where its training found it unfit: too many defects pass as OK")
    ] = False
    golden_check_hours: Annotated[
        float, Field(ge=0, le=8760, description="hours between golden checks of recipes in service; 0: never")
    ] = 24
    tls_cert: Annotated[Path | None, Field(description="PEM certificate; with `tls_key` the service speaks HTTPS")] = (
        None
    )
    tls_key: Annotated[Path | None, Field(description="PEM private key of the certificate")] = None
    tls_client_ca: Annotated[Path | None, Field(description="PEM authority that clients must be signed by (mTLS)")] = (
        None
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="least severe log line")] = (
        "info"
    )
    log_format: Annotated[
        Literal["text", "json"], Field(description="`text` for people, `json` for machines, one object a line")
    ] = "text"
    banner: Annotated[bool, Field(description="print the address and a curl line to try when ready")] = False


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, Settings, GROUPS, environment=PREFIX)


def read_settings(given: Mapping[str, Any] | None = None) -> Settings:
    """The settings of the environment, and of flags where some were `given`; raises FlagError with a line for each
    value that cannot be.
    """
    return read_flags(Settings, given or {}, environment=PREFIX)
