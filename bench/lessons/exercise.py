"""``python run.py lesson NAME --exercise`` writes a file to change, ``--check FILE`` says whether it is right.

The file is the student's own code; it is run in a process of its own, with a time limit. Next: judges.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.machine import ROOT
from engine import atomic
from engine.commands.output import check_output
from engine.console import say
from engine.errors import ResourceError, UsageError, UserError
from engine.installed import program
from engine.settings.fields import user_path

FOLDER = ROOT / "bench/lessons/exercises"
TIME_LIMIT, BACKSTOP, TOO_LONG = 60, 900, 124  # seconds of the student's code, of the process with torch's import; judges.py
JUDGE = "import sys; from bench.lessons.judges import judge; sys.exit(judge(sys.argv[1:]))"


class NotYetError(UserError):
    """The exercise is not solved; the message says what is still wrong."""

    exit_code = 1


def names() -> list[str]:
    """The lessons that have an exercise."""
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("*.py") if path.stem != "__init__")


def file_of(name: str) -> Path:
    """Raises UsageError for a lesson without an exercise."""
    if name not in names():
        raise UsageError(f"lesson {name} has no exercise; there are some for {', '.join(names())}")
    return FOLDER / f"{name.replace('-', '_')}.py"


def write(name: str, output: str | None) -> None:
    """Write the file to change. Raises UsageError if something stands there: it may be the student's work."""
    text = file_of(name).read_text(encoding="utf-8")
    path = user_path(output or f"{name.replace('-', '_')}_exercise.py")
    check_output("--output", str(path), (".py",))
    if path.exists():
        raise UsageError(
            f"--output {path} is there already, and may be your work: name another file, or check it with --check {path}"
        )
    try:
        atomic.write(path, text.replace("--check FILE", f"--check {path}"))
    except OSError as error:
        raise ResourceError(f"--output {path} cannot be written: {error.strerror}") from error
    say(f"{path}: read what it asks for, change it, and then: {program()} lesson {name} --check {path}")


def check(name: str, file: str) -> None:
    """Say whether the file is right. Raises NotYetError with what is still wrong; UsageError."""
    path = user_path(file).absolute()
    exercise = file_of(name)
    if not path.is_file():
        raise UsageError(f"--check {file}: there is no such file; {program()} lesson {name} --exercise writes one")
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-c", JUDGE, name, str(path), str(result), str(TIME_LIMIT)]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BACKSTOP, check=False)
        except subprocess.TimeoutExpired as error:
            raise NotYetError(f"{file} is not right yet: it did not end within {BACKSTOP} seconds") from error
        if done.returncode == TOO_LONG:
            raise NotYetError(f"{file} is not right yet: it did not end within {TIME_LIMIT} seconds")
        if not result.exists():
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise NotYetError(f"{file} is not right yet: it ended the process that checks it ({last})")
        said = json.loads(result.read_text(encoding="utf-8"))["said"]
    if said:
        untouched = path.read_text(encoding="utf-8", errors="replace").replace(f"--check {file}", "--check FILE")
        begun = "nothing is changed in it yet" if untouched == exercise.read_text(encoding="utf-8") else "not right yet"
        raise NotYetError(f"{file}: {begun}: {said}")
    say(f"right: {file} does what the exercise of lesson {name} asks for")
