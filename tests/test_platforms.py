"""What Windows and macOS have not, imitated (tests/toys/elsewhere.py): nothing of ours stands on it, and all the same is done."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toys.cli import command
from tests.toys.elsewhere import source_of

ROOT = Path(__file__).parent.parent
OF_POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
OF_LINUX = {"O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC", "SIGHUP", "SIGKILL", "SIGALRM", "SIGCHLD", "SIGUSR1", "SIGUSR2", "SIGPIPE",
            "SIGSTOP", "ST_RDONLY", "RLIMIT_AS"}  # fmt: skip


def at_import(source: str) -> list[str]:
    """What a module takes for given when it is imported, and only some systems have."""

    def walk(node: ast.AST) -> list[ast.AST]:
        inner = [
            child
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        ]
        return [node, *(each for child in inner for each in walk(child))]

    found = []
    for node in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in OF_POSIX]
        if isinstance(node, ast.ImportFrom) and node.module in OF_POSIX:
            found.append(node.module)
        if isinstance(node, ast.Attribute) and node.attr in OF_LINUX:
            found.append(node.attr)
        if isinstance(node, ast.Constant) and str(node.value).startswith("/proc/"):
            found.append(str(node.value))
    return found


FILES = sorted(path for folder in ("engine", "tasks", "bench", "plainloop") for path in ROOT.glob(f"{folder}/**/*.py"))


def test_importing_needs_no_posix():
    found = {str(path.relative_to(ROOT)): at_import(path.read_text()) for path in [*FILES, ROOT / "run.py"]}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    ["import fcntl", "from resource import getrusage", "import signal\nCODES = {signal.SIGHUP: 1}", "FLAGS = os.O_NOFOLLOW",
     "class A:\n    import pwd", "TEXT = open('/proc/self/statm')", "if True:\n    import termios"],
)  # fmt: skip
def test_the_search_finds_it(source):
    assert at_import(source)
    assert at_import("def f():\n    " + source.replace("\n", "\n    ")) == []


PROGRAM = """
import os, signal
import run
from engine.artifacts.directory import locked
from engine.commands import partial
from engine.data import cache
from engine.record.stop import EXIT_CODES
from tasks.language.templates import TemplateError, within_limits
folder, arguments = Path(sys.argv[1]), sys.argv[2:]
train = [*arguments, "--epochs", "2", "--output-dir", str(folder / "run")]
assert run.main([*train, "--max-minutes", "0.0001"]) == 143, "stopped, and saved"
with locked(folder / "run"):  # a record lock, elsewhere, is another process's matter: tests/engine/artifacts
    assert os.name != "nt" or run.main([*train, "--resume"]) == 2, "in use"
assert run.main([*train, "--resume"]) == 0
entries = [path.parent for path in cache.cache_folder().glob(f"*/*/{cache.MANIFEST}")]
assert entries and all(map(cache.is_whole, entries)), "kept in the cache"
dead = cache.cache_folder() / "tokens" / f"{cache.UNFINISHED}dead"
dead.mkdir()
(dead / cache.LOCK).touch()
with cache.held_folder("tokens") as held:
    assert cache.is_held(held) and not dead.exists()
assert not held.exists()
use = ["--device", "cpu"]
assert run.main(["predict", str(folder / "run"), "--input", str(folder / "eval.csv"), "--output", str(folder / "out.csv"), *use]) == 0
rows = partial.Partial(folder / "x.csv")  # of a file larger than one window
with rows.writing(partial.Progress(of={}, total=1)) as writer:
    with open(rows.rows, "ab") as other:
        try:
            partial.hold(other)
            raise AssertionError("not held")
        except BlockingIOError:
            pass
    writer.add("a\\n1\\n", 1, ["a"])
    writer.finish()
assert (folder / "x.csv").read_text() == "a\\n1\\n" and not rows.rows.exists() and not rows.progress.exists()
assert list(within_limits(lambda text: text + "!", ["a", "b"])) == ["a!", "b!"]
try:
    list(within_limits(lambda text: 1 / 0, ["a"]))
except TemplateError as error:
    assert str(error) == "ZeroDivisionError: division by zero"
else:
    raise AssertionError
print("codes", *EXIT_CODES.values())
assert run.main(["env"]) == 0
"""


@pytest.mark.parametrize("system", ["windows", pytest.param("macos", marks=pytest.mark.slow)])
def test_a_run_there(system, project, tmp_path):
    """Stopped in time and resumed, used on a file; locks that hold, a cache that keeps, memory that is known."""
    (tmp_path / "eval.csv").write_text((project / "eval.csv").read_text())
    code = source_of(system, "from pathlib import Path" + PROGRAM)
    arguments = [word for word in command(project) if word not in ("--epochs", "1")]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert f"codes {'130 143' if system == 'windows' else '130 143 129'}\n" in done.stdout and "\nmemory  " in done.stdout
    assert ("chat templates are read without limits" in done.stderr) == (system == "windows")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["memory_gb"] > 0.1 for line in lines if line["kind"] == "train")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 31
    left = {path.name for path in tmp_path.rglob("*") if path.name.startswith((".tmp", ".dead", ".replaced"))}
    assert not left and not list(tmp_path.glob("out.csv.*"))


SPAWNED = """
import multiprocessing, sys
if __name__ == "__main__":
    from tests.toys.elsewhere import imitate
    imitate("macos")
    import run
    multiprocessing.set_start_method("spawn")
    sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_loader_processes_that_are_spawned(project, tmp_path):
    """As on Windows and macOS: the rows on disk are there for those that open them anew, and gone in the end."""
    (tmp_path / "spawned.py").write_text(SPAWNED)
    words = command(project, "--workers", "1", "--max-steps", "3", "--output-dir", str(tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "spawned.py"), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list((Path(os.environ["PLAINLOOP_CACHE"]) / "rows").iterdir())
