"""notebooks/: each can be read, begins with the same setup, is listed, and runs; and what a real kernel shows and does."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from bench.lessons import exercise
from bench.lessons.command import all_lessons

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").iterdir())
PAGE = (ROOT / "docs/notebooks.md").read_text(encoding="utf-8")
SETUP = (ROOT / "notebooks/yelp.py").read_text(encoding="utf-8").split("# %%\n")[1].strip()
TUTORIALS = {"yelp", "imdb", "gpt2", "captioning", "search", "masked_lm", "sft"}
SESSIONS = {f"session_{number}" for number in range(1, 7)}


def cells_of(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each cell. Raises ValueError for what Jupytext, a kernel or a reader on Colab could not take."""
    head, *parts = re.split(r"^# %%", text, flags=re.MULTILINE)
    if "name: python3" not in head:
        raise ValueError("it does not say which kernel runs it")
    cells = []
    for part in parts:
        first, _, body = part.partition("\n")
        kind = {"": "code", " [markdown]": "markdown"}.get(first)
        if kind is None:
            raise ValueError(f"a cell of an unknown kind: {first}")
        if kind == "markdown" and any(not line.startswith("#") for line in body.strip().splitlines()):
            raise ValueError("a line of prose is no comment")
        if kind == "code":
            ast.parse(body)
        cells.append((kind, body.strip()))
    if not cells or cells[0][0] != "markdown" or not cells[0][1].startswith("# # "):
        raise ValueError("it does not begin with a title")
    code = [body for kind, body in cells if kind == "code"]
    extras = re.search(r"plainloop\[([\w,-]+)\]", code[0])
    if extras is None or code[0].replace(extras[0], "plainloop[offline]") != SETUP:
        raise ValueError("its first cell of code is not the setup")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if not {"offline"} <= set(extras[1].split(",")) <= {*known}:
        raise ValueError("its setup installs extras that there are not")
    return cells


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_is_whole(path):
    assert len(cells_of(path.read_text(encoding="utf-8"))) > 8


BROKEN = {
    "which kernel": lambda text: text.replace("python3", "bash"),
    "unknown kind": lambda text: text.replace("# %%\n", "# %% [raw]\n", 1),
    "no comment": lambda text: text.replace("# # ", "# # A title\nprose\n# ", 1),
    "invalid syntax": lambda text: text + "\n# %%\nresult = = 1\n",
    "a title": lambda text: text.replace("# # ", "# ", 1),
    "not the setup": lambda text: text.replace('ADDRESS = ""', 'ADDRESS = "somewhere"'),
    "extras that": lambda text: text.replace("[offline]", "[offline,oflain]"),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_is_broken_is_found(message):
    text = NOTEBOOKS[-1].read_text(encoding="utf-8")
    assert BROKEN[message](text) != text
    with pytest.raises((ValueError, SyntaxError), match=message):
        cells_of(BROKEN[message](text))


def test_there_is_one_for_each_tutorial_and_each_session_and_the_page_lists_them_once():
    assert {path.stem for path in NOTEBOOKS} == TUTORIALS | SESSIONS and {path.suffix for path in NOTEBOOKS} == {".py"}
    assert sorted(re.findall(r"^\| \[[^\]]+\]\(\.\./notebooks/(\w+)\.py\) \|", PAGE, flags=re.MULTILINE)) == sorted(
        TUTORIALS | SESSIONS
    )
    assert all(
        "notebooks" in (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/README.md", "docs/course.md")
    )


def test_the_sessions_are_those_of_the_course():
    """The lessons held in class, in the session and order of the page; of its exercises those that the page names. Every lesson
    stands on the page once, in class or at home."""
    sections = re.split(r"^## Session \d.*$", (ROOT / "docs/course.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    seen = []
    for number, section in enumerate(sections, start=1):
        text = (ROOT / f"notebooks/session_{number}.py").read_text(encoding="utf-8")
        named = re.findall(r"^# !\{plainloop\} lesson ([\w-]+)$", text, flags=re.MULTILINE)
        on_the_page = [re.findall(r"run\.py lesson ([\w-]+)`", part) for part in section.partition("**At home:**")[::2]]
        assert named == on_the_page[0], number
        tried = re.findall(r"^# !\{plainloop\} lesson ([\w-]+) --exercise$", text, flags=re.MULTILINE)
        assert set(tried) <= set(re.findall(r"run\.py lesson ([\w-]+) --exercise", section)), number
        seen += on_the_page[0] + on_the_page[1]
    assert sorted(seen) == sorted(all_lessons())
    assert set(exercise.names()) >= {"accumulation", "order", "num-items", "clipping", "decay", "schedule"}


@pytest.mark.parametrize(
    ("there", "installed"),
    [([], None), (["dist-0/../plainloop-0.1.0-py3-none-any.whl"], "plainloop-0.1.0-py3-none-any.whl"), (["../hatch_build.py"], "..")],
)  # fmt: skip
def test_the_setup(there, installed, tmp_path, monkeypatch):
    """With a wheel beside it, in a checkout, and with neither; and where Plainloop is there it installs nothing."""
    (tmp_path / "notebooks/dist-0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks")
    for name in there:
        Path(name).touch()
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    names: dict = {}
    exec(SETUP, names)
    assert not calls and names["plainloop"] == f'"{sys.executable}" -m plainloop'
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    if installed is None:
        with pytest.raises(AssertionError, match="upload a wheel of Plainloop, or fill in ADDRESS"):
            exec(SETUP, {})
        exec(SETUP.replace('ADDRESS = ""', 'ADDRESS = "git+https://example.org/x"'), {})
        place = "git+https://example.org/x"
    else:
        exec(SETUP, {})
        place = Path(installed).resolve().as_uri()
    assert calls == [[sys.executable, "-m", "pip", "install", "--quiet", f"plainloop[offline] @ {place}"]]


# ------------------------------------------------------------------------------------------------------- in a real kernel


@pytest.fixture
def beside(tmp_path, monkeypatch) -> Path:
    """An empty folder, in which a kernel finds this checkout and asks nobody."""
    for package in ("ipykernel", "jupytext", "nbclient"):
        pytest.importorskip(package)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def said_by(cell) -> str:
    """What is written below a cell."""
    return "".join(output["text"] for output in cell["outputs"] if output["output_type"] == "stream")


def check_outputs(cells) -> None:
    """No command has failed (IPython goes on after one), but the check of an exercise as it was handed out."""
    for cell in cells:
        if cell["cell_type"] == "code":
            text, is_check = said_by(cell), " --check " in cell["source"]
            assert "Traceback" not in text and "does not do this" not in text, text
            assert ("_exercise.py: nothing is changed in it yet: " in text) == is_check, text
            assert is_check or not re.search("^(error|usage): ", text, flags=re.MULTILINE), text


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_runs(path, beside):
    """From the first cell to the last, without the Hub, in less than five minutes on two cores that do nothing else."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(path)
    began = time.monotonic()
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(beside)}}).execute()
    seconds = time.monotonic() - began
    check_outputs(notebook.cells)
    for cell in notebook.cells:
        tables = [output for output in cell.get("outputs", ()) if "mean of the epoch" in str(output.get("data", ""))]
        assert len(tables) == ("fit(" in cell["source"] and "skipped" not in cell["source"]), cell["source"]
    assert seconds < 300, f"{seconds:.0f} seconds"


@pytest.mark.parametrize(
    "text",
    [
        "error: there is no such file",
        "Traceback (most recent call last)",
        "error: x_exercise.py: nothing is changed in it yet: ...",
    ],
)
def test_a_command_that_fails_is_found(text):
    cell = {"cell_type": "code", "source": "!plainloop lesson", "outputs": [{"output_type": "stream", "text": text}]}
    with pytest.raises(AssertionError):
        check_outputs([cell])


def test_jupytext_reads_what_was_checked():
    """The cells are those that are checked above, and commands are commands again."""
    jupytext = pytest.importorskip("jupytext")
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        cells = jupytext.reads(text, fmt="py:percent").cells
        assert [cell["cell_type"] for cell in cells] == [kind for kind, _ in cells_of(text)]
        commands = [cell["source"] for cell in cells if cell["source"].startswith("!")]
        assert len(commands) == len(re.findall(r"^# !", text, flags=re.MULTILINE))


FIT = """
from bench.toys import tiny
from plainloop import TrainConfig, fit
def go(folder, **more):
    task = tiny.TokenTask(train=tiny.token_rows(4000), evaluation=tiny.token_rows(40, seed=5))
    settings = TrainConfig(batch_size=4, max_steps=600, eval_steps=300, log_steps=5, device="cpu", output_dir=folder, **more)
    return fit(task, settings, tiny.bert())
go("run")
"""


class Kernel:
    """A real one. ``run`` gives the messages of a cell, by kind; ``when_shown`` is called once its table stands there."""

    def __init__(self, folder: Path):
        from jupyter_client.manager import start_new_kernel

        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=str(folder))

    def run(self, code: str, when_shown=lambda: None) -> dict[str, list[dict]]:
        asked, found = self.client.execute(code), {}
        while True:
            message = self.client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return found
            found.setdefault(kind, []).append(content)
            if kind == "update_display_data" and len(found[kind]) == 1:
                when_shown()

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_an_interrupt_of_the_kernel_saves(beside):
    """One line in place of a traceback; the run goes on in the next cell, and comes to the same losses as one in one piece."""
    kernel = Kernel(beside)
    try:
        stopped = kernel.run(FIT, when_shown=kernel.manager.interrupt_kernel)
        [error] = stopped["error"]
        assert error["ename"] == "StoppedError" and len(error["traceback"]) == 1
        step = int(
            re.fullmatch(r"stopped by Ctrl-C after step (\d+) of 600, and saved: --resume continues", error["traceback"][0])[1]
        )
        assert (beside / f"run/checkpoints/step-{step:08d}/MANIFEST.json").exists()
        tables = [
            each for each in stopped["display_data"] if "text/html" in each["data"] and "grad_norm" in each["data"]["text/html"]
        ]
        assert len(tables) == 1 and tables[0]["transient"]["display_id"]
        assert {each["transient"]["display_id"] for each in stopped["update_display_data"]} == {
            tables[0]["transient"]["display_id"]
        }
        resumed = kernel.run('result = go("run", resume=True); whole = go("whole"); result')
        assert "error" not in resumed, resumed["error"]
        [shown] = resumed["execute_result"]
        assert "<svg" in shown["data"]["text/html"] and "eval_accuracy" in shown["data"]["text/html"]
        same = kernel.run('assert result.metrics["train_loss"] == whole.metrics["train_loss"]')
        assert "error" not in same, same["error"]
    finally:
        kernel.close()
