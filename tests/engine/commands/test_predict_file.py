"""``predict --input`` in windows: the same bytes however the file is read, by how many processes, and however often it was stopped."""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import os
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import run
from bench.toys import tiny
from engine import atomic
from engine.commands import in_windows, windows
from engine.commands.partial import Writer
from engine.commands.windows import Window, windows_of
from engine.commands.workers import AHEAD, Processes
from engine.data import form as forms
from tasks.classification.task import Classification
from tests.toys.cli import fails

ROWS = 50
SIZE = 8  # of a window


class Killed(BaseException):
    """Stands for the end of the process: nothing in the product catches it."""


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(Classification, "predict_rows", SIZE)
    monkeypatch.setattr(windows, "SURVEY_ROWS", SIZE)


@pytest.fixture
def table(tmp_path):
    """50 rows: six windows of eight and one of two."""
    path = tmp_path / "in.csv"
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows(
            [("id", "text", "note"), *((i, text, 'a "b"\n=1') for i, (text, _) in enumerate(tiny.texts(ROWS, 3)))]
        )
    return path


def call(project: Path, source: Path, output: Path, *more: str) -> list[str]:
    return [
        "predict",
        "--model",
        str(project / "run"),
        "--input",
        str(source),
        "--output",
        str(output),
        "--device",
        "cpu",
        *more,
    ]


def predicted(project: Path, source: Path, output: Path, *more: str) -> bytes:
    assert run.main(call(project, source, output, *more)) == 0
    assert not left_beside(output)
    return output.read_bytes()


def left_beside(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.glob(f"{output.name}.*"))


def as_jsonl(table: Path) -> Path:
    path = table.with_suffix(".jsonl")
    with open(table, newline="") as stream:
        path.write_text("".join(json.dumps(row | {"nested": {"a": [1]}}) + "\n" for row in csv.DictReader(stream)))
    return path


# ------------------------------------------------------------------------------------------------------------ same bytes


def test_one_window_is_what_all_at_once_is(project, table, tmp_path, monkeypatch):
    """The whole file in one window is the command as it was before it had windows; of many the numbers agree to the rounding."""
    monkeypatch.setattr(Classification, "predict_rows", None)
    whole = predicted(project, table, tmp_path / "whole.csv")
    monkeypatch.setattr(Classification, "predict_rows", 4096)
    monkeypatch.setattr(windows, "SURVEY_ROWS", 4096)
    assert predicted(project, table, tmp_path / "one.csv") == whole
    monkeypatch.setattr(Classification, "predict_rows", SIZE)
    predicted(project, table, tmp_path / "many.csv")
    with open(tmp_path / "whole.csv", newline="") as one, open(tmp_path / "many.csv", newline="") as other:
        for before, after in zip(csv.DictReader(one), csv.DictReader(other), strict=True):
            assert [before[name] for name in ("id", "text", "note", "predicted_label")] == [
                after[name] for name in ("id", "text", "note", "predicted_label")
            ]
            assert abs(float(before["score"]) - float(after["score"])) < 1e-6


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_bytes_depend_neither_on_how_a_file_is_read_nor_on_the_number_of_processes(
    project, table, tmp_path, monkeypatch, suffix
):
    source, output = (table if suffix == ".csv" else as_jsonl(table)), tmp_path / f"out{suffix}"
    expected = predicted(project, source, output)
    assert len(expected) > 1000
    for rows in (1, 7, 49, 50, 51):
        monkeypatch.setattr(forms, "PIECE_ROWS", rows)
        assert predicted(project, source, output) == expected
    for number in "123":
        assert predicted(project, source, output, "--num-processes", number) == expected


def test_windows_are_a_function_of_the_rows_alone(monkeypatch):
    """However they come, in rows or characters; each is there once, in order, and none is empty."""
    monkeypatch.setattr(windows, "MOST_CHARACTERS", 40)
    generator = np.random.default_rng(0)
    cells = ["x" * int(n) for n in generator.integers(0, 30, 100)]
    expected: list[tuple[int, list[str]]] = []
    for trial in range(20):
        cuts = [0, *sorted(generator.integers(0, 101, trial).tolist()), 100]
        pieces = ({"text": cells[a:b], "n": [1] * (b - a)} for a, b in pairwise(cuts))
        found = [(window.first, window.rows["text"]) for window in windows_of(pieces, 5)]
        expected = expected or found
        assert found == expected and [cell for _, some in found for cell in some] == cells
    assert all(0 < len(some) <= 5 for _, some in expected) and len({len(some) for _, some in expected}) > 2


def test_what_is_printed_comes_in_order(project, table, capsys):
    for more in ([], ["--num-processes", "2"]):
        assert run.main(["predict", str(project / "run"), "--input", str(table), "--device", "cpu", *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition("\t")[2] for line in lines] == [text for text, _ in tiny.texts(ROWS, 3)]


def test_one_window_is_predicted_with_one_thread_too(project, table, tmp_path, monkeypatch, capsys):
    """So that the bytes of --num-processes are those of one thread, however many rows there are; and that is said."""
    monkeypatch.setattr(Classification, "predict_rows", 4096)
    monkeypatch.setattr(windows, "SURVEY_ROWS", 4096)
    seen: list[int] = []
    real = in_windows.Work.__call__
    monkeypatch.setattr(
        in_windows.Work, "__call__", lambda self, asked: (seen.append(torch.get_num_threads()), real(self, asked))[1]
    )
    torch.set_num_threads(2)
    try:
        for more in ([], ["--num-processes", "2"]):
            predicted(project, table, tmp_path / "out.csv", *more)
        assert seen == [2, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert "the 50 rows are predicted together: by one process, from the first on" in capsys.readouterr().err


def test_a_rank_is_among_all_rows_of_the_file():
    """What is said of a row of such a task depends on others: all come at once, whatever the windows of other tasks are."""
    from tasks.reranker.task import Reranker

    assert Reranker.predict_rows is None
    found = in_windows.Windows(lambda: iter([{"a": [1, 2]}, {"a": [3]}]), None, windows.Survey(["a"], 3, {}, None))
    assert found.are_one and found.whole().rows == {"a": [1, 2, 3]}


# -------------------------------------------------------------------------------------------------------- killed, resumed


def at_call(monkeypatch, owner: Any, name: str, number: int, *, after: bool = False) -> None:
    """The process ends before, or behind, a call of that number."""
    real, calls = getattr(owner, name), []

    def counted(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == number and not after:
            raise Killed
        result = real(*arguments, **more)
        if len(calls) == number:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, counted)


POINTS = [
    ("before the first row", in_windows.Work, "__call__", 1, False),
    ("in a window", in_windows.Work, "__call__", 4, False),
    ("rows added that do not count yet", os, "fsync", 6, True),
    ("between rows and progress", atomic, "write", 4, False),
    ("behind the progress", atomic, "write", 4, True),
    ("behind the last window", Writer, "finish", 1, False),
    ("before the file gets its name", atomic, "move", 1, False),
    ("behind the file's name", atomic, "move", 1, True),
]


@pytest.mark.parametrize(("owner", "name", "number", "after"), [point[1:] for point in POINTS], ids=[p[0] for p in POINTS])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_killed_and_resumed_the_bytes_are_the_same(project, table, tmp_path, capsys, suffix, owner, name, number, after):
    expected = predicted(project, table, tmp_path / f"whole{suffix}")
    output = tmp_path / f"out{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, owner, name, number, after=after)
        with pytest.raises(Killed):
            run.main(call(project, table, output))
    assert left_beside(output) and (not output.exists() or output.read_bytes() == expected), "whole or not at all"
    if (tmp_path / f"{output.name}.partial").exists():
        code, line = fails(call(project, table, output), capsys)
        assert code == 2 and "of 50 predictions of a call that was stopped: --resume goes on from them" in line
    with pytest.MonkeyPatch.context() as patch:
        counted: list[Window] = []
        real = in_windows.Work.__call__
        patch.setattr(in_windows.Work, "__call__", lambda self, asked: (counted.append(asked[0]), real(self, asked))[1])
        assert predicted(project, table, output, "--resume") == expected
    done = {
        "in a window": 3,
        "between": 2,
        "behind the progress": 3,
        "behind the l": 7,
        "before the file": 7,
        "behind the file": 7,
    }
    at = next(point[0] for point in POINTS if point[1:] == (owner, name, number, after))
    assert len(counted) == 7 - next((windows for begin, windows in done.items() if at.startswith(begin)), 0) or "do not" in at


def stopped(project: Path, table: Path, output: Path, *more: str) -> Path:
    """Killed in the fourth window."""
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, in_windows.Work, "__call__", 4)
        with pytest.raises(Killed):
            run.main(call(project, table, output, *more))
    return output.with_name(f"{output.name}.partial")


def test_stopped_again_and_again(project, table, tmp_path):
    expected = predicted(project, table, tmp_path / "whole.csv")
    for number in (2, 1, 2, 3, 1):
        with pytest.MonkeyPatch.context() as patch:
            at_call(patch, in_windows.Work, "__call__", number)
            with pytest.raises(Killed):
                run.main(call(project, table, tmp_path / "out.csv", "--resume"))
    assert predicted(project, table, tmp_path / "out.csv", "--resume") == expected


def test_another_number_of_processes_may_go_on(project, table, tmp_path):
    expected = predicted(project, table, tmp_path / "whole.csv")
    stopped(project, table, tmp_path / "out.csv")
    assert predicted(project, table, tmp_path / "out.csv", "--resume", "--num-processes", "2") == expected


def test_resume_without_anything_to_resume_begins(project, table, tmp_path, capsys):
    expected = predicted(project, table, tmp_path / "whole.csv")
    assert predicted(project, table, tmp_path / "out.csv", "--resume") == expected
    assert "nothing to resume: there is no out.csv.partial" in capsys.readouterr().err


def change_model(project, table, more):
    path = project / "run/config.json"
    path.write_text(path.read_text() + "\n")


def change_input(project, table, more):
    with open(table, "a") as stream:
        stream.write("99,w1,\n")


def change_flag(project, table, more):
    more += ["--excel-safe"]


def change_threads(project, table, more):
    torch.set_num_threads(2)


@pytest.mark.parametrize(
    ("change", "words"),
    [(change_model, "the model is not as it was"), (change_input, "the input is not as it was"),
     (change_flag, "--excel-safe is not as it was when"), (change_threads, "the number of threads that compute is not as it was when")],
)  # fmt: skip
def test_what_would_change_the_predictions_is_refused(project, table, tmp_path, capsys, change, words):
    folder = tmp_path / "project"
    shutil.copytree(project / "run", folder / "run", ignore=shutil.ignore_patterns("checkpoints"))
    partial, more = stopped(folder, table, tmp_path / "out.csv"), ["--resume"]
    before = partial.read_bytes()
    try:
        change(folder, table, more)
        code, line = fails(call(folder, table, tmp_path / "out.csv", *more), capsys)
    finally:
        torch.set_num_threads(1)
    assert code == 2 and words in line and f"delete {partial} and out.csv.progress to begin again" in line
    assert partial.read_bytes() == before


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"x" + b[1:], lambda b: b""], ids=["shorter", "a byte", "empty"]
)
def test_a_partial_file_that_was_changed_is_refused(project, table, tmp_path, capsys, damage):
    partial = stopped(project, table, tmp_path / "out.csv")
    partial.write_bytes(damage(partial.read_bytes()))
    code, line = fails(call(project, table, tmp_path / "out.csv", "--resume"), capsys)
    assert code == 3 and "is not as it was left" in line and not (tmp_path / "out.csv").exists()


def test_a_damaged_progress_is_refused(project, table, tmp_path, capsys):
    stopped(project, table, tmp_path / "out.csv")
    for text in ("", "{", '{"format": 2}', '{"format": 1, "total": "many"}'):
        (tmp_path / "out.csv.progress").write_text(text)
        code, line = fails(call(project, table, tmp_path / "out.csv", "--resume"), capsys)
        assert code == 3 and "out.csv.progress is damaged" in line


def test_files_of_others_are_left_alone(project, table, tmp_path, capsys):
    """A file of that name that no progress speaks of; a link, which is not followed."""
    partial = tmp_path / "out.csv.partial"
    partial.write_text("mine")
    for more in ([], ["--resume"]):
        code, line = fails(call(project, table, tmp_path / "out.csv", *more), capsys)
        assert code == 2 and "out.csv.partial is in the way" in line and partial.read_text() == "mine"
    partial.unlink()
    stopped(project, table, tmp_path / "out.csv")
    partial.rename(tmp_path / "elsewhere")
    partial.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    code, line = fails(call(project, table, tmp_path / "out.csv", "--resume"), capsys)
    assert code == 6 and "cannot be written" in line and (tmp_path / "elsewhere").read_bytes() == before


def test_two_do_not_write_the_same_file(project, table, tmp_path, capsys, monkeypatch):
    partial = stopped(project, table, tmp_path / "out.csv")
    monkeypatch.setattr("engine.commands.partial.MOST_WAIT", 0.3)
    before = partial.read_bytes()
    with open(partial, "ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        code, line = fails(call(project, table, tmp_path / "out.csv", "--resume"), capsys)
    assert code == 2 and "is being written by another process" in line and partial.read_bytes() == before


def test_a_full_disk_is_one_line_and_can_be_gone_on_from(project, table, tmp_path, capsys):
    expected = predicted(project, table, tmp_path / "whole.csv")
    with pytest.MonkeyPatch.context() as patch:
        real, calls = os.fsync, []

        def full(number: int) -> None:
            calls.append(1)
            if len(calls) > 8:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(number)

        patch.setattr("os.fsync", full)
        code, line = fails(call(project, table, tmp_path / "out.csv"), capsys)
    assert code == 6 and "cannot be written: No space left on device; what is there stands" in line
    assert predicted(project, table, tmp_path / "out.csv", "--resume") == expected


def test_an_input_that_changes_under_way_is_refused(project, table, tmp_path, capsys, monkeypatch):
    real = in_windows.Work.__call__

    def changing(self: Any, asked: Any) -> Any:
        if asked[0].first == 3 * SIZE:
            table.write_text(table.read_text().replace("w1 ", "w2 "))
        return real(self, asked)

    monkeypatch.setattr(in_windows.Work, "__call__", changing)
    code, line = fails(call(project, table, tmp_path / "out.csv"), capsys)
    assert code == 3 and "has changed while it was predicted" in line and not (tmp_path / "out.csv").exists()


# ------------------------------------------------------------------------------------------------------------ processes


def test_an_end_does_not_wait_for_what_is_being_computed():
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Processes(2, time.sleep) as processes:
        for _ in processes.done(iter([0.0, *[120.0] * 2 * AHEAD])):
            raise KeyboardInterrupt
    assert time.monotonic() - began < 60


def test_a_process_that_is_killed_is_one_line_and_can_be_gone_on_from(project, table, tmp_path, capsys, monkeypatch):
    expected = predicted(project, table, tmp_path / "whole.csv")
    real, parent = in_windows.Work.__call__, os.getpid()

    def dying(self: Any, asked: Any) -> Any:
        if asked[0].first == 4 * SIZE:
            assert os.getpid() != parent
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, asked)

    monkeypatch.setattr(in_windows.Work, "__call__", dying)
    code, line = fails(call(project, table, tmp_path / "out.csv", "--num-processes", "2"), capsys)
    assert code == 6 and "a process that predicts was killed" in line and "--resume goes on from it" in line
    assert left_beside(tmp_path / "out.csv") == ["out.csv.partial", "out.csv.progress"]
    monkeypatch.undo()
    monkeypatch.setattr(Classification, "predict_rows", SIZE)
    assert predicted(project, table, tmp_path / "out.csv", "--resume", "--num-processes", "2") == expected


@pytest.mark.parametrize("number", [None, "2"])
def test_what_is_wrong_in_a_late_row_names_it(project, table, tmp_path, capsys, monkeypatch, number):
    """Where a task finds it only when it predicts: what is written stays, and can be gone on from."""
    from engine.data.tables import plain_row
    from engine.errors import DataError

    def late(self: Any, model: Any, inputs: Any, layout: Any) -> Any:
        for row, text in enumerate(inputs):
            if text == tiny.texts(ROWS, 3)[37][0]:
                raise DataError(f"the input, {plain_row(row)}: no")
        return iter([{"label": "a", "score": 1.0, "probabilities": {}}] * len(inputs))

    monkeypatch.setattr(Classification, "predict", late)
    more = ["--num-processes", number] if number else []
    code, line = fails(call(project, table, tmp_path / "out.csv", *more), capsys)
    assert code == 3 and line.endswith("the input, row 38: no")
    assert json.loads((tmp_path / "out.csv.progress").read_text())["rows"] == 4 * SIZE


# ----------------------------------------------------------------------------------------------- refused before the work


def test_a_late_cell_that_is_no_text_is_told_before_the_first_prediction(project, table, tmp_path, capsys, monkeypatch):
    rows = [json.loads(line) for line in as_jsonl(table).read_text().splitlines()]
    rows[43]["text"] = None
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(Classification, "predict", lambda *_: pytest.fail("the work begins"))
    code, line = fails(call(project, tmp_path / "in.jsonl", tmp_path / "out.csv"), capsys)
    assert code == 3 and "row 44: a text is needed, found None" in line and not left_beside(tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("late", "words"),
    [("99,w1\n", "row 51 (line 102) has 2 cells, the header has 3"), ('99,"w1,\n', "row 51"), ("7,w1,\n", "row 51: id '7' stands in row 8, too"),
     ("99,w1,a\0\n", "holds a NUL byte")],
)  # fmt: skip
def test_damage_at_the_end_is_told_before_the_model_is_read(project, table, tmp_path, capsys, monkeypatch, late, words):
    with open(table, "a") as stream:
        stream.write(late)
    monkeypatch.setattr("engine.commands.predict.open_model", lambda *_, **__: pytest.fail("the model is read"))
    code, line = fails(call(project, table, tmp_path / "out.csv"), capsys)
    assert code == 3 and words in line and not left_beside(tmp_path / "out.csv")


@pytest.mark.parametrize("column", ["id", "doc.id"])
def test_ids_that_stand_twice_far_apart(project, tmp_path, capsys, column):
    """The first row that repeats one is named, with the first that has it; nulls are none."""
    ids = [*range(30), None, None, 25, 3, 3]
    rows = [{"text": "w1", "id": i} if column == "id" else {"text": "w1", "doc": {"id": i}} for i in ids]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ["--id-column", column] if column != "id" else []
    code, line = fails(call(project, tmp_path / "in.jsonl", tmp_path / "out.csv", *more), capsys)
    assert code == 3 and "row 33: id '25' stands in row 26, too" in line


def test_equal_hashes_of_other_ids_are_no_repetition(project, table, tmp_path, monkeypatch):
    expected = predicted(project, table, tmp_path / "whole.csv")

    class Digest:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def digest(self) -> bytes:
            return b"\0" * 8

    monkeypatch.setattr("hashlib.blake2b", Digest)
    assert predicted(project, table, tmp_path / "out.csv") == expected


def test_keys_that_only_late_rows_have_are_columns_of_all(project, tmp_path):
    """And a field within another is a column where all rows have it, however many windows there are."""
    rows = [{"doc": {"text": f"w{i}"}} | ({"late": i} if i > 30 else {}) for i in range(40)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for suffix in ("jsonl", "csv"):
        predicted(project, tmp_path / "in.jsonl", tmp_path / f"out.{suffix}", "--text-column", "doc.text")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["late"] for row in found] == [None] * 31 + list(range(31, 40))
    with open(tmp_path / "out.csv", newline="") as stream:
        assert [row["late"] for row in csv.DictReader(stream)] == [""] * 31 + [str(i) for i in range(31, 40)]


def test_a_field_that_a_late_row_lacks_is_no_column(project, tmp_path, capsys):
    rows = [{"doc": {"text": f"w{i}"} if i != 35 else {"other": 1}} for i in range(40)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, line = fails(call(project, tmp_path / "in.jsonl", tmp_path / "out.csv", "--text-column", "doc.text"), capsys)
    assert code == 3 and "has no column 'doc.text'" in line


def test_rows_that_have_other_columns_than_the_first(project, table, tmp_path, monkeypatch):
    """Those of the first row are the file's, whoever predicts it."""
    real = Classification.columns_of
    texts = [text for text, _ in tiny.texts(ROWS, 3)]

    def more_of_late_ones(self: Any, prediction: Any, flat: bool) -> Any:
        cells = real(self, prediction, flat)
        return dict(reversed(cells.items())) if seen[-1] > 2 * SIZE else cells

    seen: list[int] = [0]
    inputs_of = Classification.inputs_of
    monkeypatch.setattr(Classification, "columns_of", more_of_late_ones)
    monkeypatch.setattr(Classification, "inputs_of", lambda self, rows: (seen.append(texts.index(rows["text"][0])), inputs_of(self, rows))[1])  # fmt: skip
    expected = predicted(project, table, tmp_path / "whole.csv")
    with open(tmp_path / "whole.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert seen[-1] > 2 * SIZE and len(rows) == ROWS and all(row["predicted_label"] in "abc" for row in rows)
    assert predicted(project, table, tmp_path / "out.csv", "--num-processes", "2") == expected


def test_a_note_is_said_once_and_with_its_rows(project, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("".join("w1 " * (60 if i % 9 == 8 else 3) + "\n" for i in range(40)))
    assert run.main(call(project, tmp_path / "in.txt", tmp_path / "out.csv")) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "cut to" in line]
    assert said == [f"rows 9 to 16 of {tmp_path / 'in.txt'}: 1 of 8 texts cut to 32 tokens (nothing more like this is said)"]


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--resume"], "--resume goes on with a file: give the --output FILE"), (["--num-processes", "0"], "--num-processes must be 1 to"),
     (["w1", "--output", "{d}/o.csv", "--resume"], "--resume is for --input FILE"), (["w1", "--num-processes", "2"], "--num-processes is for --input"),
     (["--input", "-", "--num-processes", "2"], "--num-processes is for --input")],
)  # fmt: skip
def test_flags_that_have_no_effect_are_refused(project, tmp_path, capsys, more, words):
    code, line = fails(["predict", str(project / "run"), *(each.format(d=tmp_path) for each in more)], capsys)
    assert code == 2 and words in line


@pytest.mark.slow
def test_sigkills_at_random(tmp_path, monkeypatch):
    """The bench's own, with few kills; it leaves nothing behind and loses no row."""
    import subprocess
    import sys

    root = Path(__file__).parent.parent.parent.parent
    command = [sys.executable, "-m", "bench", "predict", "kills", "--kills", "4", "--kill-rows", "20000"]
    done = subprocess.run([*command, "--results", str(tmp_path / "r.json")], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert all(
        part["kills"] >= 4 and part["equal"] == part["files"] for part in json.loads((tmp_path / "r.json").read_text())["kills"]
    )


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    from bench.reliability.predicting import make_rows, make_run, measured

    model, few, many = make_run(tmp_path), make_rows(tmp_path / "few.csv", 1000), make_rows(tmp_path / "many.csv", 100_000)
    peak = {rows: measured(model, rows, tmp_path / "out.csv")["peak_mb"] for rows in (few, many)}
    at_once = measured(model, many, tmp_path / "out.csv", at_once=True)["peak_mb"]
    assert peak[many] < peak[few] + 60 and at_once > peak[many] + 60, (peak, at_once)
