"""Strangers' runs, models, adapters and templates: files changed at random, then read by every command.

    python -m bench strangers --runs 3000 --seed 0 --results bench/results/strangers-cpu.json

Each case copies a finished run, an adapter's, or a model (of text, with a chat template, of vectors, of pictures), changes one
or two of its files (mutations.py), and lets ``predict``, ``evaluate``, ``report``, ``compare``, ``push --dry-run``,
``generate --chat``, ``search``, ``caption`` or a training read it in a forked process. Right is: no traceback, an error in one
line with the exit code of a class, nothing on the terminal that drives it, no hang above 30 seconds. By strace: no file
written outside the case's folder, none read but there, in the folder that the cases share, and where Python itself reads; no
program started, no address asked. Without strace that is said, and Python's own events take its place, which do not see what
compiled code does. A case is a function of seed and number, so that each can be repeated: --only N.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.flags import at_least, make_parser
from bench.machine import ROOT, keep
from bench.reliability import watched
from bench.reliability.mutations import change

SECONDS = 30.0  # for all commands of a case on a machine that does other things, too: each takes one or two
BATCH = 100  # cases that one strace watches
CODES = {0, 2, 3, 4, 5, 6}  # of the classes that a file can lead to
FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}
FORBIDDEN |= {"socket.connect", "socket.getaddrinfo", "socket.sendto"}
KINDS = ["finished"] * 5 + ["adapter"] * 3 + ["model"] * 2 + ["chat"] * 2 + ["vectors", "pictures"]
MODULES = (  # that the cases need, so that not each has to import them
    "peft", "joblib", "sklearn", "scipy", "nltk", "tasks.captioning.caption", "tasks.captioning.metrics",
    "tasks.captioning.task", "tasks.embeddings.search", "tasks.language.generate", "tasks.language.sft",
    "engine.commands.evaluate", "engine.commands.predict", "engine.commands.push", "engine.commands.report",
    "engine.commands.environment", "transformers.hf_argparser", "transformers.trainer_utils",
    "transformers.models.bert.modeling_bert", "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.vit.modeling_vit",
    "transformers.models.vision_encoder_decoder.modeling_vision_encoder_decoder",
    "transformers.models.vit.image_processing_pil_vit", "transformers.models.auto.processing_auto",
    "transformers.models.distilbert.modeling_distilbert", "bench.bad_input.case",
    "transformers.models.bloom.modeling_bloom", "tasks.samples.shapes", "tasks.language.scratch", "rouge_score",
    "sacrebleu",
)  # fmt: skip
PLACE = re.compile(r"^.*/stranger-\d+-[^/\"]+(?=/)")


def make_homes(folder: Path) -> None:
    """What the cases are copies of; the adapter's run has a profile, the finished one a page of mistakes."""
    from bench.bad_input.case import Place, call, make_home
    from bench.toys import tiny
    from tasks.embeddings.pooling import Pooling
    from tasks.language.scratch import small_gpt2
    from tasks.samples.shapes import drawn, save_small_captioner

    make_home(folder)
    place = Place(folder, folder)
    finished = str(folder / "finished")
    for argv in (
        place.train("--output-dir", str(folder / "adapter"), "--lora", "--epochs", "2", "--profile", "2"),
        ["evaluate", "--model", finished, "--device", "cpu", "--errors", f"{finished}/errors.csv"],
    ):
        done = call(argv)
        assert done.code == 0, done
    (folder / "adapter/profile/trace.json").unlink()  # nothing here reads it
    assert (folder / "adapter/profile/profile.json").exists()  # it is there after three steps, which get it warm
    shutil.copytree(small_gpt2(["The waiter brought the wrong dish twice."] * 50)[0], folder / "chat")
    tiny.save_model(folder / "vectors", tiny.bert().bert)
    Pooling().write(folder / "vectors", 32, 16)
    (folder / "pictures").mkdir()
    save_small_captioner(folder / "pictures", ["a", "red", "circle"])
    (folder / "picture.png").write_bytes(drawn("eval")[0][0])
    (folder / "corpus.txt").write_text("w1 w2\nw3 w4\n")


def commands(kind: str, folder: Path, home: Path) -> list[list[str]]:
    """What reads the case: each as arguments of run.py."""
    model, cpu = str(folder / "it"), ["--device", "cpu"]
    data = ["--train-file", str(home / "train.csv"), "--epochs", "1", "--max-steps", "1", "--batch-size", "8"]
    push = ["push", "--repo", "org/name", "--dry-run", "--model"]
    if kind == "chat":
        return [["generate", "--model", model, "--chat", "--max-new-tokens", "2", *cpu, "hello"]]
    if kind == "vectors":
        return [["search", "--model", model, "--corpus", str(home / "corpus.txt"), *cpu, "w1"]]
    if kind == "pictures":
        return [["caption", "--model", model, "--max-new-tokens", "2", *cpu, str(home / "picture.png")]]
    if kind == "model":
        return [
            ["--task", "classification", "--model", model, *data, *cpu, "--output-dir", str(folder / "out")],
            [*push, str(folder / "out")],
        ]
    return [
        ["predict", "--model", model, *cpu, "w1 w2"],
        ["evaluate", "--model", model, *cpu, "--file", str(home / "eval.csv")],
        ["report", "--model", model],
        ["compare", str(home / "finished"), model, "--output", str(folder / "compare.html")],
        [*push, model],
    ]


def faults_of(argv: Sequence[str]) -> list[str]:
    """What is wrong with the result of a command line, in this process."""
    from bench.bad_input.case import call

    result = call(argv)
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    found = []
    if result.raised:
        found.append("a traceback: " + result.raised.strip()[-600:])
    elif result.code not in CODES:
        found.append(f"exit code {result.code}: {result.err[-300:]}")
    elif result.code and (len(errors) != 1 or len(errors[0]) > 900):
        found.append(f"not one error line: {result.err[-300:]!r}")
    if any(not c.isprintable() and c not in "\n\r\t" for c in result.err + result.out):
        found.append(f"control characters on the terminal: {(result.err + result.out)[-300:]!r}")
    return [f"{argv[0]}: {each}" for each in found]


def watch(folder: Path, found: list[str]) -> None:
    """From now on, note what this process must not do."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            found.append(f"{event} {arguments!r:.200}")
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path = os.path.realpath(arguments[0])
            if path != os.devnull and not Path(path).is_relative_to(folder):
                found.append(f"writes {path}")

    sys.addaudithook(hook)


def case(number: int, seed: int, home: Path, folder: Path) -> list[str]:
    """One case; what is wrong with it."""
    from bench.reliability.forked import in_child

    generator = random.Random(f"{seed} {number}")
    kind = generator.choice(KINDS)
    shutil.copytree(home / kind, folder / "it", ignore=shutil.ignore_patterns("checkpoints", "report.html", ".lock"))
    files = sorted(path for path in (folder / "it").rglob("*") if path.is_file() and path.suffix not in (".md", ".txt"))
    for path in generator.sample(files, generator.choice([1, 1, 2])):
        change(path, generator)
    (folder / "cache").mkdir()

    def work(_: Callable[[], None]) -> int:
        found: list[str] = []
        os.environ.update(PLAINLOOP_CACHE=str(folder / "cache"), TMPDIR=str(folder), HF_TOKEN="hf_none")
        tempfile.tempdir = str(folder)
        watch(folder.resolve(), found)
        for argv in commands(kind, folder, home):
            if argv[0] != "push" or kind != "model" or (folder / "out/run.json").exists():
                found += faults_of(argv)
        (folder / "found.json").write_text(json.dumps(found))
        return 0

    ended = in_child(work, folder / "output.txt", kill_after=SECONDS)
    if ended.code is None:
        return [f"{kind}: it takes more than {SECONDS:.0f} seconds"]
    if ended.code != 0:
        return [f"{kind}: its process ended with {ended.code}: {(folder / 'output.txt').read_text(errors='replace')[-500:]}"]
    said: list[str] = json.loads((folder / "found.json").read_text())
    return [f"{kind}: {each}" for each in said]


def strangers(numbers: Sequence[int], seed: int, home: Path) -> tuple[dict[int, list[str]], float]:
    """The cases that went wrong, with what is wrong, and how long the slowest took; the folder of each is deleted."""
    wrong, slowest = {}, 0.0
    for number in numbers:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix=f"stranger-{number}-") as folder:
            if found := case(number, seed, home, Path(folder)):
                wrong[number] = found
        slowest = max(slowest, time.perf_counter() - began)
    return wrong, slowest


def traced(numbers: Sequence[int], seed: int, home: Path) -> tuple[dict[int, list[str]], float, Counter[str]]:
    """``strangers`` in a process that strace watches, and how often each call was made."""
    log, answer = home / "strace.txt", home / "answer.json"
    arguments = ["--only", *map(str, numbers), "--seed", str(seed), "--home", str(home), "--answer", str(answer)]
    whole = watched.command(log, [sys.executable, "-m", "bench", "strangers", *arguments])
    done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the cases could not be tried: {done.stderr[-2000:]}")
    found = json.loads(answer.read_text())
    wrong: dict[int, list[str]] = {int(number): faults for number, faults in found["wrong"].items()}
    seen = watched.Watch(PLACE, [str(home), str(ROOT)])
    with open(log, encoding="utf-8", errors="surrogateescape") as lines:
        seen.read(lines)
    for place, faults in seen.faults.items():
        wrong.setdefault(int(Path(place).name.split("-")[1]), []).extend(faults)
    log.unlink()
    return wrong, found["slowest"], seen.calls


def try_all(numbers: Sequence[int], seed: int, home: Path) -> dict[str, Any]:
    """The document: all cases, by strace if it is there, a line for each that went wrong."""
    by_strace, slowest = watched.is_there(), 0.0
    wrong: dict[int, list[str]] = {}
    calls: Counter[str] = Counter()
    if not by_strace:
        print(
            "strace is not here, or may not trace: Python's own events are watched, and not what compiled code does", flush=True
        )
    for at in range(0, len(numbers), BATCH):
        batch = numbers[at : at + BATCH]
        more, seconds, seen = traced(batch, seed, home) if by_strace else (*strangers(batch, seed, home), Counter[str]())
        wrong, slowest, calls = wrong | more, max(slowest, seconds), calls + seen
        for number, found in more.items():
            print(f"case {number}: " + "; ".join(repr(each)[:900] for each in found), flush=True)
    return {"cases": len(numbers), "seed": seed, "wrong": wrong, "slowest_seconds": round(slowest, 1),
            "watched_by": "strace" if by_strace else "Python's events",
            "calls_watched": dict(sorted(calls.items()))}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """The command; 1 if a case went wrong."""
    parser = make_parser("strangers", __doc__)
    parser.add_argument("--runs", type=at_least(0), default=500, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--only", type=int, nargs="*", default=[], help="the numbers of some cases")
    parser.add_argument("--results", type=Path, help="JSON file for what was found (default: none)")
    parser.add_argument("--home", type=Path, help="a folder with what the cases are copies of (default: made anew)")
    parser.add_argument(
        "--answer", type=Path, help="write what the cases came to, and watch no process: for the command itself"
    )
    options = parser.parse_args(argv)
    from bench.reliability.forked import in_child, warm_up

    warm_up()
    for name in MODULES:
        importlib.import_module(name)
    numbers = options.only or list(range(options.runs))
    if options.answer:
        wrong, slowest = strangers(numbers, options.seed, options.home)
        options.answer.write_text(json.dumps({"wrong": wrong, "slowest": slowest}))
        return 0
    with tempfile.TemporaryDirectory(prefix="strangers-") as folder:
        home = options.home or Path(folder)
        home.mkdir(parents=True, exist_ok=True)

        def make(_: Callable[[], None]) -> int:
            make_homes(home)
            return 0

        if not (home / "finished").exists():
            made = in_child(make, home / "made.txt")
            assert made.code == 0, (home / "made.txt").read_text()[-2000:]
        document = try_all(numbers, options.seed, home)
    if options.results:
        keep(options.results, document)
    print(f"{len(numbers)} cases with seed {options.seed}: {len(document['wrong'])} went wrong; the slowest took "
          f"{document['slowest_seconds']} s; watched by {document['watched_by']}")  # fmt: skip
    return 1 if document["wrong"] else 0
