"""The methods: a folder each, and this table, the one place that knows their names."""

from __future__ import annotations

from typing import Any

from training.methods.draem.method import DRAEM
from training.methods.protocol import Method

METHODS: dict[str, Method[Any]] = {method.name: method for method in (DRAEM,)}
