"""Strangers' runs, models, adapters and templates: files changed at random, then read by every command.

    python -m bench strangers --runs 500 --seed 0

Each case copies a finished run (or an adapter's, or a model with a chat template), changes one or two of its files, and lets
``predict``, ``evaluate``, ``report``, ``compare`` and ``push`` (or ``generate --chat``) read it in a forked process. Right is:
no traceback, an error in one line with the exit code of a class, nothing on the terminal that drives it, no hang above 30
seconds, no file written outside the case's folder, no process started, no address asked. A case is a function of seed and
number, so that each can be repeated: --only N.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.flags import make_parser

SECONDS = 30.0  # for all commands of a case on a machine that does other things, too: each takes one or two
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"
NASTY: list[Any] = [
    None, True, 0, -1, 5, 10**9, 10**30, 1e308, 0.5, "", "x", ESCAPE, "../../etc/passwd", "evil/kernel", "http://127.0.0.1:9/x",
    "file.py:Evil", [], {}, [[]], [None, {}], {"x": 1}, {ESCAPE: ESCAPE}, "a" * 5000, "\ud800",
]  # fmt: skip
WHOLE = [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b"{}", b"\x00" * 100, ESCAPE.encode()]
BOMB = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = [BOMB, "{{ 1 / 0 }}", "{{ 'a' * (10 ** 10) }}", "{{ 10 ** (10 ** 9) }}", "{{ raise_exception('no') }}", "{% for %}",
             "{{ messages }}", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", ESCAPE, 5, [], {"a": 1}, None]  # fmt: skip
CODES = {0, 2, 3, 4, 6}  # of the classes that a file can lead to
FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}
FORBIDDEN |= {"socket.connect", "socket.getaddrinfo", "socket.sendto"}


def make_homes(folder: Path) -> None:
    """The finished run, the adapter's run and the model with a chat template that the cases are copies of."""
    from bench.bad_input.case import Place, call, make_home
    from tasks.language.scratch import small_gpt2

    make_home(folder)
    place = Place(folder, folder)
    done = call(place.train("--output-dir", str(folder / "adapter"), "--lora"))
    assert done.code == 0, done
    shutil.copytree(small_gpt2(["The waiter brought the wrong dish twice."] * 50)[0], folder / "chat")


def leaves(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON value, but its own."""
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [each for key, value in inner for each in [(*path, key), *leaves(value, (*path, key))]]


def changed_json(content: bytes, generator: random.Random) -> bytes:
    """One value, or one key, is another."""
    found = json.loads(content)
    paths = leaves(found)
    if not paths:
        return generator.choice(WHOLE)
    *above, key = generator.choice(paths)
    inner = found
    for step in above:
        inner = inner[step]
    kind = generator.randrange(6)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, dict):
        inner[generator.choice([ESCAPE, "x", ""])] = inner.pop(key)
    elif kind == 2 and isinstance(inner[key], str):
        inner[key] = inner[key] + ESCAPE
    else:
        inner[key] = generator.choice(TEMPLATES if key == "chat_template" else NASTY)
    return json.dumps(found).encode()


def changed_bytes(content: bytes, generator: random.Random) -> bytes:
    """Cut, a few bytes flipped, or a piece repeated."""
    at = generator.randrange(len(content) or 1)
    kind = generator.randrange(3)
    if kind == 0:
        return content[:at]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(1 + generator.randrange(8) if content else 0):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        return bytes(changed)
    return content[:at] + content[max(0, at - 50) :]


def link_to(target: str) -> Callable[[Path], None]:
    """What puts a link there in the place of a file."""
    return lambda path: path.symlink_to(target)


def change(path: Path, generator: random.Random) -> None:
    """Change one file as a stranger may."""
    content = path.read_bytes()
    is_json, kind = path.suffix in (".json", ".jsonl"), generator.randrange(12)
    if kind == 0:
        path.unlink()
        how: Callable[[Path], None] = generator.choice([os.mkfifo, os.mkdir, *map(link_to, ("/dev/zero", "/etc/passwd"))])
        how(path)
    elif kind == 1:
        path.write_bytes(generator.choice(WHOLE))
    elif path.suffix == ".jinja":
        path.write_text(str(generator.choice(TEMPLATES)))
    elif path.suffix == ".jsonl" and kind < 9:
        lines = content.splitlines()
        at = generator.randrange(len(lines))
        lines[at] = changed_json(lines[at], generator)
        path.write_bytes(b"\n".join(lines) + b"\n")
    elif is_json and kind < 9:
        path.write_bytes(changed_json(content, generator))
    else:
        path.write_bytes(changed_bytes(content, generator))


def commands(kind: str, folder: Path, home: Path) -> list[list[str]]:
    """What reads the case: each as arguments of run.py."""
    model = str(folder / "it")
    if kind == "chat":
        return [["generate", "--model", model, "--chat", "--max-new-tokens", "2", "--device", "cpu", "hello"]]
    return [
        ["predict", "--model", model, "--device", "cpu", "w1 w2"],
        ["evaluate", "--model", model, "--device", "cpu", "--file", str(home / "eval.csv")],
        ["report", "--model", model],
        ["compare", str(home / "finished"), model, "--output", str(folder / "compare.html")],
        ["push", "--model", model, "--repo", "org/name"],
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
    kind = generator.choice(["finished", "finished", "finished", "adapter", "adapter", "chat"])
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
            found += faults_of(argv)
        (folder / "found.json").write_text(json.dumps(found))
        return 0

    ended = in_child(work, folder / "output.txt", kill_after=SECONDS)
    if ended.code is None:
        return [f"it takes more than {SECONDS:.0f} seconds"]
    if ended.code != 0:
        return [f"its process ended with {ended.code}: {(folder / 'output.txt').read_text(errors='replace')[-500:]}"]
    said: list[str] = json.loads((folder / "found.json").read_text())
    return said


def strangers(numbers: Sequence[int], seed: int, home: Path) -> dict[int, list[str]]:
    """The cases that went wrong, with what is wrong; the folder of each is deleted."""
    wrong = {}
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="stranger-") as folder:
            if found := case(number, seed, home, Path(folder)):
                wrong[number] = found
                print(f"case {number}: " + "; ".join(repr(each)[:900] for each in found), flush=True)
    return wrong


def main(argv: Sequence[str]) -> int:
    """The command; 1 if a case went wrong."""
    parser = make_parser("strangers", __doc__)
    parser.add_argument("--runs", type=int, default=500, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--only", type=int, nargs="*", default=[], help="the numbers of some cases")
    options = parser.parse_args(argv)
    from bench.reliability.forked import in_child, warm_up

    warm_up()
    with tempfile.TemporaryDirectory(prefix="strangers-") as folder:
        home = Path(folder)

        def make(_: Callable[[], None]) -> int:
            make_homes(home)
            return 0

        made = in_child(make, home / "made.txt")
        assert made.code == 0, (home / "made.txt").read_text()[-2000:]
        wrong = strangers(options.only or range(options.runs), options.seed, home)
    print(f"{len(options.only) or options.runs} cases with seed {options.seed}: {len(wrong)} went wrong")
    return 1 if wrong else 0
