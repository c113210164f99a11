"""What the contest does on a GPU, as far as it can be seen without one: its jobs, its batches, compilers out of time."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DataCollatorWithFlattening

from bench.contest import compare, contest, report, tracks
from bench.contest.contenders import plain_loop, plainloop, trainer
from bench.contest.job import Job
from bench.contest.label import label
from bench.contest.language import LanguageTask, language_workload
from bench.contest.ready import ReadyData, collated, ready_loader
from bench.contest.timing import Channel, Gate
from bench.contest.validity import reasons
from bench.contest.worker import train
from bench.contest.workload import Features, build_model, collator, model_config, random_workload
from engine.build import build

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WORKLOAD = random_workload(30, 4, 20)
LANGUAGE = language_workload(30, 40, 128)


def a_job(**changes):
    job = Job("plain loop", tracks.MODULES["plain_loop"], "S fp32", "-", "random:tiny", batch_size=4, max_length=40, warmup=2,
              steps=3, windows=2, precollated=True)  # fmt: skip
    return dataclasses.replace(job, **changes)


class Going(io.StringIO):
    """A parent that always says go."""

    def readline(self, *_):
        return "go\n"


def run_here(job, workload):
    """Both phases in this process; the progress that the last window carries, and all messages."""
    stream = io.StringIO()
    channel = Channel(stream, Going())
    check, _ = train(job, workload, channel, CPU, check=True)
    train(job, workload, channel, CPU, check=False, before=check)
    sent = [json.loads(line) for line in stream.getvalue().splitlines()]
    return sent[-1]["progress"] | {"system": job.system, "tf32": False}, sent


# ------------------------------------------------------------------------------------------------------------ the jobs


@pytest.fixture
def on_cuda(monkeypatch):
    """Jobs as for a CUDA device with bf16."""
    monkeypatch.setattr("engine.precision.has_native_bf16", lambda device: True)
    return lambda track, **more: tracks.jobs_of(track, a_job(precollated=False), CUDA, **more)


def test_on_cuda_no_contender_of_s_and_b_collates_in_its_steps(on_cuda):
    for track in ("S", "B"):
        assert all(job.precollated for job in on_cuda(track, precision="bf16")), track
    assert not any(job.precollated for job in on_cuda("D"))
    assert not any(job.precollated for track in "DSB" for job in tracks.jobs_of(track, a_job(precollated=False), CPU))


def test_b_has_the_fairest_peer_with_cuda_graphs_ours_choose_them_by_themselves(on_cuda):
    graphed = {job.system: job for job in on_cuda("B") if job.cuda_graph}
    assert list(graphed) == ["plain loop, buckets of 64, compiled, CUDA graphs"]
    peer = graphed["plain loop, buckets of 64, compiled, CUDA graphs"]
    assert (peer.precision, peer.batching, peer.round_to, peer.attention) == ("bf16", "bucketed", 64, "sdpa")
    assert "Trainer, compiled" in [job.system for job in on_cuda("B")]
    assert not any(job.cuda_graph for job in tracks.jobs_of("B", a_job(), CPU))
    ours = {job.system: job.cuda_graph for job in on_cuda("S", precision="bf16") if "Plainloop" in job.system}
    assert ours == {"Plainloop": None, "Plainloop, no CUDA graphs": False, "Plainloop, padded": None}


def test_flex_attention_races_where_the_model_knows_it(on_cuda, monkeypatch):
    def names(model):
        return [job.system for job in tracks.jobs_of("LM", a_job(model=model), CUDA)]

    assert "Trainer, flattened, flex_attention" in names("random:llama")
    assert "Trainer, flattened, sdpa" in names("random:gpt2") and "Trainer, flattened, flex_attention" not in names(
        "random:gpt2"
    )
    assert all(job.task == "language" and job.precollated for job in on_cuda("LM"))


def test_settings_of_plainloop_say_whether_graphs_are_recorded(monkeypatch):
    class Seen(Exception):
        pass

    def look(**settings):
        raise Seen(settings)

    monkeypatch.setattr(plainloop, "TrainConfig", look)
    monkeypatch.setattr(plainloop.engine.build, "keep_freed_memory", lambda: False)
    for job, expected in ((a_job(cuda_graph=True), "on"), (a_job(cuda_graph=False), "off"), (a_job(), "auto")):
        with pytest.raises(Seen) as seen:
            plainloop.train(job, WORKLOAD, torch.nn.Linear(1, 1), SimpleNamespace())
        assert seen.value.args[0].get("cuda_graph") == expected


def test_the_peer_with_graphs_compiles_for_them_and_records_every_shape_before_training(monkeypatch):
    calls, shapes = [], []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: calls.append(how))
    record = plain_loop.record_graphs
    monkeypatch.setattr(
        plain_loop,
        "record_graphs",
        lambda batches, *rest: shapes.extend(b["input_ids"].shape for b in batches) or record(batches, *rest),
    )
    done, _ = run_here(a_job(batching="bucketed", cuda_graph=True, compile=True, round_to=8, tuned=True), WORKLOAD)
    assert calls == [{"dynamic": True, "mode": "reduce-overhead"}] * 2
    assert {width for _, width in shapes} <= {8, 16, 24} and len(done["timed"]["losses"]) == 8
    plain, _ = run_here(a_job(), WORKLOAD)
    assert reasons(a_job(batching="bucketed"), done, WORKLOAD.lengths, [plain]) == []  # starting weights the same, too


def test_plainloop_records_every_shape_and_keeps_its_weights(monkeypatch):
    monkeypatch.setattr(plainloop, "build", lambda *a: dataclasses.replace(build(*a), graphs=True))
    recorded = []
    accumulate = plainloop.loop.accumulate
    monkeypatch.setattr(plainloop.loop, "accumulate", lambda *a: recorded.append(len(a[2])) or accumulate(*a))
    job = a_job(contender=tracks.MODULES["plainloop"], batching="auto")
    done, _ = run_here(job, WORKLOAD)
    assert len(recorded) > 3 + 8  # the steps of both phases, and more
    plain, _ = run_here(a_job(), WORKLOAD)
    assert reasons(job, done, WORKLOAD.lengths, [plain]) == []


# --------------------------------------------------------------------------------------------------------- the batches


def test_collated_batches_are_those_of_transformers_collators():
    features = Features(WORKLOAD)
    for batching in ("padded", "max_length"):
        job = a_job(batching=batching)
        theirs = collator(job)([{k: v for k, v in features[row].items() if k != "row"} for row in (3, 1, 7)])
        ours = collated(job, WORKLOAD, [3, 1, 7])
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    rounded = collated(a_job(round_to=16), WORKLOAD, [3, 1, 7])
    assert rounded["input_ids"].shape[1] % 16 == 0 and rounded["attention_mask"].sum() == WORKLOAD.lengths[[3, 1, 7]].sum()
    flat = DataCollatorWithFlattening()(
        [{"input_ids": WORKLOAD.ids[a:b].tolist()} for a, b in zip(WORKLOAD.offsets[:3], WORKLOAD.offsets[1:4], strict=True)]
    )
    mine = collated(a_job(batching="flattened", task="language"), WORKLOAD, [0, 1, 2])
    assert flat.keys() == mine.keys() and all(torch.equal(flat[name], mine[name]) for name in mine)


@pytest.mark.parametrize("system", list(tracks.SYSTEMS))
def test_every_system_takes_batches_that_are_made_already(system, monkeypatch):
    """And the gate finds the work equal; not one row is collated within a step."""
    plain, _ = run_here(a_job(), WORKLOAD)
    monkeypatch.setattr(plain_loop, "collator", None)
    monkeypatch.setattr(trainer, "collator", lambda job: lambda rows: pytest.fail("collated in a step"))
    job = a_job(
        system=system, contender=tracks.MODULES[system], batching="auto" if system == "plainloop" else "padded", settle=1
    )
    baseline = plain if job.settle == 0 else run_here(a_job(settle=1), WORKLOAD)[0]
    done, sent = run_here(job, WORKLOAD)
    assert reasons(job, done, WORKLOAD.lengths, [baseline]) == []
    assert [m["event"] for m in sent] == ["ready", "window", "window"]
    assert all(len(m["step_s"]) == 3 for m in sent[1:])  # the step before the clock is not among them


def test_a_made_loader_hands_out_batches_and_the_gate_sees_their_rows():
    gate = Gate(a_job(), Channel(io.StringIO(), Going()), CPU, check=True)
    loader = ready_loader(a_job(), WORKLOAD, gate)
    assert len(list(loader)) == 3 == len(gate.queue) and all(len(counts.rows) == 4 for counts in gate.queue)


def test_plainloops_batches_are_made_once():
    made = [("at", ["batch"])] * 5
    data = ReadyData(SimpleNamespace(steps=lambda: iter(made)), 3)
    assert list(data.steps()) == made[:3] and list(data.steps(start=2)) == made[2:3]


# ---------------------------------------------------------------------------------------------------- language models


@pytest.mark.parametrize("model", ["random:tiny-gpt2", "random:tiny-llama"])
def test_flattened_rows_do_not_see_each_other(model):
    """With transformers' sdpa and without flash-attn: a control that joins the rows differs."""
    job = a_job(model=model, task="language")
    network = build_model(job, 2, dropout=False).eval()
    padded, flat = (collated(dataclasses.replace(job, batching=b), LANGUAGE, [0, 1, 2]) for b in ("padded", "flattened"))
    real = padded["attention_mask"].bool()
    expected = network(**padded).logits[real]
    assert torch.allclose(network(**flat).logits[0], expected, atol=1e-5)
    joined = network(input_ids=flat["input_ids"], position_ids=flat["position_ids"], use_cache=True).logits[0]
    assert not torch.allclose(joined, expected, atol=1e-3)  # a KV cache turns the mask off


@pytest.mark.parametrize("model", ["random:tiny-gpt2", "random:tiny-llama"])
@pytest.mark.slow
def test_language_models_do_equal_work(model):
    base = a_job(model=model, task="language", track="LM")
    peer, _ = run_here(base, LANGUAGE)
    for changes in (
        {"system": "Plainloop", "contender": tracks.MODULES["plainloop"], "batching": "auto"},
        {"system": "Trainer", "contender": tracks.MODULES["trainer"]},
        {"system": "Trainer, flattened", "contender": tracks.MODULES["trainer"], "batching": "flattened"},
    ):
        job = dataclasses.replace(base, **changes)
        done, sent = run_here(job, LANGUAGE)
        assert reasons(job, done, LANGUAGE.lengths, [peer]) == [], changes["system"]
        if job.batching != "padded":
            assert sent[-1]["executed_tokens"] == sent[-1]["num_tokens"]
    job = dataclasses.replace(base, learning_rate=base.learning_rate)
    flops = report.flop_count(model, "language", 2)
    counts = {"num_tokens": 10, "examples": 2, "sum_squares": 50}
    assert report.flops_of(flops, job, counts) == flops(10, 50, 2, 8)


def test_rows_of_conversations_have_their_lengths():
    workload = language_workload(4000, 1024, 500)
    assert 350 < workload.lengths.mean() < 420 and workload.lengths.max() == 1024 and workload.ids.max() < 500
    assert len(LanguageTask(workload, 1024).labels_of({"input_ids": np.arange(3)})) == 3
    size = sum(p.numel() for p in AutoModelForCausalLM.from_config(model_config("random:tiny-llama", 2)).parameters())
    assert size < 100_000
    with torch.device("meta"):
        llama = AutoModelForCausalLM.from_config(model_config("random:llama", 2))
        gpt2 = AutoModelForCausalLM.from_config(model_config("random:gpt2", 2))
    assert [round(sum(p.numel() for p in m.parameters()) / 1e6) for m in (llama, gpt2)] == [495, 124]


# -------------------------------------------------------------------------------------------- budgets and what is kept


@pytest.mark.slow
def test_a_contender_that_is_not_ready_in_time_is_out_and_the_others_race_on(tmp_path, monkeypatch):
    WORKLOAD.save(tmp_path / "t.npz")
    monkeypatch.setenv("PLAINLOOP_CACHE", str(tmp_path))
    job = a_job(tokens=str(tmp_path / "t.npz"))
    slow = dataclasses.replace(job, system="slow", contender="time:sleep")  # called as sleep(job, ...): it ends at once
    never = dataclasses.replace(job, system="never", contender="tests.bench.never:train")
    kept = []
    contenders = contest.run([job, slow, never], ready_s=20, keep=lambda all: kept.append([len(c.windows) for c in all]))
    assert contenders[0].error is None and len(contenders[0].windows) == 2
    assert "no 'ready' from it" in contenders[1].error and "in time" not in contenders[1].error
    assert "no 'ready' from it in time" in contenders[2].error
    compiler = int(contenders[2].error.split()[-1])
    with pytest.raises(ProcessLookupError):  # it would slow the others down
        for _ in range(100):
            os.kill(compiler, 0)
            time.sleep(0.1)
    assert kept == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_a_contender_without_the_graphs_it_was_to_record_says_so_in_its_row(tmp_path):
    (tmp_path / "log").write_text("a warning\nCUDA graphs: off, because a step cannot be recorded (why)\n")
    assert contest.said_about_graphs(tmp_path / "log") == "CUDA graphs: off, because a step cannot be recorded (why)"
    assert contest.said_about_graphs(tmp_path / "none") == ""


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_what_was_measured_is_in_the_file_when_the_contest_is_killed(tmp_path, monkeypatch):
    WORKLOAD.save(tmp_path / "t.npz")
    monkeypatch.setenv("PLAINLOOP_CACHE", str(tmp_path))
    race, results = contest.race, tmp_path / "r.json"

    def killed(contender, window, seconds):
        if window == 1 and contender.job.system == "plain loop":
            raise Killed
        race(contender, window, seconds)

    monkeypatch.setattr(contest, "race", killed)
    options = compare.with_defaults(
        model="random:tiny", tokens=str(tmp_path / "t.npz"), batch_size=4, max_length=20, steps=2, windows=2, warmup=1, device="cpu",
        track=["S"], precision=["fp32"], systems=["plainloop", "plain_loop"], matmul_sizes=[32], results=str(results),
    )  # fmt: skip
    with pytest.raises(Killed):
        compare.compare(options)
    rows = {row["system"]: row for row in report.load(results)}
    assert rows["plain loop"]["valid"] and rows["plain loop"]["work"]["windows"] == [1, 2]
    assert rows["Plainloop"]["valid"] and rows["Plainloop"]["work"]["steps"] == 2


def test_the_rows_of_a_contest_take_the_place_of_its_older_ones(tmp_path):
    path = tmp_path / "r.json"
    report.replace(path, "a", [{"run_id": "a", "n": 1}])
    report.replace(path, "b", [{"run_id": "b", "n": 2}])
    report.replace(path, "a", [{"run_id": "a", "n": 3}])
    assert [row["n"] for row in report.load(path)] == [2, 3]


def test_memory_is_given_back_when_the_others_need_it(monkeypatch):
    given = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(1))
    gate = Gate(a_job(), Channel(io.StringIO(), Going()), CPU, check=False)
    gate.device = CUDA
    for free in (10, 90):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 100))
        gate._release()
    assert given == [1]


def test_names_say_what_is_computed_in():
    def named(system, **flags):
        return label({"system": system, "flags": flags})

    assert named("Trainer", precision="fp32", tf32=False) == "Trainer (fp32)"
    assert named("Trainer", precision="fp32", tf32=True) == "Trainer (tf32)"
    assert named("Plainloop", precision="bf16", tf32=True) == "Plainloop (bf16)"
    assert named("packed, bf16", precision="bf16") == "packed, bf16" and named("old row") == "old row"


def test_compilers_run_beside_the_others_on_a_gpu_within_one_budget():
    """All that compile are let go first; what they have left of the budget counts from there."""
    log = []

    class Fake:
        error = None

        def __init__(self, name, **choices):
            self.job = a_job(system=name, device="cuda", **choices)

        def go(self):
            log.append(f"go {self.job.system}")

        def read(self, expected, seconds):
            log.append(f"{expected} {self.job.system}")
            assert 0 < seconds <= 50
            return {}

    contest.make_ready([Fake("a"), Fake("b", compile=True), Fake("c", compile=True)], 50)
    assert log == ["go b", "go c", "go a", "ready a", "ready b", "ready c"]
