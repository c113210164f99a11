"""Every row of the table of bad inputs (bench/bad_input/) through the command line: one test a row."""

from __future__ import annotations

import sys

import pytest
import torch

from bench.bad_input.case import Place, Result, Row, judge, make_home
from bench.bad_input.rows import ROWS
from bench.bad_input.table import main
from engine.errors import UsageError


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home"))


def parameter(row: Row):
    return pytest.param(row, id=f"{row.number} {row.what}", marks=[pytest.mark.slow] if row.slow else [])


@pytest.mark.parametrize("row", [parameter(row) for row in ROWS if not row.needs])
def test_row(row, home, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    found = judge(row, Place(home, place))[1]
    assert found == []


def test_every_row_of_the_table_is_there_once():
    numbers = [row.number for row in ROWS]
    beyond, files = (sum(number.startswith(letter) for number in numbers) for letter in "XF")
    expected = [
        *(str(n) for n in range(1, 111)),
        *(f"C{n}" for n in range(1, 10)),
        *(f"D{n}" for n in range(1, 11)),
        *(f"F{n + 1}" for n in range(files)),
        *(f"M{n}" for n in range(1, 26)),
        *(f"P{n}" for n in range(1, 15)),
        *(f"S{n}" for n in range(1, 13)),
        *(f"T{n}" for n in range(1, 16)),
        *(f"X{n + 1}" for n in range(beyond)),
    ]
    assert numbers == expected and beyond >= 60 and files >= 60
    assert {row.number for row in ROWS if row.needs} <= {"99", "100", "101", "102", "S8", "S12"}


GOOD = "error: a rule\n"


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        (Result(3, "", GOOD), "exit code 3, not 2"),
        (Result(2, "", "error: another\n"), "'rule' is not in"),
        (Result(2, "", ""), "not one error line"),
        (Result(2, "", GOOD + GOOD), "not one error line"),
        (Result(2, "", GOOD + "and more\n"), "not one error line"),
        (Result(2, "", GOOD, raised="Traceback\nKeyError: 1"), "a traceback"),
        (Result(2, "", "error: a rule\x1b[2J\n"), "control characters"),
        (Result(2, "", "error: a rule " + "x" * 1000 + "\n"), "a line of"),
    ],
)
def test_the_judge_finds_what_is_not_clean(result, fault, tmp_path):
    def attempts(at):
        yield result

    found = judge(Row("0", "", 2, "rule", attempts), Place(tmp_path, tmp_path))[1]
    assert any(fault in text for text in found), found


def test_the_judge_finds_what_is_lost_or_left_behind(tmp_path):
    def attempts(at):
        at.write("lost", "a")
        yield from ()

    def loses(at):
        at.write("mine", "a")
        yield ["--task", "yelp", "--config", "mine"]

    def main_that_loses(argv):
        (tmp_path / "mine").unlink()
        (tmp_path / "left").touch()
        print(GOOD, end="", file=sys.stderr)
        return 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("run.main", main_that_loses)
        found = judge(Row("0", "", 2, "rule", loses), Place(tmp_path, tmp_path))[1]
    assert found == ["mine is lost or changed", "left is left behind"]
    assert judge(Row("0", "", 2, "", attempts), Place(tmp_path, tmp_path))[1] == ["the row tries nothing"]


def test_the_table_is_printed_and_a_failing_row_is_the_exit_code(capsys, monkeypatch):
    threads = torch.get_num_threads()
    assert main(["--only", "1", "S12"]) == 0
    shown = capsys.readouterr().out
    assert "2 rows: 1 pass, 0 fail, 1 not on this machine or not yet" in shown and "did you mean --learning-rate?" in shown
    monkeypatch.setattr("run.main", lambda argv: 0)
    monkeypatch.setattr("bench.bad_input.case.make_home", lambda folder: folder)
    assert main(["--only", "1"]) == 1
    assert "exit code 0, not 2" in capsys.readouterr().out
    torch.set_num_threads(threads)
    with pytest.raises(UsageError, match="there is no row 999"):
        main(["--only", "1", "999"])
