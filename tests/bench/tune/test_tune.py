"""``run.py tune``: what is tried, what is named at the end, and a real window of each kind."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

import run
from bench.toys import tiny
from bench.tune import command
from bench.tune.command import NUM_ROUNDS, Tried, advice, conclude, rounds, table
from bench.tune.variants import AS_GIVEN, ORDER, SAME, Machine, Variant, together, variants
from bench.tune.window import Window, measure, window
from engine.config import TrainConfig
from tasks import find
from tests.toys.cli import fails

CPU = Machine("cpu", "packed", "fp32", 2, 4, False, True)


def names(config: TrainConfig, given=(), machine: Machine = CPU, *, try_compile: bool = False) -> list[str]:
    return [each.name for each in variants(config, given, machine, try_compile=try_compile)]


@pytest.fixture(autouse=True)
def no_threads_named(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_what_is_tried_on_a_processor():
    assert names(TrainConfig(batch_size=8, accumulation_steps=2)) == [
        "--batching bucketed", "--batching padded", "--batch-size 16 --accumulation-steps 1", "--batch-size 4 --accumulation-steps 4",
        "--batch-size 2 --accumulation-steps 8", "OMP_NUM_THREADS=4", "OMP_NUM_THREADS=1", "--workers 1", "--workers 2",
    ]  # fmt: skip
    assert names(TrainConfig(batch_size=6), try_compile=True)[-1] == "--compile"
    assert "--precision bf16" in names(TrainConfig(), machine=dataclasses.replace(CPU, has_bf16=True))


def test_what_is_tried_on_cuda():
    found = names(TrainConfig(), machine=dataclasses.replace(CPU, device="cuda", precision="bf16", has_bf16=True))
    assert {"--precision fp16", "--precision fp32", "--compile"} < {*found} and not any("OMP" in name for name in found)


def test_what_is_named_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    found = names(TrainConfig(batch_size=3), ["batching", "workers", "precision", "compile"])
    assert found == ["--batch-size 1 --accumulation-steps 3"], "3 has no half"


@pytest.mark.parametrize("batch_size", [1, 3, 8, 16])
@pytest.mark.parametrize("accumulation_steps", [1, 2, 3])
def test_a_step_has_as_many_examples_however_it_is_cut(batch_size, accumulation_steps):
    config = TrainConfig(batch_size=batch_size, accumulation_steps=accumulation_steps)
    for each in variants(config, (), CPU, try_compile=False):
        if each.what == "micro-batch":
            assert int(each.flags["batch_size"]) * int(each.flags["accumulation_steps"]) == batch_size * accumulation_steps
            assert each.note == SAME


def test_a_loss_that_compares_rows_is_not_cut_otherwise():
    for config, machine in (
        (TrainConfig(), dataclasses.replace(CPU, is_additive=False)),
        (TrainConfig(tokens_per_batch=99), CPU),
    ):
        assert not any(each.what == "micro-batch" for each in variants(config, (), machine, try_compile=False))


def made(rates: dict[str, list[float]]):
    """A measurement that gives these rates by the name of the variant, over and over; it fails where there is a 0, or none."""
    at = dict.fromkeys(rates, 0)

    def measured(variant: Variant, num_steps: int) -> Window:
        name = variant.name
        if not rates[name]:
            return Window(failed="it does not fit")
        rate = rates[name][at[name] % len(rates[name])]
        at[name] += 1
        if not rate:
            return Window(failed="it does not fit")
        return Window(num_steps, 100, 1000, 100 / rate, 2.0, 1.5)

    return measured


FIRST = Window(3, 100, 1000, 10.0, 12.0, 1.5)
PADDED, WORKERS = Variant("batching", {"batching": "padded"}), Variant("workers", {"workers": "1"})


def outcome(rates: dict[str, list[float]], *wanted: Variant) -> tuple[list[Tried], Tried | None]:
    measured = made(
        {"as given": [10.0, 11.0, 12.0], "--batching padded --workers 1": [1.0], "--workers 1 --batching padded": [1.0]} | rates
    )
    tried = rounds(measured, wanted, FIRST, 1e6)
    return tried, conclude(measured, tried)


def test_only_what_is_faster_for_sure_is_named():
    tried, best = outcome({"--batching padded": [11.9, 30.0, 40.0]}, PADDED)
    assert best is None and "the flags as they are" in advice(tried, best, [])[0], (
        "its slowest window is slower than the fastest"
    )
    tried, best = outcome({"--batching padded": [12.1, 30.0, 40.0]}, PADDED)
    assert best is tried[1]
    lines = advice(tried, best, ["--task=yelp", "--batching", "auto"])
    assert "--batching padded: 2.73 x as fast (the same gradients)" in lines[0]
    assert lines[1].strip() == "python run.py --task=yelp --batching padded"
    assert [len(each.windows) for each in tried] == [NUM_ROUNDS] * 2


def test_two_that_are_faster_are_measured_together():
    rates = {"--batching padded": [20.0, 21.0, 22.0], "--workers 1": [15.0, 16.0, 17.0]}
    _, best = outcome(rates | {"--batching padded --workers 1": [30.0, 31.0, 32.0]}, PADDED, WORKERS)
    assert best.variant.flags == {"batching": "padded", "workers": "1"}
    tried, best = outcome(rates | {"--batching padded --workers 1": [21.0, 21.0, 30.0]}, PADDED, WORKERS)
    assert best.variant == PADDED and len(tried) == 4, "together they are no faster than one of them, for all that was seen"


def test_one_that_fails_is_said_and_the_others_go_on():
    tried, best = outcome({"--batching padded": [], "--workers 1": [20.0, 21.0, 22.0]}, PADDED, WORKERS)
    lines = table(tried, CPU)
    assert best.variant == WORKERS and any("not possible: it does not fit" in line for line in lines)
    assert "[10.00 - 12.00]" in lines[1] and "1.91" in lines[3] and "1.50" in lines[3]


def test_one_that_fails_in_the_last_round_is_not_named_however_fast_it_was():
    tried, best = outcome({"--batching padded": [40.0, 41.0, 0.0], "--workers 1": [20.0, 21.0, 22.0]}, PADDED, WORKERS)
    assert tried[1].failed and len(tried[1].windows) == 2 and best.variant == WORKERS


def test_what_there_is_no_time_for_is_named(capsys):
    measured = made({"as given": [10.0], "--batching padded": [9.0]})
    tried = rounds(measured, [PADDED, WORKERS], FIRST, 75.0)
    assert [each.variant for each in tried] == [AS_GIVEN, PADDED]
    assert "no time for --workers 1: --budget-s " in capsys.readouterr().err


def test_together_says_all_that_it_changes():
    both = together([Variant("threads", threads=2), Variant("batching", {"batching": "bucketed"}, note=ORDER)])
    assert both.name == "OMP_NUM_THREADS=2 --batching bucketed" and both.note == ORDER


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    tiny.save_model(folder / "model")
    tiny.save_texts(folder, train=64)
    return folder


def training(folder, *more: str) -> list[str]:
    return [
        "--task",
        "classification",
        "--model",
        str(folder / "model"),
        "--train-file",
        str(folder / "train.csv"),
        "--device",
        "cpu",
        *more,
    ]


def test_a_window_trains_the_steps_that_it_is_told(folder):
    flags = [*training(folder), "--batch-size", "8", "--accumulation-steps", "2"]
    found = window(flags, "classification", find, None, 4)
    assert (found.num_steps, found.num_examples) == (4, 64) and found.seconds > 0 and found.peak_gb > 0
    assert found.facts["layout"] == "packed" and found.facts["is_additive"] and "torch" in found.modules
    assert window([*flags, "--batching", "padded"], "classification", find, None, 4).num_tokens == found.num_tokens, (
        "the same examples"
    )


def test_a_window_that_fails_says_why_in_its_process(folder):
    found = measure([*training(folder), "--precision", "fp16"], "classification", find, 1, 3)
    assert found.failed.startswith("--precision fp16 is not for CPUs") and found.whole > 0


def test_the_command_measures_in_processes_and_prints_the_flags(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "variants", lambda *_, **__: [Variant("batching", {"batching": "padded"})])
    assert (
        run.main(
            [
                "tune",
                *training(folder, "--batch-size", "4", "--precision", "fp32"),
                "--budget-s",
                "20",
                "--output",
                str(tmp_path / "t.json"),
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "as given (packed, fp32)" in out and "--batching padded" in out and "\nuse        " in out
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [len(row["windows"]) for row in rows[:2]] == [NUM_ROUNDS] * 2 and rows[0]["windows"][0]["num_examples"] >= 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--task says what to train"),
        (["--task", "yelp", "--budget-s", "0"], "--budget-s must be 1 to 86400"),
        (["--task", "yelp", "--output", "x.csv"], "--output must end in .json"),
        (["--task", "yelp", "--lerning-rate", "1"], "did you mean --learning-rate?"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, capsys):
    code, line = fails(["tune", *arguments], capsys)
    assert code == 2 and words in line


def test_flags_that_cannot_be_trained_with_are_refused_at_once(folder, capsys):
    code, line = fails(["tune", *training(folder, "--precision", "fp16")], capsys)
    assert code == 2 and "nothing to measure: --precision fp16 is not for CPUs" in line
    assert "OMP_NUM_THREADS" not in os.environ
