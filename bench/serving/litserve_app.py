"""What is measured beside ``serve``: the same model and task behind LitServe, which has a queue and a process of its own.

measure.py starts it as a process of its own, with the model's directory and the port. Up to 32 requests are computed together,
and the first waits BATCH_TIMEOUT for others: LitServe has no "what has come so far" without a wait.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any
from urllib.request import urlopen

import litserve

BATCH_TIMEOUT = 0.01  # seconds
MODEL = "PLAINLOOP_BENCH_MODEL"  # the environment variable: LitServe computes in a process that it starts anew


class Api(litserve.LitAPI):  # type: ignore[misc]
    """The task's own ``predict``."""

    def setup(self, device: Any) -> None:
        """In the process that computes."""
        import tasks
        from engine.console import quiet_libraries
        from engine.finished import open_model

        quiet_libraries()
        self.task, self.net, self.layout = open_model(os.environ[MODEL], tasks.find, device="cpu")
        list(self.task.predict(self.net, ["warm"], self.layout))

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # with a type FastAPI would look for it in the address
        return str(request["inputs"])

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, inputs: list[str]) -> list[dict[str, Any]]:
        return list(self.task.predict(self.net, inputs, self.layout))

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return {"predictions": [output]}


def main(directory: str, port: int) -> None:
    os.environ[MODEL] = directory
    server = litserve.LitServer(Api(max_batch_size=32, batch_timeout=BATCH_TIMEOUT), accelerator="cpu", workers_per_device=1)
    threading.Thread(target=say_when_ready, args=(port,), daemon=True).start()
    server.run(host="127.0.0.1", port=port, log_level="critical", generate_client_file=False)


def say_when_ready(port: int) -> None:
    """The line that measure.py waits for; /health answers when the model is there."""
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                if answer.status == 200:
                    break
        except OSError:
            time.sleep(0.1)
    print(f"serving at http://127.0.0.1:{port}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
