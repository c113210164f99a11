"""What is measured beside ``serve``: transformers' pipeline in the same server library, a text at a time.

measure.py starts it as a process of its own, with the model's directory and the port.
"""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any


def main(model: str, port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from transformers import pipeline

    classify: Any = pipeline("text-classification", model=model, top_k=None, device="cpu")  # type: ignore[call-overload]
    lock = threading.Lock()  # the model is one

    def answer(text: str) -> Any:
        with lock:
            return classify([text], truncation=True)[0]

    async def predict(request: Request) -> JSONResponse:
        found = await run_in_threadpool(answer, (await request.json())["inputs"])
        probabilities = {each["label"]: each["score"] for each in found}
        return JSONResponse({"predictions": [{"probabilities": probabilities}]})

    answer("warm")
    app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
    config = uvicorn.Config(app, log_level="critical", access_log=False, http="h11", loop="asyncio", lifespan="off")
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    print(f"serving at http://127.0.0.1:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
