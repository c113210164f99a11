"""Each task as a newcomer without the Hub types it. bench/results/tutorials-cpu.json has what it takes and what comes out; a figure
depends on the processor and its threads, so here it has to be far above what is trivial, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.quality import tutorials


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the runs land: preferences start from the model of sft."""
    return tmp_path_factory.mktemp("without")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ner", "qa", "seq2seq", "image-classification", "reranker", "sft", "reward", "dpo"])
def test_what_is_learned_is_three_standard_errors_above_what_is_trivial(name, folder, monkeypatch):
    """The settings of README.md, then the model used; on at least 200 held-out rows."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tutorials.inputs()
    if name in ("reward", "dpo") and not Path("runs/sft").exists():
        tutorials.measure("sft")
    row = tutorials.measure(name)
    assert row["above_trivial"] and row["rows"] >= 200 and row["said"]
