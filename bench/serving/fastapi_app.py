"""What is measured beside ``serve``: the same model, task and queue behind FastAPI, as its own documentation would have it.

measure.py starts it as a process of its own, with the model's directory and the port. The queue that computes together what has
come together is ours (engine/serving/batcher.py), so that what differs is the server library: a model of the body, its checks.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Any


def main(directory: str, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    import tasks
    from engine.console import quiet_libraries
    from engine.finished import open_model
    from engine.serving.batcher import Batcher, Job

    quiet_libraries()
    task, model, layout = open_model(directory, tasks.find, device="cpu")
    batcher = Batcher(task, model, layout, max_batch=32, max_waiting=1024)

    class Asked(BaseModel):
        inputs: str | list[str]

    class Said(BaseModel):
        predictions: list[dict[str, Any]]

    app = FastAPI()

    async def predict(asked: Asked) -> Said:
        job = Job([asked.inputs] if isinstance(asked.inputs, str) else asked.inputs, time.monotonic() + 30)
        batcher.submit(job)
        return Said(predictions=await asyncio.wrap_future(job.answer))

    predict.__annotations__ |= {"asked": Asked, "return": Said}  # classes of a function, which FastAPI cannot look up by name
    app.post("/predict")(predict)
    warm = Job(["warm"], time.monotonic() + 600)
    batcher.submit(warm)
    warm.answer.result()
    config = uvicorn.Config(app, log_level="critical", access_log=False, http="h11", loop="asyncio", lifespan="off")
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    print(f"serving at http://127.0.0.1:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
