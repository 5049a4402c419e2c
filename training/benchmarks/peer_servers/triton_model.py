"""Triton Inference Server as PyTriton brings it: its HTTP server and queue before one function of Python."""

import os

import numpy as np
from network import Network
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

network = Network()


def infer(requests: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    return [{"score": np.array([network.score(request["image"].flat[0])], np.float32)} for request in requests]


if __name__ == "__main__":
    port = int(os.environ["PEER_PORT"])
    config = TritonConfig(http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            "inspect",
            infer,
            [Tensor(name="image", dtype=bytes, shape=(1,))],
            [Tensor(name="score", dtype=np.float32, shape=(1,))],
            config=ModelConfig(batching=False),
        )
        triton.serve()
