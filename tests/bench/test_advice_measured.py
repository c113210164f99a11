"""``python -m bench advice``: what is kept of its runs, which are stood in for here, and what it says when one of them fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.quality import advice
from engine.errors import ResourceError


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Runs that are told this line; the rates of the ones that did not take it are 10, 11, 12 ..., of the others twice that."""
    lines, rates = ["39% of the computed tokens are padding: --batching packed computes none"], iter(range(10, 100))

    def train(flags: str, folder: Path, *more: str) -> float:
        if more:
            (folder / "run/profile").mkdir(parents=True)
            (folder / "run/profile/profile.json").write_text(json.dumps({"advice": lines}))
            return 1.0
        return 2.0 * next(rates) if flags.endswith("packed") else float(next(rates))

    monkeypatch.setattr(advice, "train", train)
    monkeypatch.setattr(advice, "RESULTS", tmp_path)
    return lines


def test_a_line_that_was_said_is_kept_with_the_ratio_of_each_pair(told, tmp_path, capsys):
    assert advice.main(["padding"]) == 0
    row = json.loads((tmp_path / "advice-cpu.json").read_text())["rows"]["padding"]
    assert row["line"] == told[0] and row[advice.RATE] == {"without": [10, 12, 14], "taken": [22, 26, 30]}
    assert row["times"] == sorted([22 / 10, 26 / 12, 30 / 14])
    assert "`--batching packed`: 2.17 [2.14 - 2.20] times the examples a second" in capsys.readouterr().out


def test_a_line_that_was_not_said_is_exit_code_1(told):
    told[0] = "nothing stands out"
    assert advice.main(["padding"]) == 1


def test_each_case_is_one_line_of_advice_and_one_change():
    lines = Path(advice.ROOT / "engine/record/advice.py").read_text(encoding="utf-8")
    for case in advice.CASES.values():
        assert case.said in lines and case.before.split()[0] == case.taken.split()[0] and case.before != case.taken


def test_a_run_that_fails_is_one_line(tmp_path):
    with pytest.raises(ResourceError, match=r"run.py --task nothing .*ended with exit code 2: .*nothing"):
        advice.train("--task nothing", tmp_path)
