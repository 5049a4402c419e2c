"""A plain FastAPI route, as it is written first: FastAPI runs it in its pool of threads."""

import os
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File
from network import Network

app = FastAPI()
network = Network()


@app.post("/inspect")
def inspect(image: Annotated[bytes, File()]) -> dict[str, float]:
    return {"score": network.score(image)}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PEER_PORT"]), log_level="warning")
