"""The golden gate of a loaded model: its golden images go through the batcher, the way every image does."""

from __future__ import annotations

import math
from concurrent.futures import Future

from service.backends.base import Scored
from service.backends.golden import require_golden, require_golden_batches
from service.bundle.folder import Bundle
from service.images.decoding import Pixels
from service.station.batching import Batcher
from service.station.runs import Model, Result


def check_golden(bundle: Bundle, model: Model, batcher: Batcher, most: int | None = None) -> None:
    """Run the golden images, or the first `most`, as every image is run; raises GoldenError above the tolerance.

    Each as often as the backend runs side by side: its runs may differ in threads and memory, all must be right.
    """

    def run(image: Pixels) -> list[Scored]:
        return _results([batcher.submit(model, image, math.inf) for _ in range(model.backend.lanes)])

    require_golden(bundle, model.backend.precision, run, most)


def check_golden_batches(bundle: Bundle, model: Model, batcher: Batcher) -> None:
    """Run golden images in batches of every size that the batcher may form; raises as `check_golden`.

    A GPU has kernels, graphs and memory for each: none is first tried on a part. Where nothing shares a run, as on a
    CPU, there is nothing to do.
    """

    def run(images: list[Pixels]) -> list[Scored]:
        return _results(batcher.submit_batch(model, images))

    require_golden_batches(bundle, model.backend.precision, run, batcher.largest_batch(model))


def _results(futures: list[Future[Result]]) -> list[Scored]:
    return [future.result().scored for future in futures]
