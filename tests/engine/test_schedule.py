"""Schedules under transformers' names: the same rates as transformers gives, a minimum, and what is refused in one line."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.errors import UsageError
from engine.optimizer import make_optimizer
from engine.schedule import FLAT, FLOORS, SCHEDULES, make_schedule
from engine.settings.parser import parse

ROOT = Path(__file__).parent.parent.parent
PEAK = 3e-5
LEAST = 7e-6
FOLLOW_A_METRIC = {"reduce_lr_on_plateau", "greedy"}
NEEDED = {"warmup_stable_decay": "num_decay_steps=10"}  # what transformers does not do without
HAVE_A_MINIMUM = {"cosine_with_min_lr", "cosine_warmup_with_min_lr"}
GOING_DOWN = [name for name in SCHEDULES if name not in FLAT]


def used(schedule, optimizer, num_steps: int) -> list[float]:
    """The rate of each step, and the one after the last."""
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def ours(name: str, num_steps: int = 40, **more) -> list[float]:
    more.setdefault("schedule_options", NEEDED.get(name))
    if name in HAVE_A_MINIMUM:
        more.setdefault("min_learning_rate", LEAST)
    config = TrainConfig(learning_rate=PEAK, schedule=name, **more)
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    return used(make_schedule(optimizer, config, num_steps), optimizer, num_steps)


def theirs(name: str, warmup: int, num_steps: int = 40, **options) -> list[float]:
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=PEAK)
    schedule = get_scheduler(name, optimizer, warmup, num_steps, scheduler_specific_kwargs=options)
    return used(schedule, optimizer, num_steps)


def test_the_names_are_transformers():
    """All but those that follow a metric; a version with one more fails here, and then it is to be added or left out."""
    kinds = {kind.value for kind in SchedulerType}
    assert set(SCHEDULES) <= kinds <= set(SCHEDULES) | FOLLOW_A_METRIC, "an older version knows no greedy"
    assert len(set(SCHEDULES)) == len(SCHEDULES) and not FOLLOW_A_METRIC & set(SCHEDULES)
    assert set(FLOORS) < set(SCHEDULES)


def test_help_lists_them_without_torch():
    code = (
        "import sys; from engine.config import TrainConfig; from engine.settings.parser import make_parser; text = make_parser('run.py', [TrainConfig]).format_help()"
        "; assert 'torch' not in sys.modules; print(' '.join(text.split()))"
    )
    text = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert ", ".join(SCHEDULES) in text.replace("- ", "-")


@pytest.mark.parametrize("warmup", [0, 1, 10])
@pytest.mark.parametrize("name", SCHEDULES)
def test_each_is_transformers_at_every_step(name, warmup):
    options = {"num_decay_steps": 10} if name in NEEDED else {"min_lr": LEAST} if name in HAVE_A_MINIMUM else {}
    expected = theirs("constant_with_warmup" if name == "constant" else name, warmup, **options)
    assert ours(name, warmup_steps=warmup) == expected


@pytest.mark.parametrize(("name", "text", "options"), [
    ("cosine_with_restarts", "num_cycles=3", {"num_cycles": 3}),
    ("cosine", "num_cycles=0.25", {"num_cycles": 0.25}),
    ("polynomial", "power=2", {"power": 2}),
    ("inverse_sqrt", "timescale=20", {"timescale": 20}),
    ("warmup_stable_decay", "num_decay_steps=12, decay_type=1-sqrt", {"num_decay_steps": 12, "decay_type": "1-sqrt"}),
])  # fmt: skip
def test_options_are_transformers(name, text, options):
    assert ours(name, warmup_steps=5, schedule_options=text) == theirs(name, 5, **options)
    assert theirs(name, 5, **options) != theirs(name, 5, **({"num_decay_steps": 12} if name in NEEDED else {}))


@pytest.mark.parametrize("least", [None, LEAST])
@pytest.mark.parametrize("warmup", [0, 7, 40])
def test_one_of_ours_has_a_warm_up_a_minimum_and_options(monkeypatch, warmup, least):
    """Its function counts from the end of the warm-up, and knows of neither."""
    monkeypatch.setitem(SCHEDULES, "root", lambda step, num_steps, power=0.5: 1 - (step / num_steps) ** power)
    after = [1 - (step / max(40 - warmup, 1)) ** 0.8 for step in range(41 - warmup)]
    share = (least or 0) / PEAK
    expected = [step / warmup for step in range(warmup)] + [f * (1 - share) + share for f in after]
    found = ours("root", warmup_steps=warmup, min_learning_rate=least, schedule_options="power=0.8")
    np.testing.assert_allclose(found, [f * PEAK for f in expected], rtol=1e-12)


@pytest.mark.parametrize(("function", "text"), [
    (lambda step, num_steps: 1 - 2 * step / num_steps, "the learning rate would be -"),
    (lambda step, num_steps: 1 / step, "division by zero"),
    (lambda step: 1.0, "takes 1 positional argument but 2 were given"),
])  # fmt: skip
def test_one_of_ours_that_would_fail_in_the_middle_is_refused_before_it(monkeypatch, function, text):
    monkeypatch.setitem(SCHEDULES, "mine", function)
    with pytest.raises(UsageError, match=f"--schedule mine, 0 of 40 steps of warm-up: .*{text}"):
        ours("mine")


def test_a_ratio_and_a_number_of_steps_say_the_same():
    assert ours("cosine", warmup_ratio=0.1, num_steps=33) == ours("cosine", warmup_steps=4, num_steps=33)
    assert ours("linear", warmup_steps=0) == ours("linear")


# --------------------------------------------------------------------------------------------------------- the minimum


@pytest.mark.parametrize(("name", "same", "options"), [
    ("cosine", "cosine_with_min_lr", {"min_lr": LEAST}),
    ("cosine_with_min_lr", "cosine_with_min_lr", {"min_lr": LEAST}),
    ("cosine_warmup_with_min_lr", "cosine_warmup_with_min_lr", {"min_lr": LEAST}),
    ("polynomial", "polynomial", {"lr_end": LEAST}),
    ("warmup_stable_decay", "warmup_stable_decay", {"num_decay_steps": 10, "min_lr_ratio": LEAST / PEAK}),
])  # fmt: skip
@pytest.mark.parametrize("warmup", [0, 7])
def test_where_transformers_has_a_minimum_it_is_that_one(name, same, options, warmup):
    assert ours(name, warmup_steps=warmup, min_learning_rate=LEAST) == theirs(same, warmup, **options)


@pytest.mark.parametrize("name", ["linear", "cosine_with_restarts", "inverse_sqrt"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_elsewhere_it_is_the_same_formula(name, warmup):
    """Written down: after the warm-up, f * (1 - m) + m; in it, from 0 as ever. Float64 rounds in its 16th digit."""
    share = LEAST / PEAK
    plain = np.array(theirs(name, warmup)) / PEAK
    expected = [f * PEAK if step < warmup else (f * (1 - share) + share) * PEAK for step, f in enumerate(plain)]
    np.testing.assert_allclose(ours(name, warmup_steps=warmup, min_learning_rate=LEAST), expected, rtol=1e-14)


@pytest.mark.parametrize("name", GOING_DOWN)
def test_with_a_minimum_no_rate_after_the_warm_up_is_below_it(name):
    found = ours(name, warmup_steps=5, min_learning_rate=LEAST)
    assert min(found[5:]) >= LEAST * (1 - 1e-12) and max(found) <= PEAK * (1 + 1e-12)
    last = found[-2] if name == "cosine_warmup_with_min_lr" else found[-1]  # that one is there in the last step
    assert name == "inverse_sqrt" or last == pytest.approx(LEAST, rel=1e-12), "inverse_sqrt never ends"


def test_the_minimum_of_the_head_is_in_proportion():
    """The schedule scales all rates alike."""
    config = TrainConfig(learning_rate=1e-3, head_learning_rate=1e-2, min_learning_rate=1e-4)
    optimizer = make_optimizer(tiny.bert(), config)
    schedule = make_schedule(optimizer, config, 10)
    for _ in range(10):
        optimizer.step()
        schedule.step()
    assert {round(group["lr"], 12) for group in optimizer.param_groups} == {1e-4, 1e-3}


def test_a_rewritten_schedule_counts_the_steps_once_and_is_saved(capsys):
    config = TrainConfig(learning_rate=1e-3, min_learning_rate=1e-4, warmup_steps=2)
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    schedule = make_schedule(optimizer, config, 10)
    assert schedule.last_epoch == 0 and optimizer.param_groups[0]["initial_lr"] == 1e-3
    for _ in range(4):
        optimizer.step()
        schedule.step()
    again = make_schedule(make_optimizer(nn.Linear(2, 2), config), config, 10)
    again.load_state_dict({**schedule.state_dict(), "lr_lambdas": again.state_dict()["lr_lambdas"]})
    assert again.last_epoch == 4 and again.get_last_lr() == schedule.get_last_lr()
    assert not capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("settings", "text"), [
    ({"schedule": "reduce_lr_on_plateau"}, "--schedule reduce_lr_on_plateau follows a metric, and here the learning rate is"),
    ({"schedule": "greedy"}, "--schedule greedy follows a metric"),
    ({"schedule": "sqrt"}, "--schedule must be one of linear, cosine, "),
    ({"warmup_steps": -1}, "--warmup-steps must not be negative, found -1"),
    ({"warmup_steps": 5, "warmup_ratio": 0.06}, "--warmup-steps 5 and --warmup-ratio 0.06 contradict each other"),
    ({"min_learning_rate": -1e-6}, "--min-learning-rate must be at least 0 and less than --learning-rate 2e-05, found -1e-06"),
    ({"min_learning_rate": 2e-5}, "--min-learning-rate must be at least 0 and less than --learning-rate 2e-05, found 2e-05"),
    ({"min_learning_rate": math.nan}, "--min-learning-rate must be at least 0"),
    ({"min_learning_rate": 0.0, "schedule": "constant"}, "--min-learning-rate: the schedule constant does not go down"),
    ({"schedule": "cosine_with_min_lr"}, "--schedule cosine_with_min_lr needs --min-learning-rate"),
    ({"schedule": "cosine_warmup_with_min_lr"}, "--schedule cosine_warmup_with_min_lr needs --min-learning-rate"),
    ({"schedule": "warmup_stable_decay"}, "--schedule warmup_stable_decay needs --schedule-options num_decay_steps=N"),
    ({"schedule": "polynomial", "schedule_options": "lr_end=1e-6"}, "--schedule-options lr_end: give --min-learning-rate"),
    ({"schedule": "polynomial", "schedule_options": "power"}, "--schedule-options must be NAME=NUMBER, comma-separated"),
    ({"schedule": "polynomial", "schedule_options": ""}, "--schedule-options must be NAME=NUMBER, comma-separated"),
    ({"schedule": "polynomial", "schedule_options": "power=2,power=3"}, "--schedule-options must be NAME=NUMBER"),
    ({"schedule": "constant", "schedule_options": "power=2"}, "--schedule-options: the schedule constant has none"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(settings, text):
    with pytest.raises(UsageError) as caught:
        TrainConfig(**settings)
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("settings", "text"), [
    ({"warmup_steps": 41}, "--warmup-steps 41 is more than the 40 steps of the run"),
    ({"schedule": "linear", "schedule_options": "power=2"}, "unexpected keyword argument 'power'"),
    ({"schedule": "polynomial", "schedule_options": "power=two", "warmup_steps": 3}, "--schedule-options power=two"),
    ({"schedule": "polynomial", "schedule_options": "power=-1", "warmup_steps": 3}, "--schedule-options power=-1"),
    ({"schedule": "polynomial", "warmup_steps": 40}, "40 of 40 steps of warm-up"),
    ({"schedule": "inverse_sqrt", "schedule_options": "timescale=0"}, "--schedule-options timescale=0"),
    ({"schedule": "warmup_stable_decay", "schedule_options": "num_decay_steps=30", "warmup_steps": 11}, "longer than the run"),
    ({"schedule": "warmup_stable_decay", "schedule_options": "num_decay_steps=ten"}, "num_decay_steps=ten"),
    ({"schedule": "warmup_stable_decay", "schedule_options": "num_decay_steps=5,decay_type=no"}, "Unknown decay type"),
    ({"schedule": "cosine", "schedule_options": "num_cycles=nan", "warmup_steps": 3}, "num_cycles must be a finite"),
])  # fmt: skip
def test_what_would_fail_in_the_middle_of_the_run_is_refused_before_it(settings, text):
    """The last of them: a rate that is not a number."""
    config = TrainConfig(**settings)
    with pytest.raises(UsageError) as caught:
        make_schedule(make_optimizer(nn.Linear(2, 2), config), config, 40)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_the_flags_reach_the_run():
    argv = ["--schedule", "cosine_with_restarts", "--schedule-options", "num_cycles=2", "--warmup-steps", "2"]
    [config] = parse([*argv, "--device", "cpu", "--min-learning-rate", "1e-6", "--epochs", "1"], "run.py", [TrainConfig], {})
    setup = build(tiny.TokenTask(), tiny.token_rows(64), config, tiny.bert())
    assert setup.data.plan.num_steps == 4
    assert [setup.state.schedule.lr_lambdas[0](step) for step in range(2)] == [0.0, 0.5]
    assert setup.state.schedule.lr_lambdas[0](4) == pytest.approx(0.05)


# ------------------------------------------------------------------------- linear, cosine and constant at every step


def rates(config: TrainConfig, num_steps: int) -> list[float]:
    """The learning rate that each step uses, and the one after the last."""
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    schedule = make_schedule(optimizer, config, num_steps)
    used = []
    for _ in range(num_steps):
        used.append(optimizer.param_groups[0]["lr"])
        assert {group["lr"] for group in optimizer.param_groups} == {used[-1]} == set(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    return [*used, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("ratio", [0.0, 0.06, 0.1, 0.5, 0.99])
def test_the_linear_schedule_is_transformers_at_every_step(num_steps, ratio, tmp_path):
    config = TrainConfig(learning_rate=3e-5, warmup_ratio=ratio)
    warmup = TrainingArguments(str(tmp_path), use_cpu=True, warmup_steps=ratio).get_warmup_steps(num_steps)
    assert warmup == math.ceil(ratio * num_steps)
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=3e-5)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, num_steps)
    expected = []
    for _ in range(num_steps + 1):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates(config, num_steps) == expected
    assert expected[-1] == 0.0


def formula(kind: str, step: int, warmup: int, num_steps: int) -> float:
    if step < warmup:
        return step / warmup
    share = (step - warmup) / max(1, num_steps - warmup)
    return {"linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2, "constant": 1.0}[kind]


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25])
def test_each_schedule_is_its_formula(kind, ratio):
    """Rises from 0 in the warm-up; the first step without one uses the peak."""
    found = rates(TrainConfig(learning_rate=2e-3, warmup_ratio=ratio, schedule=kind), 40)
    expected = [2e-3 * formula(kind, step, math.ceil(ratio * 40), 40) for step in range(41)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-18)
    assert found[0] == (0.0 if ratio else 2e-3)


def test_the_warm_up_is_rounded_up():
    """10 % of 33 steps are 4, as Trainer counts them."""
    found = rates(TrainConfig(learning_rate=1.0, warmup_ratio=0.1), 33)
    assert found[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_the_schedule_scales_both_rates(tmp_path):
    config = TrainConfig(learning_rate=1e-3, head_learning_rate=1e-2, warmup_ratio=0.2)
    optimizer = make_optimizer(tiny.bert(), config)
    schedule = make_schedule(optimizer, config, 10)
    shares = []
    for _ in range(10):
        body, head = optimizer.param_groups[0]["lr"], optimizer.param_groups[-1]["lr"]
        assert head == pytest.approx(10 * body) and schedule.get_last_lr()[0] == body, "the log shows the body's"
        shares.append(body / 1e-3)
        optimizer.step()
        schedule.step()
    assert max(shares) == 1 and shares[0] == 0
