"""How one bad input is tried: a command line, what it must get, and whether anything on disk was lost.

A row is a generator function under ``@row(number, what, code, words)``: it writes its input with the help of ``Place``,
yields command lines, and may look at what each came to. ``judge`` runs it. rows.py has all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import run
from bench.machine import ROOT
from bench.toys import tiny
from engine.checkpoint.store import open_checkpoint, sealed, steps_in

NOBODY = 65534  # the user id of nobody


@dataclass(frozen=True)
class Result:
    """What a command line came to. ``raised``: a traceback, which no user must see."""

    code: int
    out: str
    err: str
    raised: str = ""


Attempts = Generator[list[str] | Result, Result, None]


@dataclass(frozen=True)
class Row:
    """A row of the table: ``words`` stand in the error line, or in what a run that works has printed."""

    number: str
    what: str
    code: int
    words: str
    attempts: Callable[[Place], Attempts]
    needs: str = ""  # what this machine or this version has not got
    slow: bool = False  # new processes
    begun: bool = False  # training begins, so files change; every checkpoint must be whole

    @property
    def expected(self) -> str:
        return f"exit {self.code}" + (f": {self.words}" if self.words else "")


ROWS: list[Row] = []


def row(
    number: int | str, what: str, code: int, words: str = "", **marks: Any
) -> Callable[[Callable[[Place], Attempts]], None]:
    """Put a generator function into the table."""

    def add(attempts: Callable[[Place], Attempts]) -> None:
        ROWS.append(Row(str(number), what, code, words, attempts, **marks))

    return add


def call(argv: Sequence[str]) -> Result:
    """The command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code, raised = run.main(list(argv)), ""
        except SystemExit as stop:
            code, raised = int(stop.code or 0), ""
        except BaseException:  # what run.main does not explain
            code, raised = 1, traceback.format_exc()
    return Result(code, out.getvalue(), err.getvalue(), raised)


def spawn(argv: Sequence[str], **options: Any) -> Result:
    """The command line in a new process."""
    command = [sys.executable, str(ROOT / "run.py"), *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **{"cwd": ROOT, **options})
    return Result(done.returncode, done.stdout, done.stderr, done.stderr if "Traceback" in done.stderr else "")


def make_home(folder: Path) -> Path:
    """What the rows share and never change: a model, data, a finished run, and one cut off before its end."""
    tiny.save_model(folder / "model")
    tiny.save_texts(folder, train=24, eval=12)
    place = Place(folder, folder)
    done = call(place.train("--output-dir", str(folder / "finished")))
    assert done.code == 0, done
    with patch("engine.fit.write_model", side_effect=KeyboardInterrupt):
        done = call(place.train("--output-dir", str(folder / "unfinished"), "--save-steps", "2", "--max-steps", "6"))
    assert done.code == 130 and steps_in(folder / "unfinished/checkpoints")[-2:] == [4, 6], done
    return folder


class Place:
    """A folder of its own for one row, and what its command lines are made of."""

    def __init__(self, home: Path, folder: Path):
        self.home, self.folder = home, folder
        self.out = folder / "out"

    def train(self, *flags: str) -> list[str]:
        """A small run; a flag given here takes the place of the same one."""
        usual = {
            "--task": "classification", "--model": str(self.home / "model"), "--train-file": str(self.home / "train.csv"),
            "--eval-file": str(self.home / "eval.csv"), "--epochs": "1", "--batch-size": "8", "--device": "cpu",
            "--output-dir": str(self.out),
        }  # fmt: skip
        given = {flag.split("=")[0] for flag in flags}
        return [part for pair in usual.items() if pair[0] not in given for part in pair] + list(flags)

    def on(self, name: str, content: str | bytes, *flags: str) -> list[str]:
        """Train on a file of this content, without evaluation data."""
        arguments = self.train("--train-file", self.write(name, content), *flags)
        at = arguments.index("--eval-file")
        return arguments[:at] + arguments[at + 2 :]

    def on_labels(self, labels: Sequence[Any], *flags: str) -> list[str]:
        """Train on these labels, in JSONL."""
        return self.on(
            "t.jsonl", "".join(json.dumps({"text": f"w{i}", "label": x}) + "\n" for i, x in enumerate(labels)), *flags
        )

    def resume(self, *flags: str) -> list[str]:
        """Go on with a copy of the run that was cut off."""
        if not self.out.exists():
            shutil.copytree(self.home / "unfinished", self.out)
        return self.train("--save-steps", "2", "--max-steps", "6", "--resume", *flags)

    def resume_earlier(self) -> list[str]:
        """The same, but for its newest checkpoint: there is something left to train."""
        arguments = self.resume()
        shutil.rmtree(self.out / "checkpoints/step-00000006")
        return arguments

    def predict(self, *flags: str, model: Path | None = None) -> list[str]:
        return ["predict", "--model", str(model or self.home / "finished"), *flags]

    def predict_file(self, name: str, content: str | bytes, *flags: str) -> list[str]:
        return self.predict("--input", self.write(name, content), *flags)

    def write(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def model(self, **config: Any) -> Path:
        """A copy of the model directory, with settings of its config.json changed."""
        folder = Path(shutil.copytree(self.home / "model", self.folder / "model"))
        edit(folder / "config.json", **config)
        return folder

    def finished(self) -> Path:
        """A copy of the finished run."""
        return Path(shutil.copytree(self.home / "finished", self.folder / "finished"))

    def task(self, body: str) -> str:
        """A task of one's own: classification with this in its class."""
        head = (
            "import os, signal, time\nfrom tasks.classification.task import Classification\n"
            "from tasks import classification\n\nclass Mine(Classification):\n"
        )
        return self.write("mine.py", head + "".join(f"    {line}\n" for line in body.splitlines())) + ":Mine"


def edit(path: Path, **changes: Any) -> None:
    """Change members of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reseal(directory: Path, **changes: Any) -> None:
    """Change members of a checkpoint's manifest, as somebody who knows its format would."""
    document = {key: value for key, value in json.loads((directory / "MANIFEST.json").read_text()).items() if key != "sha256"}
    (directory / "MANIFEST.json").write_bytes(sealed(document | changes))


def newest(at: Place) -> Path:
    """The newest checkpoint of the row's run."""
    return at.out / f"checkpoints/step-{steps_in(at.out / 'checkpoints')[-1]:08d}"


@contextlib.contextmanager
def as_nobody() -> Iterator[Path]:
    """Become nobody for a while, if this is root, who may write anywhere.

    Gives a folder that cannot be written to, and in it a file ``t.csv`` that cannot be read.
    """
    folder = Path(tempfile.mkdtemp(prefix="plainloop-", dir="/tmp"))
    (folder / "t.csv").touch(mode=0)
    folder.chmod(0o555)
    is_root = os.getuid() == 0
    try:
        if is_root:
            os.setresuid(NOBODY, NOBODY, 0)
        yield folder
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


# ------------------------------------------------------------------------------------------------------- the judgement


def judge(row: Row, place: Place) -> tuple[str, list[str]]:
    """What the row got, and what is wrong with it: [] if nothing."""
    faults: list[str] = []
    got = ""
    attempts = row.attempts(place)
    attempt: list[str] | Result | None = None
    try:
        attempt = next(attempts)
        while True:
            before = files_in(place.folder)
            result = attempt if isinstance(attempt, Result) else call(attempt)
            got = got or describe(row, result)
            faults += complaints(row, result)
            if row.code and not row.begun:
                faults += changed(before, files_in(place.folder))
            attempt = attempts.send(result)
    except StopIteration:
        pass
    except AssertionError as error:
        faults.append(f"not so: {error or traceback.extract_tb(error.__traceback__)[-1].line}")
    except Exception:
        faults.append("the row itself fails: " + traceback.format_exc())
    finally:
        attempts.close()
    if attempt is None:
        faults.append("the row tries nothing")
    for step in steps_in(place.out / "checkpoints"):
        if row.begun:
            open_checkpoint(place.out / f"checkpoints/step-{step:08d}")
    return got, faults


def describe(row: Row, result: Result) -> str:
    """The exit code, and the line that says why."""
    lines = [line for line in result.err.splitlines() if line.startswith(("error: ", "warning: "))]
    if result.raised:
        lines = [result.raised.strip().splitlines()[-1]]
    words = [line for line in (result.err + result.out).splitlines() if row.words and row.words in line]
    return f"exit {result.code}" + "".join(f": {line}" for line in (lines[-1:] if row.code else words[:1] or lines[-1:]))


def complaints(row: Row, result: Result) -> list[str]:
    """What is wrong with a result."""
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    found = []
    if result.raised or "Traceback" in result.err:
        found.append(f"a traceback: {result.raised.strip().splitlines()[-1:]}")
    if result.code != row.code:
        found.append(f"exit code {result.code}, not {row.code}: {result.err.strip()[-300:]}")
    if 0 < row.code < 128:
        if not errors or errors != result.err.strip().splitlines()[-1:]:
            found.append(f"not one error line, at the end: {result.err!r}")
        elif row.words not in errors[0]:
            found.append(f"{row.words!r} is not in {errors[0]!r}")
        elif len(errors[0]) > 900:
            found.append(f"a line of {len(errors[0])} characters")
    else:
        if errors:
            found.append(f"an error line: {errors}")
        if row.words not in result.err + result.out:
            found.append(f"{row.words!r} is not said: {(result.err + result.out)[-600:]!r}")
    if any(not c.isprintable() and c not in "\n\r\t" for c in result.err + result.out):
        found.append("control characters on the terminal")
    return found


def files_in(folder: Path) -> dict[str, str]:
    """A hash of every file, but for locks and Python's own caches."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != ".lock" and path.suffix != ".pyc"
    }


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Files lost, changed, or left half way."""
    lost = [f"{name} is lost or changed" for name, digest in before.items() if after.get(name) != digest]
    return lost + [f"{name} is left behind" for name in after.keys() - before.keys()]
