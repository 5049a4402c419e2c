"""Cameras that stand still: a camera that sends the same image again sees no part."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from service.images.decoding import Pixels

# Pairs of camera and recipe, some hundred bytes each.
_MOST_REMEMBERED = 4096


def digest(resized: Pixels) -> bytes:
    """What two images share only where every pixel `(h, w, 3)` is the same."""
    return blake2b(resized.tobytes(), digest_size=16).digest()


class FrozenCameras:
    """Notices a camera that sends the same image again: sensor noise makes two live images differ.

    For each recipe on its own: one image may be meant for several. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def is_frozen(self, camera: str, recipe: str, picture: bytes) -> bool:
        """Whether the last image of `camera` that `recipe` gave a verdict on had this digest; from now on it has."""
        frozen = self._last.pop((camera, recipe), None) == picture
        self._last[camera, recipe] = picture
        if len(self._last) > _MOST_REMEMBERED:
            self._last.popitem(last=False)
        return frozen
