"""What a command writes: never its own input, a file of a run, or half a file; and what no file can hold is told first."""

from __future__ import annotations

import csv
import datetime
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

import run
from engine.data.places import is_named
from tests.toys.cli import fails


@pytest.fixture
def model(project, tmp_path):
    """A copy of the finished run, and of its data, which its settings name."""
    folder = tmp_path / "run"
    shutil.copytree(project / "run", folder, ignore=shutil.ignore_patterns("checkpoints"))
    for name in ("train.csv", "eval.csv"):
        shutil.copy(project / name, tmp_path / name)
    document = json.loads((folder / "run.json").read_text())
    document["settings"] |= {"train_file": str(tmp_path / "train.csv"), "eval_file": str(tmp_path / "eval.csv")}
    (folder / "run.json").write_text(json.dumps(document))
    (tmp_path / "x.jsonl").write_text('{"text": "w1", "label": "a"}\n')
    (tmp_path / "link.csv").symlink_to(tmp_path / "train.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


REFUSED = [
    ("evaluate --file {d}/eval.csv --errors {d}/eval.csv", "--errors", "is the input"),
    ("evaluate --errors {d}/eval.csv", "--errors", "is the input"),
    ("evaluate --errors {d}/train.csv", "--errors", "is the input"),
    ("evaluate --file {d}/eval.csv --output {d}/eval.csv", "--output", "must end in .json"),
    ("evaluate --output {d}/run/config.json", "--output", "is a file of the model or run"),
    ("evaluate --output {d}/run/../run/run.json", "--output", "is a file of the model or run"),
    ("evaluate --output {d}/run/profile/profile.json", "--output", "is a file of the model or run"),
    ("predict --input {d}/x.jsonl --output {d}/x.jsonl", "--output", "is the input"),
    ("predict --input {d}/x.jsonl --output {d}/train.csv", "--output", "is the input"),
    ("predict --input {d}/x.jsonl --output {d}/run/metrics.jsonl", "--output", "is a file of the model or run"),
    ("predict --input {d}/x.jsonl --output {d}/run/errors.csv", "--output", "is a file of the model or run"),
    ("predict --input {d}/x.jsonl --output {d}/link.csv", "--output", "is a link"),
    ("predict --input {d}/x.jsonl --output {d}/pipe.csv", "--output", "is no regular file"),
    ("report --output {d}/run/model.safetensors", "--output", "must end in .html"),
    ("report --output {d}/none/a.html", "--output", "there is no such directory"),
]


@pytest.mark.parametrize(("line", "flag", "words"), REFUSED, ids=[line for line, *_ in REFUSED])
def test_what_a_command_must_not_write(model, tmp_path, capsys, line, flag, words):
    (model / "profile").mkdir()
    before = contents(tmp_path)
    name, *more = line.format(d=tmp_path).split()
    code, said = fails([name, "--model", str(model), *more], capsys)
    assert code == 2 and said.startswith(f"error: {flag} ") and words in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "eval-00000-of-00002.csv", "saved/state.json"])
@pytest.mark.parametrize("setting", ["data", "train_file", "eval_file"])
def test_what_a_folder_of_data_holds_is_an_input_too(model, tmp_path, capsys, setting, name):
    """Of a folder what is read, so that figures may lie there; of a saved data set all. A new file beside them is none."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / ("x" if name == "train.csv" else "train.csv")).write_text("text,label\nw1,a\n")
    named = folder / name
    if name.startswith("saved"):
        datasets.Dataset.from_dict({"text": ["w1"]}).save_to_disk(folder / "saved")
    else:
        named.write_text("text,label\nw2,b\n")
    document = json.loads((model / "run.json").read_text())
    others = {"data": "auto", "train_file": str(tmp_path / "train.csv") if setting == "eval_file" else None, "eval_file": None}
    document["settings"] |= others | {setting: str(folder / "saved" if name.startswith("saved") else folder)}
    (model / "run.json").write_text(json.dumps(document))
    before = contents(tmp_path)
    flag = "--output" if named.suffix == ".json" else "--errors"
    for _ in range(2):
        code, said = fails(["evaluate", "--model", str(model), "--file", str(tmp_path / "eval.csv"), flag, str(named)], capsys)
        assert code == 2 and f"{flag} {named} is the input, or written already" in said
    assert contents(tmp_path) == before
    for _ in range(2):
        assert (
            run.main(
                ["predict", "--model", str(model), "--input", str(tmp_path / "x.jsonl"), "--output", str(folder / "p.csv")]
            )
            == 0
        )


@pytest.mark.parametrize(
    "text", ["{d}/*.csv", "{d}/b.csv,{d}/train.csv", "{d}/b.csv:0.5,{d}/train.csv:0.5", "dev={d}/b.csv,o={d}/train.csv"]
)
def test_each_file_that_a_setting_names_is_an_input(tmp_path, text):
    for name in ("train.csv", "b.csv", "c.jsonl"):
        (tmp_path / name).write_text("")
    text = text.format(d=tmp_path)
    assert [is_named(tmp_path / name, text) for name in ("train.csv", "b.csv", "c.jsonl", "new.csv")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_strangers_pattern_is_not_looked_up(model, tmp_path, monkeypatch):
    """It may stand for the whole disk, for minutes."""
    document = json.loads((model / "run.json").read_text())
    document["settings"]["train_file"] = "/**/*.csv,/**"
    (model / "run.json").write_text(json.dumps(document))
    monkeypatch.setattr("glob.glob", lambda *_, **__: pytest.fail("the disk is searched"))
    assert run.main(["report", "--model", str(model), "--output", str(tmp_path / "r.html")]) == 0


def test_compare_writes_pages_only(model, project, tmp_path, capsys):
    before = contents(tmp_path)
    for name, words in (("train.csv", "must end in .html"), ("run/report.html", "is a file of the model or run")):
        code, line = fails(["compare", str(model), str(project / "run"), "--output", str(tmp_path / name)], capsys)
        assert code == 2 and words in line
    assert contents(tmp_path) == before


def test_what_a_command_may_write(model, tmp_path):
    """errors.csv of the run, which its report shows; a file beside it; and a file again."""
    for arguments in (
        ["evaluate", "--errors", str(model / "errors.csv"), "--output", str(tmp_path / "figures.json")],
        ["predict", "--input", str(tmp_path / "x.jsonl"), "--output", str(model / "predictions.csv")],
        ["predict", "--input", str(tmp_path / "x.jsonl"), "--output", str(model / "predictions.csv")],
        ["report", "--output", str(model / "report.html")],
    ):
        assert run.main([arguments[0], "--model", str(model), *arguments[1:]]) == 0


@pytest.mark.parametrize("line", ["report", "predict --input {d}/x.jsonl --output {d}/p.csv", "evaluate --output {d}/f.json",
                                  "evaluate --errors {d}/e.csv"])  # fmt: skip
def test_a_full_disk_leaves_the_older_file_whole_and_no_other(model, tmp_path, capsys, monkeypatch, line):
    for name in ("p.csv", "f.json", "e.csv", "run/report.html"):
        (tmp_path / name).write_text("older")
    before = contents(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    name, *more = line.format(d=tmp_path).split()
    code, said = fails([name, "--model", str(model), *more], capsys)
    assert code == 6 and "cannot be written: No space left on device" in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("row", "suffix", "words"),
    [({"text": "w1", "note": "\ud800"}, "jsonl", "row 1, column 'note': the text holds half a character"),
     ({"text": "w1", "note": {"a": ["\ud800"]}}, "csv", "row 1, column 'note': the text holds half a character"),
     ({"text": "w1", "\ud800": "a"}, "csv", "the name of a column: the text holds half a character"),
     ({"text": "w1", "note": "a\0b"}, "csv", "row 1, column 'note': the text holds a NUL")],
)  # fmt: skip
def test_what_no_file_can_hold_is_told_before_the_work(model, tmp_path, capsys, monkeypatch, row, suffix, words):
    """Also in a column that nobody reads."""
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr("engine.commands.predict.open_model", lambda *_, **__: pytest.fail("the work begins"))
    arguments = ["predict", "--model", str(model), "--input", str(tmp_path / "in.jsonl")]
    code, line = fails([*arguments, "--output", str(tmp_path / f"out.{suffix}")], capsys)
    assert code == 3 and words in line and not (tmp_path / f"out.{suffix}").exists()


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_what_a_spreadsheet_would_compute_stands_behind_a_quote(model, tmp_path, first):
    """OWASP's list, which has the signs in full width, too: a Japanese Excel takes them. In cells, and in the first line."""
    rows = [{"text": f"{first}HYPERLINK(1)", f"{first}name": "plain"}]
    (tmp_path / "in.jsonl").write_text(json.dumps(rows[0]) + "\n")
    arguments = ["predict", "--model", str(model), "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "o.csv")]
    for flags, quote in (([], ""), (["--excel-safe"], "'")):
        assert run.main([*arguments, *flags]) == 0
        with open(tmp_path / "o.csv", newline="") as stream:
            head, cells = csv.reader(stream)
        assert (head[1], cells[0], cells[1]) == (f"{quote}{first}name", f"{quote}{first}HYPERLINK(1)", "plain")


def test_odd_columns_of_a_parquet_file(model, tmp_path, capsys):
    late = pyarrow.array([datetime.datetime.max], pyarrow.timestamp("s")).cast(pyarrow.int64())
    late = pyarrow.array([late[0].as_py() + 10**8], pyarrow.int64()).cast(pyarrow.timestamp("s"))
    text = pyarrow.array(["w1"])
    for columns, words in (
        ({"names": ["text", "text"], "arrays": [text, text]}, "column 'text' stands 2 times"),
        ({"names": ["text", "when"], "arrays": [text, late]}, "column 'when': a value is none that Python has"),
    ):
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(**columns), tmp_path / "t.parquet")
        arguments = ["predict", "--model", str(model), "--input", str(tmp_path / "t.parquet")]
        code, line = fails([*arguments, "--output", str(tmp_path / "o.csv")], capsys)
        assert code == 3 and words in line


@pytest.mark.parametrize(("command", "code"), [("env > /dev/full", 6), ("env | (exec <&-)", 141)])
def test_a_stdout_that_takes_nothing_is_no_traceback(command, code):
    root = Path(__file__).parent.parent.parent.parent
    line = f"{sys.executable} run.py {command}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=root, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code and "Exception ignored" not in done.stderr and "Traceback" not in done.stderr, done
