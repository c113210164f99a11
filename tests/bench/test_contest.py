"""The bench: its protocol, what makes a row void, its tables and pictures; and all systems once, for real."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench import steps
from bench.__main__ import main
from bench.contest import compare, contest, levers, pictures, report, tracks
from bench.contest.breakdown import REST, kind_of
from bench.contest.contenders import plain_loop, plainloop
from bench.contest.job import Job
from bench.contest.timing import Channel, Gate
from bench.contest.validity import reasons
from bench.contest.worker import resolve, train
from bench.contest.workload import Workload, batches, random_workload, tokenise
from bench.gpu import programme
from engine.errors import UsageError

CPU = torch.device("cpu")
WORKLOAD = random_workload(30, 4, 20)


class Replies(io.StringIO):
    """A parent that answers at once, the same every time (or ``num`` times)."""

    def __init__(self, answer="go", num=10**9):
        super().__init__()
        self.answer, self.num = answer, num

    def readline(self, *_):
        self.num -= 1
        return f"{self.answer}\n" if self.num >= 0 else "stop\n"


def a_job(**changes):
    job = Job("plain loop", "bench.contest.contenders.plain_loop:train", "S fp32", "-", "random:tiny", batch_size=4, max_length=20,
              warmup=2, steps=3, windows=2)  # fmt: skip
    return dataclasses.replace(job, **changes)


def messages(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def run_here(job, contender=None):
    """Both phases in this process; what the worker reports, and the messages."""
    stream, results = io.StringIO(), []
    channel = Channel(stream, Replies())
    name = "contender_of_a_test"
    for check in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if contender is not None:
                patch.setattr(plain_loop, name, contender, raising=False)
                result, gate = train(
                    dataclasses.replace(job, contender=f"bench.contest.contenders.plain_loop:{name}"),
                    WORKLOAD,
                    channel,
                    CPU,
                    check=check,
                )
            else:
                result, gate = train(job, WORKLOAD, channel, CPU, check=check)
        results.append(result)
    done = {"check": results[0], "timed": results[1], "precision": gate.precision, "layout": gate.layout, "system": job.system,
            "tf32": False, "profile": None, "memory_gb": 0.1}  # fmt: skip
    return done, messages(stream)


# ------------------------------------------------------------------------------------------------------- the protocol


def steps_at(gate, number):
    """That many steps of a made-up contender; the answers of the gate."""
    answers = []
    for i in range(number):
        gate.saw([2 * i, 2 * i + 1], 10 + i, 12 + i, 100)
        answers.append(gate.step(torch.tensor(float(i))))
    return answers


def test_the_gate_runs_warmup_and_windows_and_then_stops():
    stream = io.StringIO()
    gate = Gate(a_job(), Channel(stream, Replies()), CPU, check=False)
    assert steps_at(gate, 8) == [True] * 7 + [False]
    ready, first, second = messages(stream)
    assert ready["event"] == "ready" and ready["warmup_s"] >= 0
    assert (first["event"], second["event"]) == ("window", "window")
    assert first["examples"] == 6 and len(first["step_s"]) == 3
    assert first["num_tokens"] == 12 + 13 + 14 and second["executed_tokens"] == 17 + 18 + 19
    assert sum(first["step_s"]) <= first["seconds"] + 1e-3
    assert gate.report()["losses"] == [float(i) for i in range(8)]


def test_the_gate_waits_for_the_parent_before_each_window_and_obeys_stop():
    stream = io.StringIO()
    gate = Gate(a_job(), Channel(stream, Replies(num=1)), CPU, check=False)  # one go, then stop
    assert steps_at(gate, 5) == [True] * 4 + [False]
    assert [m["event"] for m in messages(stream)] == ["ready", "window"]


def test_the_check_takes_its_steps_and_says_nothing():
    stream = io.StringIO()
    gate = Gate(a_job(), Channel(stream, Replies("")), CPU, check=True)
    assert steps_at(gate, 3) == [True, True, False]
    assert stream.getvalue() == ""


def test_a_run_shorter_than_the_check_ends_it():
    gate = Gate(a_job(warmup=1, steps=1, windows=1), Channel(io.StringIO(), Replies()), CPU, check=True)
    assert steps_at(gate, 2) == [True, False] and gate.report()["losses"] == [0.0, 1.0]


def test_the_floor_is_measured_before_each_window_and_outside_of_it():
    stream, calls = io.StringIO(), []
    gate = Gate(a_job(), Channel(stream, Replies()), CPU, check=False, floor=lambda: calls.append(1) or 0.25)
    steps_at(gate, 8)
    assert len(calls) == 2 and [m["floor_s"] for m in messages(stream)[1:]] == [0.25, 0.25]


def test_batches_made_ahead_are_counted_in_the_step_that_trains_them():
    gate = Gate(a_job(), Channel(io.StringIO(), Replies()), CPU, check=True)
    collate = gate.watched(lambda features: {"input_ids": torch.zeros(len(features), 5)})
    for row in (7, 8, 9):  # all three before the first step
        assert "row" not in collate([{"row": row, "input_ids": [1, 2, 3]}])
    for _ in range(3):
        gate.step(torch.tensor(0.0))
    assert gate.report()["rows"] == [[7], [8], [9]] and gate.report()["num_tokens"] == 9


# ------------------------------------------------------------------------------------------------ what makes a row void


@pytest.fixture(scope="module")
def baseline():
    """The plain loop, untampered."""
    return run_here(a_job())[0]


def why(job, done, others):
    return "; ".join(reasons(job, done, WORKLOAD.lengths, others))


def test_equal_work_is_valid(baseline):
    job = a_job(system="Plainloop", contender=tracks.MODULES["plainloop"], batching="auto")
    done, sent = run_here(job)
    assert why(job, done, [baseline]) == ""
    assert done["layout"] == "packed"
    assert [m["event"] for m in sent] == ["ready", "window", "window"]
    assert done["timed"]["losses"] != baseline["timed"]["losses"]  # dropout was on: other masks
    assert max(baseline["check"]["norms"]) == pytest.approx(1.0, abs=1e-4)  # clipping did something


def with_job(**changes):
    return lambda job, workload, model, gate: plain_loop.train(dataclasses.replace(job, **changes), workload, model, gate)


def missing_examples(job, workload, model, gate):
    """Each batch loses a row before the collator sees it."""
    fewer = [rows[:-1] for rows in batches(job, workload.lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_loop, "batches", lambda *_: fewer)
        plain_loop.train(job, workload, model, gate)


def cut_texts(job, workload, model, gate):
    plain_loop.train(job, workload.cut(8), model, gate)


def other_weights(job, workload, model, gate):
    with torch.no_grad():
        model.classifier.bias += 1
    plain_loop.train(job, workload, model, gate)


def no_dropout(job, workload, model, gate):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain_loop.train(job, workload, model, gate)


def half_the_updates(job, workload, model, gate):
    """Every second call of the optimizer does nothing."""
    make = plain_loop.make_optimizer

    def lazy(job, model):
        optimizer, calls = make(job, model), []
        update = optimizer.step

        def step(self):
            calls.append(1)
            if len(calls) % 2:
                update()

        optimizer.step = types.MethodType(step, optimizer)
        return optimizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_loop, "make_optimizer", lazy)
        plain_loop.train(job, workload, model, gate)


def other_arithmetic(job, workload, model, gate):
    """Something that no counter sees: a layer is left out."""
    model.base_model.encoder.layer = model.base_model.encoder.layer[:1]
    plain_loop.train(job, workload, model, gate)


@pytest.mark.parametrize(
    ("contender", "reason"),
    [
        (with_job(learning_rate=1e-3), "other learning rates"),
        (with_job(seed=7), "other examples per step"),
        (with_job(batching="bucketed"), "other examples per step"),
        (with_job(max_grad_norm=1e9), "not clipped"),
        (with_job(weight_decay=0.0), "weight decay"),
        (missing_examples, "other examples per step"),
        (cut_texts, "texts were cut"),
        (other_weights, "starting weights"),
        (no_dropout, "other dropout"),
        (half_the_updates, "updates in"),
        (other_arithmetic, "losses"),
    ],
)
def test_a_tampered_contender_makes_its_row_void(baseline, contender, reason):
    done, _ = run_here(a_job(system="tampered"), contender)
    assert reason in why(a_job(system="tampered"), done, [baseline])


def test_fewer_examples_are_found_where_the_order_is_free(baseline):
    job = a_job(system="bucketed", batching="bucketed")
    done, _ = run_here(job)
    assert why(job, done, [baseline]) == ""
    done["timed"]["rows"][3] = done["timed"]["rows"][3][:-1]
    assert "missing examples" in why(job, done, [baseline])
    done["timed"]["rows"][3] = done["timed"]["rows"][4]
    assert "twice in an epoch" in why(job, done, [baseline])


def test_alone_there_is_nothing_to_check_against(baseline):
    assert "no padded contender" in why(a_job(), baseline, [])


# ------------------------------------------------------------------------------------------------------ tracks and peers


def test_a_missing_peer_is_named_and_skipped(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lightning_fabric" else real(name))
    jobs = contest.split_missing(tracks.jobs_of("D", a_job(), CPU))
    assert "Lightning Fabric" not in [job.system for job in jobs] and "Accelerate" in [job.system for job in jobs]
    assert "Lightning Fabric: skipped, lightning_fabric is not installed" in capsys.readouterr().err


def test_every_peer_is_installed_for_these_tests():
    """They are in the dev extra: nothing here may be skipped without a word."""
    assert [contest.missing(job) for job in tracks.jobs_of("S", a_job(), CPU)] == [[]] * 6
    assert importlib.util.find_spec("matplotlib")


def test_the_tracks_hold_what_they_say(monkeypatch):
    monkeypatch.setattr("engine.precision.has_native_bf16", lambda device: False)
    names = {track: [job.system for job in tracks.jobs_of(track, a_job(), CPU)] for track in tracks.TRACKS}
    assert names["D"][0] == "Plainloop" and names["D"][-1] == "Trainer, max_length"
    monkeypatch.setattr("engine.precision.has_native_bf16", lambda device: True)
    with_bf16 = [job for job in tracks.jobs_of("D", a_job(), CPU) if job.precision == "bf16"]
    assert [job.system for job in with_bf16] == [f"{tracks.NAMES[name]}, its bf16 flag" for name in tracks.SYSTEMS[1:]]
    same = tracks.jobs_of("S", a_job(), CPU, precision="bf16")
    assert {job.precision for job in same} == {"bf16"} and all(job.track == "S bf16" for job in same)
    best = tracks.jobs_of("B", a_job(), CPU, compile=True)
    assert all(job.fused and job.batching == "bucketed" for job in best if "lainloop" not in job.system)
    assert sum(job.compile for job in best) == 2
    assert all(job.measure_floor for job in tracks.jobs_of("overhead", a_job(), CPU))


OWN = """from bench.contest.contenders import plain_loop
def train(job, workload, model, gate):
    plain_loop.train(job, workload, model, gate)
nothing = 1
"""


def test_a_loop_of_ones_own_stands_beside_the_others(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    name = f"{tmp_path}/mine.py:train"
    for track in tracks.TRACKS:
        *_, job = tracks.jobs_of(track, a_job(), CPU, precision="bf16", systems=["plainloop"], own=[name])
        plain, *_ = tracks.jobs_of(track, a_job(), CPU, precision="bf16", systems=["plain_loop"])
        assert (job.system, job.contender) == ("mine.py:train", name)
        assert dataclasses.replace(job, system=plain.system, contender=plain.contender) == plain, "the plain loop's choices"
    done, _ = run_here(a_job(), resolve(name))
    assert done["timed"]["losses"] == run_here(a_job())[0]["timed"]["losses"]


@pytest.mark.parametrize(("named", "words"), [("mine.py:nothing", "no function"), ("mine.py:no", "no function"),
                                              ("other.py:train", "no file"), ("plain_loop", "FILE.py:FUNCTION")])  # fmt: skip
def test_what_is_no_loop_of_ones_own_is_refused_before_anything_is_measured(tmp_path, named, words, capsys):
    (tmp_path / "mine.py").write_text(OWN)
    with pytest.raises(UsageError, match=words):
        compare.compare(compare.with_defaults(contender=[f"{tmp_path}/{named}" if "py" in named else named], data="random"))
    assert not capsys.readouterr().out


def test_the_levers_of_a_cpu(monkeypatch):
    monkeypatch.setattr("engine.precision.has_native_bf16", lambda device: False)
    jobs, skipped = levers.levers(a_job(), CPU)
    assert [job.system for job in jobs] == ["padded, fp32", "length buckets, fp32", "packed, nn.Dropout, fp32", "packed, fp32"]
    assert [job.profile_steps > 0 for job in jobs] == [False, False, False, True]
    assert not jobs[2].fast_dropout
    assert "bf16" in skipped["packed, bf16"] and "CUDA" not in skipped["packed, bf16"]


def test_without_fast_dropout_the_layers_are_torchs(monkeypatch):
    from engine.model import packing

    monkeypatch.setattr(packing, "use_fast_dropout", packing.use_fast_dropout)  # restored afterwards
    seen = []

    class Looking(plainloop.TimedRun):
        def log(self, *arguments):
            seen.append({type(m).__name__ for m in self.state.model.modules() if isinstance(m, torch.nn.Dropout)})
            super().log(*arguments)

    monkeypatch.setattr(plainloop, "TimedRun", Looking)
    run_here(a_job(contender=tracks.MODULES["plainloop"], batching="packed", fast_dropout=False))
    assert seen and all(kinds == {"Dropout"} for kinds in seen)


def test_operators_have_their_kinds():
    assert kind_of("aten::addmm") == "linear layers"
    assert kind_of("aten::baddbmm") == "attention products"
    assert kind_of("aten::addmm_") == "attention products", "within aten::baddbmm, row by row"
    assert kind_of("aten::_addmm_activation") == "linear layers"
    assert kind_of("aten::_foreach_norm") == "optimizer and clipping"
    assert kind_of("_DropoutBackward") == "dropout"
    assert kind_of("aten::native_layer_norm") == "activation and norm"
    assert kind_of("aten::add") == REST


def test_contenders_are_found_by_name():
    assert resolve("bench.contest.contenders.plain_loop:train") is plain_loop.train


# ------------------------------------------------------------------------------------------------------ all, for real


SCHEMA = {"run_id", "system", "version", "track", "model", "task", "batch", "flags", "env", "work", "time", "rate", "mem_gb",
          "recompiles", "loss", "eval", "valid", "why"}  # fmt: skip


ALL = ["Plainloop", "plain loop", "Accelerate", "Trainer", "Lightning Fabric"]


@pytest.fixture(scope="module", params=[pytest.param(ALL, marks=pytest.mark.slow)], ids=["all"])
def real(request, tmp_path_factory):
    """Track S with some systems, each in its own process; the options, rows and what was printed."""
    folder = tmp_path_factory.mktemp("bench")
    WORKLOAD.save(folder / "tokens.npz")
    options = compare.with_defaults(
        model="random:tiny", tokens=str(folder / "tokens.npz"), batch_size=4, max_length=20, steps=3, windows=2, warmup=2,
        device="cpu", track=["S"], precision=["fp32"], matmul_sizes=[64], results=str(folder / "bench-cpu.json"),
    )  # fmt: skip
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("PLAINLOOP_CACHE", str(folder))
        jobs_of = tracks.jobs_of  # one process a system: each takes seconds to import its libraries
        some = lambda *a, **k: [job for job in jobs_of(*a, **k) if job.system in request.param]  # noqa: E731
        patch.setattr(tracks, "jobs_of", some)
        rows = compare.compare(options)
    return SimpleNamespace(
        folder=folder, rows=rows, printed=printed.getvalue(), results=folder / "bench-cpu.json", systems=request.param
    )


def test_all_systems_run_and_are_valid(real):
    assert {row["system"]: row["why"] for row in real.rows} == dict.fromkeys(real.systems, "")
    assert all(row["valid"] for row in real.rows)
    assert len({row["work"]["batch_sha"] for row in real.rows}) == len({row["work"]["init_sha"] for row in real.rows}) == 1


def test_the_rows_are_complete_and_kept(real):
    assert real.rows == report.load(real.results)
    for row in real.rows:
        assert row.keys() >= SCHEMA
        assert row["rate"].keys() >= {"steps_per_second", "ex_s", "tok_s", "mfu_989", "frac_gemm_peak"}
        assert row["work"].keys() >= {"steps", "examples", "real_tokens", "executed_tokens", "sum_s2", "batch_sha", "init_sha"}
        assert row["work"]["steps"] == 6 and len(row["time"]["windows_s"]) == 2 and len(row["time"]["step_ms"]["all"]) == 6
        share = row["rate"]["tflops"] / row["env"]["gemm_tflops"][row["flags"]["precision"]]
        assert row["rate"]["frac_gemm_peak"] == pytest.approx(share) and row["mem_gb"] > 0 and row["env"]["versions"]["torch"]
        assert len(row["loss"]["check"]) == 3 and len(row["loss"]["train"]) == 8


def test_the_table_names_every_system(real):
    for name in real.systems:
        assert name in real.printed
    assert "VOID" not in real.printed and "not for quoting" not in real.printed


def test_the_pictures_are_drawn(real, capsys):
    assert main(["plot", "--results", str(real.results)]) == 0
    paths = capsys.readouterr().out.split()
    assert [p.rpartition("bench-cpu-")[2] for p in paths] == ["S-fp32.png", "S-fp32-loss.png", "S-fp32-steps.png"]
    for path in paths:
        with open(path, "rb") as stream:
            data = stream.read()
        assert data.startswith(b"\x89PNG") and len(data) > 5000
        assert int.from_bytes(data[16:20], "big") == 800


# --------------------------------------------------------------------------------------------------- tables and pictures


def row_of(system, rate, valid=True, **more):
    """As much of a row as tables and pictures need."""
    return {
        "run_id": "r", "system": system, "track": "D", "quick": False, "model": "m", "batch": {"size": 4, "max_length": 8},
        "env": {"processor": "p", "threads": 1}, "valid": valid, "why": "" if valid else "other learning rates",
        "rate": {"ex_s": rate, "ex_s_min": rate - 1, "ex_s_max": rate + 30, "steps_per_second": rate / 4, "tok_s": 9.0},
        "time": {"step_ms": {"all": [1.0, 2.0, 4.0]}}, "loss": {"check": [0.7, 0.6], "train": [0.7]},
    } | more  # fmt: skip


def test_the_ratio_is_one_of_medians_and_void_rows_have_none():
    text = report.table([row_of("Plainloop", 50.0), row_of("Trainer", 20.0), row_of("bad", 99.0, valid=False)], "track D")
    ours, trainer, bad = text.splitlines()[2:]
    assert "50.00 [49.00-80.00]" in ours and " 2.50 " in ours and " 1.00 " in trainer
    assert "VOID: other learning rates" in bad and "4.95" not in bad
    assert "quick: not for quoting" in report.table([row_of("Trainer", 1.0, quick=True)], "t")
    assert " 2.50 " not in report.table([row_of("Plainloop", 50.0), row_of("Trainer", 20.0, valid=False)], "t")


def test_a_failed_contender_has_a_void_row_with_the_reason():
    failed = SimpleNamespace(job=a_job(), done=None, error="no 'ready' from it: boom", windows=[], ready={})
    [row] = report.make_rows([failed], WORKLOAD, {"device": "cpu", "gemm_tflops": {}}, run_id="r")
    assert not row["valid"] and "boom" in row["why"]
    assert "VOID: no 'ready' from it: boom" in report.table([row], "t")


def test_no_row_is_judged_by_a_loop_of_ones_own(baseline):
    windows = [
        {"seconds": 1.0, "examples": 12, "step_s": [0.1] * 3, "num_tokens": 100, "executed_tokens": 120, "sum_squares": 1000,
         "recompiles": 0, "cost_s": 1.0, "floor_s": None}
    ]  # fmt: skip
    wrong = dict(baseline) | {"timed": baseline["timed"] | {"init_sha": "another"}}

    def contender(done, name):
        job = a_job(contender=name)
        return SimpleNamespace(job=job, done=done, error=None, windows=windows, ready={"warmup_s": 1.0}, said="")

    for name, voided in (("bench.contest.contenders.trainer:train", True), ("/x/mine.py:train", False)):
        rows = [contender(dict(baseline), a_job().contender), contender(wrong, name)]
        ours, theirs = report.make_rows(rows, WORKLOAD, {"device": "cpu", "gemm_tflops": {"fp32": 0.1}}, run_id="r")
        assert ("other starting weights" in ours["why"]) is voided
        assert "other starting weights" in theirs["why"]


def test_the_median_of_the_windows_is_the_rate(baseline):
    windows = [
        {"seconds": s, "examples": 12, "step_s": [0.1] * 3, "num_tokens": 100, "executed_tokens": 120, "sum_squares": 1000,
         "recompiles": 0, "cost_s": s, "floor_s": 0.01} for s in (1.0, 2.0, 6.0)
    ]  # fmt: skip
    c = SimpleNamespace(
        job=a_job(measure_floor=True), done=dict(baseline), error=None, windows=windows, ready={"warmup_s": 1.0}, said=""
    )
    [row] = report.make_rows([c], WORKLOAD, {"device": "cpu", "gemm_tflops": {"fp32": 0.1}}, run_id="r")
    assert (row["rate"]["ex_s"], row["rate"]["ex_s_min"], row["rate"]["ex_s_max"]) == (6.0, 2.0, 12.0)
    assert row["rate"]["steps_per_second"] == 1.5
    assert row["overhead_us"]["median"] == pytest.approx(1e6 * (2.0 / 3 - 0.01))


def test_levers_overhead_and_only_the_newest_run_are_drawn(tmp_path):
    parts = {"ms_per_step": {"linear layers": 6.0, "softmax": 3.0, REST: 1.0}, "total_ms": 10.0, "floor_ms": 5.0}
    rows = [
        row_of("old", 1.0, run_id="q"),
        row_of("Trainer", 2.0),
        row_of("padded, fp32", 2.0, track="levers"),
        row_of("packed, fp32", 9.0, track="levers", breakdown=parts),
        row_of("Trainer", 2.0, track="overhead", overhead_us={"median": 100.0, "min": 90.0, "max": 120.0}),
    ]
    report.replace(tmp_path / "bench-x.json", "r", rows)
    assert [row["system"] for row in pictures.newest_by_track(rows)["D"]] == ["Trainer"]
    written = pictures.draw(tmp_path / "bench-x.json")
    assert [p.name for p in written] == ["bench-x-D.png", "bench-x-D-steps.png", "bench-x-levers.png", "bench-x-overhead.png"]
    assert all(p.stat().st_size > 5000 for p in written)


# ------------------------------------------------------------------------------------------------------ the other commands


def test_the_workload_survives_its_file_and_is_cut(tmp_path):
    WORKLOAD.save(tmp_path / "t.npz")
    stored = Workload.load(tmp_path / "t.npz")
    assert np.array_equal(stored.ids, WORKLOAD.ids) and stored.name == WORKLOAD.name
    short = stored.cut(8)
    assert short.lengths.max() == 8
    row = int(np.argmax(stored.lengths))
    assert short.ids[short.offsets[row + 1] - 1] == stored.ids[stored.offsets[row + 1] - 1]  # the last token stays


def test_texts_of_a_file_are_tokenised(tmp_path):
    from bench.toys.tiny import save_model

    save_model(tmp_path / "model")
    (tmp_path / "t.csv").write_text("review,stars\nw1 w2 w3,5\nw4,1\nw5 w6,1\n")
    workload = tokenise(str(tmp_path / "t.csv"), str(tmp_path / "model"), 4, 10, "review", "stars")
    assert sorted(workload.lengths.tolist()) == [3, 4, 4] and sorted(workload.labels.tolist()) == [0, 0, 1]


def test_a_file_of_another_kind_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.contest.setting.matmul_rates", lambda *_: pytest.fail("measured"))
    (tmp_path / "other.json").write_text('{"rows": []}')
    (tmp_path / "other.npz").write_text("no")
    WORKLOAD.save(tmp_path / "t.npz")
    np.savez(tmp_path / "half.npz", ids=np.arange(3))
    tiny = ["--model", "random:tiny", "--max-length", "20"]
    for argv, words in (
        (["--results", str(tmp_path / "other.json")], "other.json is no results file of the bench"),
        (["--tokens", str(tmp_path / "none.npz")], "none.npz is no file of python -m bench tokens: FileNotFoundError"),
        (["--tokens", str(tmp_path / "other.npz")], "other.npz is no file of python -m bench tokens"),
        (["--tokens", str(tmp_path / "half.npz")], "half.npz is no file of python -m bench tokens: KeyError"),
    ):
        assert main([*argv, *tiny]) == 3
        assert words in capsys.readouterr().err
    assert main(["--model", str(tmp_path), "--data", "random"]) == 4
    assert "neither a folder with a model, nor one that the Hub gives" in capsys.readouterr().err
    foreign = dataclasses.replace(WORKLOAD, ids=WORKLOAD.ids + 1000)
    foreign.save(tmp_path / "foreign.npz")
    assert main(["--tokens", str(tmp_path / "foreign.npz"), *tiny]) == 2
    assert "has a vocabulary of 128 tokens, and the rows hold token 1,0" in capsys.readouterr().err


def test_a_track_on_random_tokens_needs_no_texts(tmp_path, monkeypatch):
    """As the docstring of compare has it: --track LM --model random:gpt2, whose tokenizer nobody has."""
    held = []
    monkeypatch.setattr("bench.contest.setting.matmul_rates", lambda *_: {"fp32": 1.0})
    monkeypatch.setattr("bench.contest.setting.make_workload", lambda options: pytest.fail("texts were read"))
    monkeypatch.setattr("bench.contest.setting.Setting.hold", lambda self, jobs, workload, title: held.append(jobs) or [])
    argv = ["--track", "LM", "overhead", "--model", "random:tiny-gpt2", "--max-length", "40", "--rows", "9", "--no-pictures"]
    assert main([*argv, "--results", str(tmp_path / "r.json")]) == 0
    assert [[*{job.track for job in jobs}] for jobs in held] == [["LM"], ["overhead"]]


def test_rows_shorter_than_usual_can_be_drawn_at_random():
    assert tokenise("random", "random:tiny", 4, 5, "", "").lengths.tolist() == [4] * 5


def test_tokens_writes_the_file(tmp_path, capsys):
    assert main(["tokens", str(tmp_path / "o.npz"), "--data", "random", "--rows", "5", "--max-length", "9"]) == 0
    assert len(Workload.load(tmp_path / "o.npz").labels) == 5


def test_steps_prints_a_rate(tmp_path, capsys):
    from bench.toys.tiny import save_model

    save_model(tmp_path / "model")
    lines = ["text,label", *(f"w{i % 50} w{i % 7},{i % 2}" for i in range(20))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    argv = ["--task", "classification", "--train-file", str(tmp_path / "t.csv"), "--model", str(tmp_path / "model")]
    assert steps.main([*argv, "--steps", "3", "--warmup", "2", "--batch-size", "4", "--device", "cpu"]) == 0
    assert "steps/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["gpu", "--tokens", "t.npz"], ["--gpu", "--tokens", "t.npz"], ["--tokens", "t.npz", "--gpu", "--rows", "9"]]
)
def test_the_gpu_session_is_printed_in_parts(argv, capsys):
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(programme.PARTS) and all(
        f"python -m bench gpu {part} --tokens t.npz" in line for part, line in zip(programme.PARTS, lines, strict=True)
    )
    assert all(("--rows 9" in line) == ("--rows" in argv) for line in lines), "with all flags that were given"


def test_the_parts_of_a_gpu_session_are_what_their_lines_say(monkeypatch):
    monkeypatch.setattr("bench.contest.report.results_path", lambda device: "r.json")
    seen = {}
    for module, name in (("compare", "compare"), ("levers", "run")):
        monkeypatch.setattr(f"bench.contest.{module}.{name}", lambda options: seen.update(vars(options)) or [])
    for part in programme.CONTESTS:
        assert main(["gpu", part, "--device", "cpu"]) == 0
        said = programme.PARTS[part]
        assert f"batch {seen['batch_size']}" in said or part == "overhead", said
        assert {"DistilBERT": "random:distilbert", "BERT-base": "random:bert", "GPT-2": "random:gpt2"}.get(
            next((name for name in ("DistilBERT", "BERT-base", "GPT-2") if name in said), ""), seen["model"]
        ) == seen["model"]
        main(["gpu", part, "--device", "cpu", "--model", "minilm", "--batch-size", "7"])
        assert (seen["model"], seen["batch_size"]) == ("minilm", 7), "what is given takes the place of the part's own"


def test_a_quick_gpu_session_has_tiny_models_and_what_is_given(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(programme, "run", lambda part, options: seen.update({part: options}) or 0)
    assert main(["gpu", "all", "--quick", "--steps", "7", "--device", "cpu"]) == 0
    assert list(seen) == list(programme.PARTS) and {options.steps for options in seen.values()} == {7}
    assert {part: options.model for part, options in seen.items() if options.model != "random:tiny"} == {
        "language": "random:tiny-gpt2"
    }
    assert capsys.readouterr().out.count("(--quick: of a tiny model)") == len(programme.PARTS)


def test_a_wrong_number_ends_the_gpu_session(monkeypatch, tmp_path, capsys):
    checks = {"right": lambda device: {"ok": True}, "wrong": lambda device: {"ok": False}, "broken": lambda device: 1 / 0}
    monkeypatch.setattr("bench.gpu.correctness.CHECKS", checks)
    assert main(["gpu", "all", "--quick", "--device", "cpu", "--results", str(tmp_path)]) == 1
    assert "# launches" not in capsys.readouterr().out
    found = json.loads((tmp_path / "gpu-correctness-cpu.json").read_text())["checks"]
    assert [row["ok"] for row in found.values()] == [True, False, False] and "ZeroDivisionError" in found["broken"]["error"]


@pytest.mark.slow
def test_the_gpu_session_runs_on_a_cpu_from_end_to_end(capsys, tmp_path):
    assert main(["gpu", "all", "--quick", "--device", "cpu", "--no-pictures", "--results", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"gpu-correctness-cpu.json", "gpu-launches-cpu.json", "bench-cpu.json"}
    rows = json.loads((tmp_path / "bench-cpu.json").read_text())
    assert {"D", "S bf16", "B", "LM", "overhead", "levers"} == {row["track"] for row in rows} and all(
        row["valid"] for row in rows
    )
