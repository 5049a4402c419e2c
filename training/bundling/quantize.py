"""INT8 for the inspection graph: static post-training quantisation, layer by layer, as far as the figures allow.

What the reconstruction's last layers lose is what the discriminative network looks for, so layers that hurt stay in
float: those that do most damage alone, less those that are not needed then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from service.backends.base import Scored
from service.images.decoding import Pixels
from training.bundling.arithmetic import macs
from training.bundling.qdq import Activations, Range, even_channels, observe, open_session, to_qdq
from training.errors import UserError
from training.evaluation.metrics import average_precision, image_auroc, stacked

LARGEST_LOSS = {"image_auroc": 0.002, "pixel_ap": 0.01}
# Of the way from a score to a limit of the verdicts, an error of it is small.
SHARE_OF_ROOM = 0.1
_PROBES = 8  # images on which a layer's damage is measured


class QuantizationError(UserError):
    """The figures would suffer more than they may; the message has them."""


@dataclass(frozen=True)
class Labelled:
    """Good parts, and parts with a simulated defect each and the masks `(H, W)` of them."""

    good: Sequence[Pixels]
    defects: Sequence[Pixels]
    masks: Sequence[NDArray[np.bool_]]

    @property
    def images(self) -> list[Pixels]:
        return [*self.good, *self.defects]


@dataclass(frozen=True)
class Limits:
    """Where layers are chosen: photos that were trained on hardly err, so that their figures alone would let too much
    pass. A graph that needs more than `most_float` float layers is not worth its name.

    A score may be off by `score_error`, and by a share more of how far it lies from the limits of the `verdicts`: far
    from them it decides nothing.
    """

    score_error: float = 0.015
    most_float: int = 12
    verdicts: tuple[float, ...] = ()

    def error(self, exact: float, found: float) -> float:
        """By how much a score is off, less what it may be for where it lies."""
        away = min((abs(exact - limit) for limit in self.verdicts), default=0.0)
        return abs(found - exact) - SHARE_OF_ROOM * away


@dataclass(frozen=True)
class Measured:
    figures: dict[str, float]
    scores: list[float]


@dataclass(frozen=True)
class Quantized:
    model: bytes
    float_layers: list[str]


def figures(parts: Labelled, results: Sequence[Scored]) -> dict[str, float]:
    """Image AUROC and pixel AP of what a graph gave for `parts.images`."""
    height, width = parts.good[0].shape[:2]
    masks = np.stack([*np.zeros((len(parts.good), height, width), np.bool_), *parts.masks])
    maps, scores = stacked(results)
    is_defect = np.arange(len(results)) >= len(parts.good)
    return {
        "image_auroc": image_auroc(scores, is_defect),
        "pixel_ap": average_precision(maps.ravel(), masks.ravel()),
    }


def measured(model: bytes, parts: Labelled) -> Measured:
    results = list(map(runner(model), parts.images))
    return Measured(figures(parts, results), [one.score for one in results])


def require_figures(name: str, before: dict[str, float], after: dict[str, float]) -> None:
    """Raises QuantizationError where a figure falls by more than LARGEST_LOSS."""
    if not _close(before, after):
        raise QuantizationError(f"{name} is refused: on held-out simulated anomalies {_told(before, after)}")


def _told(before: dict[str, float], after: dict[str, float]) -> str:
    return ", ".join(
        f"{figure} {100 * before[figure]:.2f} to {100 * after[figure]:.2f} (at most {100 * loss:.1f} less)"
        for figure, loss in LARGEST_LOSS.items()
    )


def quantize(
    model: bytes,
    calibration: Sequence[Pixels],
    parts: Labelled,
    activations: Activations,
    limits: Limits = Limits(),
    measure: Callable[[bytes, Labelled], Measured] = measured,
) -> Quantized:
    """The graph in INT8 with few and cheap float layers that keep the figures and scores on `parts`.

    `calibration` sets the ranges. Neither may be what the result is accepted on. Raises QuantizationError where as
    many float layers as there may be are not enough.
    """
    even = even_channels(model, calibration)
    ranges = observe(even, calibration)
    costs = layers_of(even)
    exact = measure(even, parts)

    def attempt(kept: Collection[str]) -> _Attempt:
        quantized = to_qdq(even, ranges, [name for name in costs if name not in kept], activations)
        found = measure(quantized, parts)
        error = max(limits.error(one, other) for one, other in zip(exact.scores, found.scores, strict=True))
        return _Attempt(quantized, found.figures, error)

    def holds(tried: _Attempt) -> bool:
        return _close(exact.figures, tried.figures) and tried.score_error <= limits.score_error

    worst = _by_damage(even, ranges, costs, parts, activations)
    for count in range(limits.most_float + 1):
        kept = worst[:count]
        tried = attempt(kept)
        if holds(tried):
            break
    else:
        raise QuantizationError(
            f"INT8 is refused: with {', '.join(kept)} in float scores are off by up to {tried.score_error:.4f} "
            f"(allowed {limits.score_error:.4f}); {_told(exact.figures, tried.figures)}"
        )
    # Some stood in line before one that mattered: they go back, what computes most first.
    for name in sorted(kept, key=costs.__getitem__, reverse=True):
        fewer = [other for other in kept if other != name]
        again = attempt(fewer)
        if holds(again):
            tried, kept = again, fewer
    return Quantized(tried.model, kept)


def layers_of(model: bytes) -> dict[str, int]:
    """Convolutions that may be in INT8, with what they compute: those whose weights no other one reads.

    A filter that several share is a formula's, such as the gradients of MSGMS, and was not learned.
    """
    proto = onnx.load_from_string(model)
    readers = Counter(node.input[1] for node in proto.graph.node if node.op_type == "Conv")
    weights = {node.name: node.input[1] for node in proto.graph.node if node.op_type == "Conv"}
    return {name: cost for name, cost in macs(proto).items() if readers[weights[name]] == 1}


@dataclass(frozen=True)
class _Attempt:
    """A quantised graph, its figures, and the largest error of a score."""

    model: bytes
    figures: dict[str, float]
    score_error: float


def _by_damage(
    even: bytes, ranges: dict[str, Range], layers: Collection[str], parts: Labelled, activations: Activations
) -> list[str]:
    """The layers by what each does to the maps when it alone is in INT8, worst first."""
    probes = [*parts.good[: _PROBES // 2], *parts.defects[: _PROBES // 2]]
    expected = [one.anomaly_map for one in map(runner(even), probes)]

    def damage(name: str) -> float:
        run = runner(to_qdq(even, ranges, [name], activations))
        return float(
            np.mean([np.abs(run(image).anomaly_map - m).mean() for image, m in zip(probes, expected, strict=True)])
        )

    return sorted(layers, key=damage, reverse=True)


def runner(model: bytes) -> Callable[[Pixels], Scored]:
    """Runs a graph with ONNX Runtime on the CPU."""
    session = open_session(model)

    def run(image: Pixels) -> Scored:
        maps, scores = session.run(["anomaly_map", "score"], {"image": image[None]})
        return Scored(maps[0], float(scores[0]))

    return run


def _close(before: dict[str, float], after: dict[str, float]) -> bool:
    return all(after[figure] >= before[figure] - loss for figure, loss in LARGEST_LOSS.items())
