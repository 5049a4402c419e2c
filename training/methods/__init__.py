"""The methods: a folder each, and this table, the one place that knows their names."""

from __future__ import annotations

from typing import Any

from training.methods.bozic.method import BOZIC
from training.methods.discriminative.method import DISCRIMINATIVE
from training.methods.draem.method import DRAEM
from training.methods.fusion.method import FUSION
from training.methods.padim.method import PADIM
from training.methods.patchcore.method import PATCHCORE
from training.methods.protocol import Method
from training.methods.reconstruction.method import RECONSTRUCTION
from training.methods.riad.method import RIAD
from training.methods.us.method import US

# The first is what trains where nobody names a method. No two have a preset of the same name: it names its method.
METHODS: dict[str, Method[Any]] = {
    method.name: method for method in (FUSION, DRAEM, PADIM, PATCHCORE, US, RIAD, BOZIC, RECONSTRUCTION, DISCRIMINATIVE)
}
