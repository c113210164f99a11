"""bench compare OLD.json NEW.json: what is slower is found, what a slower machine does to all is not taken for it."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from bench.__main__ import main
from bench.contest.regression import compare_files
from engine.errors import DataError

GENERATOR = np.random.default_rng(0)
STEP_MS = 100 * np.exp(0.3 * GENERATOR.standard_normal(60))  # of the same batches for all: long and short ones


def row_of(system: str, speed: float, seed: int, device: str = "cpu") -> dict:
    """60 steps in three windows at this speed; 3% of noise in each step."""
    ms = STEP_MS / speed * (1 + 0.03 * np.random.default_rng(seed).standard_normal(60))
    windows = ms.reshape(3, 20).sum(1) / 1000
    return {
        "system": system, "track": "S fp32", "model": "minilm", "batch": {"size": 16, "max_length": 512}, "valid": True, "quick": False,
        "work": {"batch_sha": "a", "examples": 960}, "env": {"device": device},
        "time": {"step_ms": {"all": ms.tolist()}, "windows_s": windows.tolist()}, "rate": {"ex_s": float(np.median(320 / windows))},
    }  # fmt: skip


def write(path, *rows) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.mark.parametrize(("device", "change"), [("cpu", 0.95), ("cuda", 0.85)])
def test_what_is_slower_is_found_and_what_is_not_is_not(tmp_path, device, change, capsys):
    old = write(tmp_path / "old.json", row_of("Plainloop", 2.0, 1, device), row_of("Trainer", 1.0, 2, device))
    for factor, code in ((change, 1), (1.0, 0), (1.1, 0)):
        new = write(tmp_path / "new.json", row_of("Plainloop", 2.0 * factor, 3, device), row_of("Trainer", 1.0, 4, device))
        assert main(["compare", old, new]) == code, factor
        assert ("SLOWER" in capsys.readouterr().out) == bool(code)


def test_a_slower_machine_is_no_regression_and_a_loss_on_a_faster_one_is(tmp_path):
    old = write(tmp_path / "old.json", row_of("Plainloop", 2.0, 1), row_of("Trainer", 1.0, 2), row_of("Fabric", 1.1, 5))
    slow = write(tmp_path / "slow.json", row_of("Plainloop", 1.2, 3), row_of("Trainer", 0.6, 4), row_of("Fabric", 0.66, 6))
    fast = write(tmp_path / "fast.json", row_of("Plainloop", 2.2, 3), row_of("Trainer", 1.3, 4), row_of("Fabric", 1.43, 6))
    assert not compare_files(old, slow, 0.02)[1] and compare_files(old, fast, 0.02)[1]
    alone = [write(tmp_path / f"{i}.json", row_of("Plainloop", speed, i)) for i, speed in enumerate((2.0, 1.2))]
    assert compare_files(*alone, 0.02)[1], "without a peer nothing else is known"


def test_half_the_intervals_of_equal_speed_lie_on_each_side(tmp_path):
    """No drift of the method itself: of 60 pairs of equal speed few are called slower."""
    called = 0
    for seed in range(60):
        files = [write(tmp_path / f"{i}.json", row_of("Plainloop", 1.0, 1000 * i + seed)) for i in (1, 2)]
        called += compare_files(*files, 0.0)[1]
    assert called <= 5


def test_files_without_a_common_row_or_of_another_kind_are_one_line(tmp_path, capsys):
    old = write(tmp_path / "old.json", row_of("Plainloop", 2.0, 1))
    other = copy.deepcopy(row_of("Plainloop", 2.0, 1)) | {"model": "other"}
    with pytest.raises(DataError, match="no valid row in common"):
        compare_files(old, write(tmp_path / "new.json", other), 0.02)
    for content in ("{", "{}", "[1]", '[{"valid": true}]', "[]"):
        (tmp_path / "bad.json").write_text(content)
        assert main(["compare", old, str(tmp_path / "bad.json")]) == 3
    assert main(["compare", old]) == 2
    assert capsys.readouterr().err.count("error: ") == 6


def changed(row: dict, **parts) -> dict:
    """A copy with other values; of a dictionary within it those that are given."""
    return {k: v | parts[k] if isinstance(v, dict) and k in parts else parts.get(k, v) for k, v in (parts | row).items()}


def test_rows_of_other_work_are_not_compared_and_other_choices_are_told(tmp_path):
    ours, peer = row_of("Plainloop", 2.0, 1), row_of("Trainer", 1.0, 2)
    rows = [changed(row, task="reviews", flags={"precision": "bf16", "threads": None}) for row in (ours, peer)]
    old = write(tmp_path / "old.json", *rows)
    now = [changed(row, flags={"precision": "fp32"}, env={"threads": 1}) for row in rows]
    text, is_slower = compare_files(old, write(tmp_path / "new.json", *now), 0.02)
    assert not is_slower and text.count("precision bf16, now fp32") == 2
    assert "other machine" not in text, "the old rows do not say how many threads they had"
    before = [changed(row, env={"threads": 2, "versions": {"torch": "1"}}) for row in rows]
    after = [changed(row, env={"threads": 1, "versions": {"torch": "2"}}) for row in rows]
    text, _ = compare_files(write(tmp_path / "b.json", *before), write(tmp_path / "a.json", *after), 0.02)
    assert text.splitlines()[-2:] == ["other machine: threads 2, now 1", "other machine: torch 1, now 2"]
    other = [changed(rows[0], track="D"), *(changed(row, task="films") for row in rows)]
    text, _ = compare_files(
        write(tmp_path / "b.json", changed(rows[0], track="D"), *rows), write(tmp_path / "o.json", *other), 0.02
    )
    assert "not compared: Plainloop (S fp32), other texts: reviews, now films" in text
    assert len([line for line in text.splitlines() if "paired" in line]) == 1
    for change, why in (({"task": "films"}, "other texts"), ({"env": {"device": "cuda"}}, "another device: cpu, now cuda")):
        with pytest.raises(DataError, match=f"no row of Plainloop that can be compared: Plainloop .S fp32.: {why}"):
            compare_files(old, write(tmp_path / "other.json", *(changed(row, **change) for row in rows)), 0.02)


def test_peers_are_those_of_the_same_contest(tmp_path):
    """What another contest has measured, at another hour, says nothing of the machine in this one."""
    old = [changed(row, run_id="a") for row in (row_of("Plainloop", 2.0, 1), row_of("Trainer", 1.0, 2))]
    new = [changed(row_of("Trainer", 0.5, 3), run_id="b"), changed(row_of("Plainloop", 1.0, 4), run_id="c")]
    text, is_slower = compare_files(write(tmp_path / "old.json", *old), write(tmp_path / "new.json", *new), 0.02)
    assert is_slower and " -  " in text
    new = [changed(row, run_id="b") for row in new]
    assert not compare_files(write(tmp_path / "old.json", *old), write(tmp_path / "new.json", *new), 0.02)[1]


def test_a_row_that_counts_no_longer_is_said_and_no_success(tmp_path, capsys):
    rows = [row_of("Plainloop", 2.0, 1), row_of("Trainer", 1.0, 2)]
    old = write(tmp_path / "old.json", *rows, row_of("Fabric", 1.0, 3))
    void = changed(rows[0], valid=False, why="other learning rates")
    assert main(["compare", old, write(tmp_path / "new.json", *rows, void)]) == 1
    out = capsys.readouterr().out
    assert f"void in {tmp_path}/new.json: Plainloop (S fp32), other learning rates  VOID" in out
    assert f"in {tmp_path}/old.json only: Fabric (S fp32)" in out
    assert main(["compare", write(tmp_path / "new.json", *rows, void), old]) == 3, "there is nothing of ours to compare with"
    again = write(tmp_path / "again.json", void, *rows)
    assert main(["compare", old, again]) == 0, "the last row counts"


def test_the_levers_are_ours_though_not_called_so(tmp_path):
    files = [
        write(tmp_path / f"{speed}.json", changed(row_of("packed, bf16", speed, int(speed)), track="levers"))
        for speed in (2.0, 1.0)
    ]
    assert compare_files(*files, 0.02)[1] and not compare_files(*reversed(files), 0.02)[1]


def test_windows_of_other_batches_are_compared_by_work(tmp_path):
    """Texts twice as long, half as many of them a second: as fast as before."""
    old = changed(row_of("Plainloop", 2.0, 1), rate={"tflops": 0.1})
    same_work = changed(row_of("Plainloop", 1.0, 2), work={"batch_sha": "b"}, rate={"tflops": 0.1})
    less = changed(same_work, rate={"tflops": 0.05})
    write(tmp_path / "old.json", old)
    assert not compare_files(str(tmp_path / "old.json"), write(tmp_path / "new.json", same_work), 0.02)[1]
    assert compare_files(str(tmp_path / "old.json"), write(tmp_path / "new.json", less), 0.02)[1]


def test_rows_without_their_numbers_are_one_line(tmp_path, capsys):
    row = row_of("Plainloop", 2.0, 1)
    old = write(tmp_path / "old.json", row)
    for change in (
        {"time": {"windows_s": []}},
        {"time": {"windows_s": [0.0]}},
        {"rate": {"ex_s": "x"}},
        {"work": {"examples": None}},
    ):
        assert main(["compare", old, write(tmp_path / "new.json", changed(row, **change))]) == 3, change
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["compare", old, old, "--tolerance=-1"]) == 2
