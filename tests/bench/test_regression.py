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
