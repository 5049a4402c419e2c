"""Requests of the Open Inference Protocol."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

INFER = "/v2/models/part/infer"


def image_input(images: np.ndarray, **changes: object) -> dict[str, Any]:
    tensor = {"name": "image", "shape": list(images.shape), "datatype": "UINT8", "data": images.tolist()}
    return {"inputs": [tensor | changes]}


def bytes_input(pictures: list[bytes], **changes: object) -> dict[str, Any]:
    texts = [base64.b64encode(picture).decode() for picture in pictures]
    return {"inputs": [{"name": "image_bytes", "shape": [len(texts)], "datatype": "BYTES", "data": texts} | changes]}


def binary_input(name: str, datatype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}
