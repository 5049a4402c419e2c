"""What every peer serves: an encoded image to its score, through the same ONNX file. Knows nothing of the project."""

import os

import cv2
import numpy as np
import onnxruntime


class Network:
    """A session over all cores, as it comes."""

    def __init__(self) -> None:
        self._session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], providers=["CPUExecutionProvider"])
        self._size = self._session.get_inputs()[0].shape[1:3]

    def score(self, data: bytes) -> float:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise ValueError("not an image")
        if list(pixels.shape[:2]) != list(self._size):
            pixels = cv2.resize(pixels, tuple(self._size[::-1]), interpolation=cv2.INTER_AREA)
        (score,) = self._session.run(["score"], {"image": pixels[None]})
        return float(score[0])
