"""What every command that talks to a running service is told: its address and the key."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import httpx2
from pydantic import BaseModel, ConfigDict, Field


def _key_of_environment() -> str | None:
    return os.environ.get("INSPECT_API_KEY")


class Connection(BaseModel):
    """The service that a command talks to."""

    model_config = ConfigDict(frozen=True)

    url: Annotated[str, Field(description="address of the service")] = "http://127.0.0.1:8000"
    api_key: Annotated[
        str | None,
        Field(
            description="API key; without the flag the environment variable INSPECT_API_KEY",
            default_factory=_key_of_environment,
        ),
    ]


def change_recipe(connection: Connection, method: str, path: str, **request: Any) -> int:
    """Send one request of an administrator below `/recipes/` and print the reply; exit 0 where it was done, else 1."""
    # A command must reach the service itself: a proxy of the environment is for the internet.
    with httpx2.Client(
        base_url=connection.url,
        headers={"X-API-Key": connection.api_key} if connection.api_key else {},
        timeout=300,
        trust_env=False,
    ) as client:
        response = client.request(method, f"/recipes/{path}", **request)
    print(json.dumps(response.json()))
    return 0 if response.status_code == httpx2.codes.OK else 1
