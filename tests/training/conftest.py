from __future__ import annotations

from collections.abc import Iterator

import pytest
from exports import remembered_exports


@pytest.fixture
def shared_exports() -> Iterator[None]:
    """For tests whose subject is not the exporter: graphs of one structure are exported once."""
    with remembered_exports():
        yield
