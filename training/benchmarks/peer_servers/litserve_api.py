"""LitServe with its defaults: one worker."""

import os

import litserve
from fastapi import Request
from network import Network


class Inspect(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.network = Network()

    def decode_request(self, request: Request) -> bytes:
        # It is the form by now.
        data: bytes = request["image"].file.read()
        return data

    def predict(self, data: bytes) -> float:
        return self.network.score(data)

    def encode_response(self, score: float) -> dict[str, float]:
        return {"score": score}


if __name__ == "__main__":
    server = litserve.LitServer(Inspect(api_path="/inspect"), accelerator="cpu")
    server.run(port=int(os.environ["PEER_PORT"]), generate_client_file=False, log_level="warning")
