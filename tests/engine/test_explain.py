"""--explain: each number that is printed, against a run that is then made, or another way to compute it."""

from __future__ import annotations

import importlib
import json
import re
from contextlib import nullcontext
from functools import reduce

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import run
from bench.toys import tiny
from engine import checks, explain
from engine.config import TrainConfig
from engine.data.collate import Layout
from engine.fit import fit

SETTINGS = {"batch_size": 4, "accumulation_steps": 2, "epochs": 2, "learning_rate": 1e-3, "warmup_ratio": 0.2, "device": "cpu"}


def make_task() -> tiny.TokenTask:
    return tiny.TokenTask(train=tiny.token_rows(45), evaluation=tiny.token_rows(21, seed=5))


def explained(folder, capsys, **changes) -> dict[str, list[str]]:
    """The lines by their first word, without the functions; a line without one belongs to that above."""
    config = TrainConfig(**SETTINGS | changes, output_dir=str(folder / "explained"), explain=True)
    result = fit(make_task(), config, tiny.bert())
    assert result.model is None and not (folder / "explained").exists(), "nothing is made"
    found: dict[str, list[str]] = {}
    name = ""
    for line in capsys.readouterr().out.splitlines()[:-1]:
        name = line[:10].strip() or name
        found.setdefault(name, []).append(line[11:].rsplit("engine/", 1)[0].strip())
    return found


def lines_of(folder, **changes) -> list[dict]:
    """metrics.jsonl of the same run, made."""
    config = TrainConfig(**SETTINGS | changes, output_dir=str(folder / "run"))
    fit(make_task(), config, tiny.bert())
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("batching", ["packed", "padded", "bucketed"])
def test_steps_batches_rates_waste_and_flops_are_those_of_the_run(tmp_path, capsys, batching):
    lines = explained(tmp_path, capsys, batching=batching)
    train = [line for line in lines_of(tmp_path, batching=batching, log_steps=1) if line["kind"] == "train"]
    [steps], [batch], [rate], [compute] = (lines[name] for name in ("steps", "batch", "rate", "compute"))
    assert steps == f"{len(train)} = 2 epochs of {len(train) // 2}, of 24 micro-batches"
    last = train[-1]
    per_step = f"{last['num_examples'] / len(train):.2f} examples, {last['num_tokens'] / len(train):,.1f} tokens"
    assert batch == f"{per_step} a step, on average"
    rates = [line["learning_rate"] for line in train]
    assert rate.split("  ")[-1] == f"first {rates[0]:.3g}, highest {max(rates):.3g}, last {rates[-1]:.3g}"
    assert len(rate.split("  ")[0]) == len(train) - 1, "a block for each step, when they are few; the first rate is 0"
    flops = sum(line["tflops"] * 1e12 / line["steps_per_second"] for line in train) / len(train)
    assert float(compute.split()[0]) == pytest.approx(flops / 1e9, rel=1e-3)
    [padding] = lines["padding"]
    whole = [line for line in lines_of(tmp_path / "b", batching=batching, log_steps=1000) if line["kind"] == "train"]
    assert len(whole) == 1
    assert f"{batching} {whole[0]['padding_waste']:.2%}" in padding and padding.endswith(f"here {batching}")


def test_packed_batches_of_a_rounded_length_cost_what_is_said(tmp_path, capsys):
    """In bf16 on a CPU their tokens are filled up to a multiple of at most 1/32 of them: 45 rows of 14 tokens are about 640."""
    changes = {"batch_size": 45, "accumulation_steps": 1, "precision": "bf16", "batching": "packed"}
    [padding] = explained(tmp_path, capsys, **changes)["padding"]
    [line] = [line for line in lines_of(tmp_path, log_steps=1000, **changes) if line["kind"] == "train"]
    assert 0 < line["padding_waste"] < 1 / 16 and f"packed {line['padding_waste']:.2%}" in padding
    said = capsys.readouterr().out
    assert f"{line['padding_waste']:.0%} padding (padded: {line['waste_if_padded']:.0%})" in said, (
        "padded has more, and that is said"
    )


@pytest.mark.parametrize(("number", "longest", "expected"), [
    (0, 0, 0), (5, 0, 5), (63, 0, 63), (65, 0, 66), (1000, 0, 1008), (1025, 0, 1056), (5000, 0, 5056), (90_001, 0, 90_048),
    (5, 512, 64), (1000, 512, 1024),
])  # fmt: skip
def test_rounded_lengths(number, longest, expected):
    """At most 1/32 more, but for recorded steps, whose longest row is constant."""
    layout = Layout("packed", max_length=longest, round_to=64)
    assert layout.filled(number) == expected and Layout("packed").filled(number) == number


@pytest.mark.parametrize(("precision", "batching", "is_rounded"), [
    ("bf16", "packed", True), ("fp32", "packed", False), ("bf16", "padded", False),
])  # fmt: skip
def test_what_has_rounded_lengths(precision, batching, is_rounded):
    config = TrainConfig(batch_size=45, precision=precision, batching=batching, device="cpu")
    setup = explain.build(make_task(), tiny.token_rows(45), config, tiny.bert())
    assert (setup.layout.round_to > 1) == is_rounded


def test_the_flops_are_torchs():
    """Of one step with rows of equal length and eager attention; the count of tests/engine/model/test_flops.py, through the plan."""
    rows = tiny.token_rows(8, longest=5)  # 4 tokens each
    task = tiny.TokenTask(model=tiny.bert(dropout=0.0), train=rows)
    setup = explain.build(task, rows, TrainConfig(batch_size=8, epochs=2, device="cpu", batching="padded"))
    config = TrainConfig(batch_size=8, epochs=2, device="cpu")
    tried = explain.try_steps(setup, task, config)
    ours = explain.flops_of(setup, task, explain.totals_of(setup.data.plan, "padded", 0), tried)
    setup.state.model.set_attn_implementation("eager")
    batch = setup.data.batch([(0, row) for row in range(8)])
    with FlopCounterMode(display=False) as counter:
        task.loss(task.forward(setup.state.model, batch), batch).backward()
    assert ours == counter.get_total_flops()


def test_parameters_and_memory(tmp_path, capsys):
    lines = explained(tmp_path, capsys, freeze="embeddings", head_learning_rate=1e-2)
    model = tiny.bert()
    sizes = {name: p.numel() for name, p in model.named_parameters() if "embeddings" not in name}
    frozen = sum(p.numel() for name, p in model.named_parameters() if "embeddings" in name)
    assert lines["frozen"] == [f"{frozen:,} parameters"]
    printed = [
        re.match(r"([\d,]+) parameters in (\d+) tensors: rate ([\d.]+), decay ([\d.]+)", text) for text in lines["train"]
    ]
    assert sum(int(m[1].replace(",", "")) for m in printed) == sum(sizes.values())
    assert sum(int(m[2]) for m in printed) == len(sizes)
    assert [(m[3], m[4]) for m in printed] == [("0.001", "0.01"), ("0.001", "0"), ("0.01", "0.01"), ("0.01", "0")]
    head = int(printed[2][1])
    assert head == sizes["classifier.weight"]
    setup = explain.build(make_task(), make_task().train, TrainConfig(**SETTINGS), tiny.bert())
    found = checks.memory_needed(setup, TrainConfig(**SETTINGS))
    explain.try_steps(setup, make_task(), TrainConfig(**SETTINGS))
    state = setup.state.optimizer.state.values()
    moments = sum(moment.nbytes for per in state for name, moment in per.items() if name != "step")
    assert found["AdamW"] == moments
    assert found["weights"] == found["gradients"] == sum(p.nbytes for p in model.parameters())


def test_lengths_and_wastes_by_hand(tmp_path, capsys):
    sizes = tiny.token_rows(45).lengths
    lines = explained(tmp_path, capsys, batching="padded", epochs=1)
    assert lines["lengths"][0].endswith(f"{sizes.min()} to {sizes.max()} tokens, {sizes.mean():.1f} on average")
    order = torch.randperm(45, generator=torch.Generator().manual_seed(42)).numpy()
    executed = sum(len(cut) * sizes[cut].max() for cut in np.split(order, range(4, 45, 4)))
    assert f"padded {1 - sizes.sum() / executed:.2%}" in lines["padding"][0]


def test_the_time_is_that_of_the_steps_that_were_tried(monkeypatch):
    """A clock that gives each step a second more than the one before: the first one is to get warm."""
    task = make_task()
    config = TrainConfig(**SETTINGS, batching="padded")
    setup = explain.build(task, task.train, config, tiny.bert())
    ticks = iter([0.0, *np.repeat([1.0, 3.0, 6.0, 10.0], 2)])
    monkeypatch.setattr(explain.time, "perf_counter", lambda: next(ticks))
    setup.state.clock.take = lambda: {"forward": 0.5}
    monkeypatch.setattr(setup.state.clock, "phase", nullcontext)
    tried = explain.try_steps(setup, task, config)
    assert tried.seconds == 2 + 3 + 4 and tried.forward_seconds == 1.5 and tried.tally.num_steps == 3
    widths = [task.train.lengths[rows] for rows in list(explain.rows_of(setup.data.plan))[2:8]]
    assert tried.tally.executed_tokens == sum(len(width) * width.max() for width in widths)


def test_one_is_singular(tmp_path, capsys, monkeypatch):
    """No step is begun any more when the first one that counts has taken its time."""
    monkeypatch.setattr(explain, "TRIED_SECONDS", 0.0)
    lines = explained(tmp_path, capsys, epochs=1)
    assert lines["memory"][-1].endswith("at most in 1 tried step") and lines["steps"][0].startswith("6 = 1 epoch of 6, of ")


def test_a_run_after_it_has_the_same_bits(tmp_path, capsys):
    """In the same process, with a model of one's own, dropout on; the model that was given is as it was."""
    fit(make_task(), TrainConfig(**SETTINGS, output_dir=str(tmp_path / "a")), tiny.bert())
    model = tiny.bert()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(make_task(), TrainConfig(**SETTINGS, explain=True), model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    fit(make_task(), TrainConfig(**SETTINGS, output_dir=str(tmp_path / "b")), model)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.bf16)])
def test_every_line_names_a_function_that_exists(precision, capsys):
    fit(make_task(), TrainConfig(**SETTINGS | {"precision": precision}, explain=True), tiny.bert())
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert len(lines) > 10
    for line in lines:
        file, name = re.search(r" (engine/[\w/]+\.py): ([\w.]+)$", line).groups()
        assert reduce(getattr, name.split("."), importlib.import_module(file[:-3].replace("/", ".")))
        assert len(line) == explain.MARGIN, line


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    """It ends with 0; a finished run in its place is neither skipped nor tried out."""
    monkeypatch.chdir(tmp_path)
    tiny.save_model(tmp_path / "model")
    for name in ("train", "eval"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in tiny.texts(20)))
    arguments = ["--task", "classification", "--model", "model", "--train-file", "train.csv", "--eval-file", "eval.csv"]
    assert run.main([*arguments, "--explain", "--output-dir", "new"]) == 0
    assert "nothing was trained" in capsys.readouterr().out and not (tmp_path / "new").exists()
    assert not (tmp_path / "runs").exists()


def test_durations():
    assert explain.duration(4.24) == "about 4.2 s" and explain.duration(190) == "about 3 min 10 s"
    assert explain.duration(7500) == "about 2 h 5 min"
    assert explain.curve([0, 1, 4, 8]) == " ▁▄█"
