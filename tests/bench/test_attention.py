"""``python -m bench attention``: both ways are taken in turn, and what is kept says on which processor."""

from __future__ import annotations

import json

import torch

from bench.__main__ import main
from bench.contest import attention as bench_attention
from engine.model import attention


def test_both_ways_in_every_round(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_attention, "lengths", lambda: [3, 1, 5])
    monkeypatch.setattr("engine.precision.has_native_bf16", lambda device: True)
    taken = []
    by_segment, apply = attention._by_segment, attention._PackedAttention.apply
    monkeypatch.setattr(attention, "_by_segment", lambda q, *a: taken.append(("sdpa", q.dtype)) or by_segment(q, *a))
    monkeypatch.setattr(attention._PackedAttention, "apply", lambda q, *a: taken.append(("products", q.dtype)) or apply(q, *a))
    assert main(["attention", "--rounds", "2", "--results", str(tmp_path / "a.json")]) == 0
    document = json.loads((tmp_path / "a.json").read_text())
    rows = document["rows"]
    assert [(row["dtype"], row["width"], row["causal"], row["training"]) for row in rows] == [
        (dtype, width, causal, training)
        for dtype in ("float32", "bfloat16") for width in (32, 64)
        for causal, training in ((False, False), (False, True), (True, True))
    ]  # fmt: skip
    assert taken == [
        (way, dtype) for dtype in (torch.float32, torch.bfloat16) for _ in range(6 * 3) for way in ("products", "sdpa")
    ]
    assert all(row["ratio_min"] <= row["ratio"] <= row["ratio_max"] for row in rows)
    assert document["threads"] == torch.get_num_threads() and "processor" in document["machine"]
    assert capsys.readouterr().out.count("forward") == 4
