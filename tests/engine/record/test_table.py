"""In a notebook the log is one table that is changed in place; everywhere else nothing of it is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bench.toys import tiny
from engine import notebook
from engine.config import TrainConfig
from engine.console import note
from engine.fit import fit
from engine.record.table import MOST_ROWS, Table
from tests.toys.notebook import FrontEnd, ipython
from tests.toys.pages import parsed

ROOT = Path(__file__).parents[3]
EVIL = "<script>alert(1)</script>\"' onerror=alert(1)\x1b[2J"


def make(folder, name="run", **changes) -> list[dict]:
    """A run of 10 steps; its metrics.jsonl."""
    settings = {"batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "device": "cpu", "log_steps": 2, "precision": "fp32"}
    rows = {"train": tiny.token_rows(40), "evaluation": tiny.token_rows(21, seed=5)}
    fit(tiny.TokenTask(**rows), TrainConfig(**settings | changes, output_dir=str(folder / name)), tiny.bert())
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def cells(html: str) -> list[list[str]]:
    """The texts of a table, line by line."""
    return [
        [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)] for line in re.findall(r"<tr.*?</tr>", html)
    ]


def check_one_table(front_end: FrontEnd) -> str:
    """Shown once, and then changed where it stands."""
    [shown] = front_end.outputs
    assert front_end.num_shown > 1
    return shown["text/html"]


def test_the_log_is_one_table(tmp_path, monkeypatch, capsys):
    front_end = ipython(monkeypatch)
    lines = make(tmp_path)
    said = capsys.readouterr()
    heads, *rows = cells(check_one_table(front_end))
    assert heads[:6] == ["step", "epoch", "loss", "grad_norm", "lr", "examples/s"] and "eval accuracy" in heads
    found = {row[0]: dict(zip(heads, row, strict=True)) for row in rows}
    for line in lines:
        row = found[str(line["step"])]
        if line["kind"] == "train":
            assert row["loss"] == f"{line['loss']:.4f}" and row["lr"] == f"{line['learning_rate']:.2e}"
        elif line["kind"] == "eval":
            assert row["eval loss"] == f"{line['loss']:.4f}" and row["eval accuracy"] == f"{line['accuracy']:.4f}"
        else:
            assert row["mean of the epoch"] == f"{line['loss']:.4f}"
    assert list(found) == ["2", "4", "5", "6", "8", "10"]
    assert found["5"]["loss"] == "" and found["2"]["eval loss"] == ""
    assert not re.search(r"^(step|epoch) \d", said.out, flags=re.MULTILINE) and "saved to" in said.out
    assert "training: 100%" in said.err  # without ipywidgets, in a notebook too, the bar is text
    assert front_end.outputs[0]["text/plain"].splitlines()[0].split()[:3] == ["step", "epoch", "loss"]


def test_a_table_that_is_shown_anew_each_time_is_found(tmp_path, monkeypatch):
    """The guard of the test above."""
    show = notebook.Place.show
    monkeypatch.setattr(notebook.Place, "show", lambda self, *texts: (setattr(self, "handle", None), show(self, *texts)))
    front_end = ipython(monkeypatch)
    make(tmp_path)
    with pytest.raises(ValueError, match="too many values"):
        check_one_table(front_end)


@pytest.mark.parametrize("where", ["at a terminal", "absent", "without get_ipython"])
def test_elsewhere_there_are_lines_and_nothing_is_displayed(where, tmp_path, monkeypatch, capsys):
    """IPython at a terminal, none at all, and one that is being imported."""
    front_end = ipython(monkeypatch, kernel=None)
    if where == "absent":
        monkeypatch.delitem(sys.modules, "IPython")
    elif where == "without get_ipython":
        monkeypatch.delattr(sys.modules["IPython"], "get_ipython")
    make(tmp_path)
    said = capsys.readouterr()
    assert front_end.num_shown == 0 and "training:" not in said.err
    assert [int(step) for step in re.findall(r"^step (\d+)/10  loss", said.out, flags=re.MULTILINE)] == [2, 4, 6, 8, 10]
    assert len(re.findall(r"^epoch \d: mean loss", said.out, flags=re.MULTILINE)) == 2
    assert len(re.findall(r"^epoch \d: evaluation loss .* accuracy", said.out, flags=re.MULTILINE)) == 2


def test_ipython_is_not_imported(tmp_path):
    """Where it does not run: not by a whole run, and not by the bar."""
    code = """
import sys
from bench.toys import tiny
from engine.config import TrainConfig
from engine.fit import fit
result = fit(tiny.TokenTask(train=tiny.token_rows(8)), TrainConfig(device="cpu", output_dir=sys.argv[1]), tiny.bert())
assert "</table>" in result._repr_html_() and "<iframe" in result.report()._repr_html_()
assert "IPython" not in sys.modules and "ipywidgets" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_weights_and_the_files_are_the_same(tmp_path, monkeypatch):
    """And a checkpoint knows nothing of the table, so that a run may go on elsewhere."""
    make(tmp_path, "lines", save_steps=4)
    ipython(monkeypatch)
    make(tmp_path, "table", save_steps=4)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("table", "lines"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    states = [sorted((tmp_path / name).glob("checkpoints/*/state.json")) for name in ("table", "lines")]
    assert states[0] and len(states[0]) == len(states[1])
    assert all("table" not in path.read_text() for path in states[0])


@pytest.mark.parametrize(("kernel", "stream"), [("a kernel", "out"), (None, "err")])
def test_a_note_is_no_error_in_a_notebook(kernel, stream, monkeypatch, capsys):
    ipython(monkeypatch, kernel)
    note("no Hub:\n\x1b[2J the sample is taken")
    said = capsys.readouterr()
    assert getattr(said, stream) == "no Hub:  [2J the sample is taken\n" and said.out + said.err == getattr(said, stream)


def test_every_text_is_escaped():
    """The names of metrics come from tasks, and their sets from users."""
    table = Table()
    shown = []
    table.place.show = lambda html, text: shown.append((html, text))
    table.on_evaluate(3, {"kind": "eval", "split": "eval", "step": 3, "epoch": 1.0, "loss": 0.5, EVIL: 0.25})
    [(html, text)] = shown
    tags = parsed(html)
    assert {tag for tag, _ in tags} == {"div", "table", "tr", "th", "td"}
    assert all(name == "style" for _, attributes in tags for name in attributes)
    assert f"eval {EVIL}".replace("\x1b", " ") in cells(html)[0] and "\x1b" not in html + text


def test_a_number_that_is_none_has_a_word(monkeypatch):
    ipython(monkeypatch)
    table = Table()
    table.on_log(1, {"kind": "train", "step": 1, "epoch": 0.1, "loss": 0.5, "grad_norm": None, "learning_rate": 1e-3,
                     "examples_per_second": 2.0})  # fmt: skip
    assert table.rows[1]["grad_norm"] == "undefined" and table.rows[1]["lr"] == "1.00e-03"


def test_a_long_log_keeps_its_evaluations(monkeypatch):
    """And its newest lines; what is left out is counted."""
    table = Table()
    shown = []
    table.place.show = lambda html, text: shown.append((html, text))
    line = {"kind": "train", "epoch": 0.1, "loss": 0.5, "grad_norm": 1.0, "learning_rate": 1e-3, "examples_per_second": 2.0}
    for step in range(1, 1001):
        table.on_log(step, line | {"step": step})
        if step % 100 == 0:
            table.on_evaluate(step, {"kind": "eval", "step": step, "epoch": 0.1, "loss": 0.5})
    assert len(shown) < 100  # not with every line
    html, text = shown[-1]
    steps = [int(row[0]) for row in cells(html)[1:]]
    assert len(steps) == MOST_ROWS and {*range(100, 1001, 100)} <= {*steps} and steps[-5:] == [*range(996, 1001)]
    assert "960 other rows: metrics.jsonl has all" in html and "960 other rows" in text
    for step in range(2000, 2100):  # of evaluations alone the newest
        table.on_evaluate(step, {"kind": "eval", "step": step, "epoch": 0.1, "loss": 0.5})
    assert [int(row[0]) for row in cells(shown[-1][0])[1:]] == [*range(2060, 2100)]


def test_a_front_end_that_fails_is_not_worth_the_run(tmp_path, monkeypatch, capsys):
    """One warning, and from there on the lines."""
    front_end = ipython(monkeypatch)

    def display(*_, **__):
        raise RuntimeError("the comm is closed")

    monkeypatch.setattr(sys.modules["IPython.display"], "display", display)
    make(tmp_path)
    said = capsys.readouterr()
    assert front_end.num_shown == 0
    assert said.out.count("warning: the table in the notebook takes no more: RuntimeError: the comm is closed") == 1
    assert len(re.findall(r"^epoch \d: evaluation loss", said.out, flags=re.MULTILINE)) == 2
