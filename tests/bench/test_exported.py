"""``python -m bench export``: the table of docs/exporting.md is that of its results, and it can be measured anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.machine import RESULTS
from bench.quality import exported

KEPT = json.loads((RESULTS / "export-cpu.json").read_text())


def test_the_figures_are_those_measured():
    page = (Path(__file__).parent.parent.parent / "docs/exporting.md").read_text(encoding="utf-8")
    assert exported.table(KEPT) in page
    assert exported.is_as_it_must(KEPT)
    names = {name for name, _ in exported.MODELS.values()}
    assert {(row["model"], row["form"]) for row in KEPT["rows"]} == {
        (name, form) for name in names for form in ("the model itself", *exported.FORMS)
    }


def test_a_graph_that_is_not_the_model_is_told():
    [row, *_] = [row for row in KEPT["rows"] if row["form"] == "ONNX"]
    assert not exported.is_as_it_must({"rows": [{**row, "largest": 1e-3}]})
    assert exported.is_as_it_must({"rows": [{**row, "form": "ONNX, int8", "largest": 1e-3}]})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_measured_anew(tmp_path, capsys):
    """The small one: probabilities within the limit, and a ratio of speeds for each form."""
    assert exported.main(["--models", "gpt2", "--rows", "60", "--rounds", "2", "--output", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert exported.table(found) in capsys.readouterr().out and len(found["rows"]) == 4
    assert all(len(row["rows_per_second"]) == 2 and row["from"] <= row["times_the_model"] <= row["to"] for row in found["rows"])
    assert found["rows"][0]["times_the_model"] == 1
