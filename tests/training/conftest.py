from __future__ import annotations

from collections.abc import Iterator

import pytest
from exports import remembered_exports


@pytest.fixture(autouse=True, scope="session")
def _one_export_for_graphs_of_one_structure() -> Iterator[None]:
    """The first of each structure is torch's work."""
    with remembered_exports():
        yield
