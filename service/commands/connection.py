"""What every command that talks to a running service is told: its address and the key."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import httpx2
from pydantic import BaseModel, ConfigDict, Field

from service.client.address import split_address


def _key_of_environment() -> str | None:
    return os.environ.get("INSPECT_API_KEY")


class Connection(BaseModel):
    """The service that a command talks to."""

    model_config = ConfigDict(frozen=True)

    url: Annotated[
        str, Field(description="address of the service; of a UNIX socket `http+unix:///run/inspect.sock`")
    ] = "http://127.0.0.1:8000"
    api_key: Annotated[
        str | None,
        Field(
            description="API key; without the flag the environment variable INSPECT_API_KEY",
            default_factory=_key_of_environment,
        ),
    ]


def connect(connection: Connection, *, timeout_s: float) -> httpx2.Client:
    """A client of the service; raises ValueError for an address that is none."""
    base, unix = split_address(connection.url)
    # A command must reach the service itself: a proxy of the environment is for the internet.
    return httpx2.Client(
        base_url=base,
        headers={"X-API-Key": connection.api_key} if connection.api_key else {},
        timeout=timeout_s,
        trust_env=False,
        transport=None if unix is None else httpx2.HTTPTransport(uds=unix),
    )


def change_recipe(connection: Connection, method: str, path: str, **request: Any) -> int:
    """Send one request of an administrator below `/recipes/` and print the reply; exit 0 where it was done, else 1."""
    with connect(connection, timeout_s=300) as client:
        response = client.request(method, f"/recipes/{path}", **request)
    print(json.dumps(response.json()))
    return 0 if response.status_code == httpx2.codes.OK else 1
