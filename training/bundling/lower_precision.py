"""Makes a bundle's graph in a lower precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from service.bundle.folder import Bundle
from service.bundle.manifest import Thresholds
from service.images.decoding import Pixels
from training.bundling.fp16 import to_half
from training.bundling.held_out import simulate_defects
from training.bundling.qdq import Activations
from training.bundling.quantize import SHARE_OF_ROOM, Labelled, Limits, quantize

# Ranges come from so many good photos, and defects on so many of them.
_CALIBRATION_PHOTOS, _CALIBRATION_DEFECTS = 40, 6
# Layers are chosen on so many others, with a defect of every kind on so many of these.
_CHOICE_PHOTOS, _CHOICE_DEFECTS = 24, 8
# Shares of the error that a score may have there, one after the other: photos that were trained on err less than new
# ones, by how much is seen where a graph is accepted.
_STRICTER = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Lowered:
    """A precision that a bundle is to have too: its graph, or none where a runtime rounds the fp32 graph as it goes."""

    precision: Literal["bf16", "fp16", "int8"]
    model: bytes | None = None
    float_layers: Sequence[str] | None = None


def quantized_for(
    bundle: Bundle, trained_on: Sequence[Pixels], activations: Activations, *, seed: int
) -> Iterator[Lowered]:
    """The bundle's graph in INT8, each time with less error than before; ranges and float layers come from photos that
    it was trained on.
    """
    ranged, chosen = list(trained_on[:_CALIBRATION_PHOTOS]), list(trained_on[_CALIBRATION_PHOTOS:][:_CHOICE_PHOTOS])
    # A small folder has to serve twice.
    chosen = chosen or ranged
    calibration = ranged + [one.picture for one in simulate_defects(ranged[:_CALIBRATION_DEFECTS], seed + 1)]
    parts = labelled(chosen, chosen[:_CHOICE_DEFECTS], seed + 2)
    for share in _STRICTER:
        limits = limits_for(bundle.manifest.thresholds, share)
        quantized = quantize(_fp32(bundle), calibration, parts, activations, limits)
        yield Lowered("int8", quantized.model, quantized.float_layers)


def limits_for(thresholds: Thresholds, share: float = 1.0) -> Limits:
    """Scores may be off by a share of the room from a usual good part to NG: where all lie close, little moves many.

    `share` of that error is allowed.
    """
    room = thresholds.reject - median(thresholds.calibration.good_scores)
    error = min(Limits().score_error, SHARE_OF_ROOM * room)
    return Limits(score_error=share * error, verdicts=(thresholds.review, thresholds.reject))


def halve(bundle: Bundle) -> Lowered:
    """The bundle's graph with its networks in float16."""
    return Lowered("fp16", to_half(_fp32(bundle)))


def _fp32(bundle: Bundle) -> bytes:
    return bundle.file(bundle.manifest.models["fp32"]).read_bytes()


def labelled(good: Sequence[Pixels], damaged: Sequence[Pixels], seed: int) -> Labelled:
    """Good photos, and rendered defects on those to be damaged."""
    rendered = simulate_defects(list(damaged), seed)
    return Labelled(good, [one.picture for one in rendered], [one.mask for one in rendered])
