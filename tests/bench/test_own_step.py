"""``python -m bench step``: the phases of a step that is not ours are told apart, whatever loop it is in."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
from torch.nn.modules import module
from torch.utils.data import dataloader

from bench.__main__ import main
from engine.artifacts.report import read_profile
from engine.clock import PHASES

ROOT = Path(__file__).parents[2]
SLEEPS = {"data": 0.02, "forward": 0.05, "backward": 0.03, "clip": 0.0, "optimizer": 0.04}  # seconds, in the step below
SLOW_STEP = """
import time
import torch
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 100
    def __getitem__(self, i):
        time.sleep(0.02)
        return torch.ones(3)

class Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        time.sleep(0.02)
        return x.clone()
    @staticmethod
    def backward(ctx, grad):
        time.sleep(0.03)
        return grad

class Inner(torch.nn.Linear):
    def forward(self, x):
        return Slow.apply(super().forward(x))

class Optimizer(torch.optim.SGD):
    def step(self, closure=None):
        time.sleep(0.04)
        return super().step(closure)

def make():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), Inner(3, 1))
    optimizer = Optimizer(model.parameters(), lr=0.1)
    batches = iter(DataLoader(Rows()))
    def step():
        loss = model(next(batches)).sum()
        time.sleep(0.03)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        time.sleep(0.06)
    return step
"""


def test_each_part_of_a_step_is_in_its_phase(tmp_path, monkeypatch, capsys):
    """Known sleeps in the data, the model, the loss, the backward pass, the optimizer, and outside all of these."""
    monkeypatch.chdir(tmp_path)
    Path("slow.py").write_text(SLOW_STEP)
    before = torch.autograd.backward, dataloader._BaseDataLoaderIter.__next__, torch.nn.utils.clip_grad_norm_
    assert main(["step", "slow.py:make", "--steps", "2"]) == 0
    assert before == (torch.autograd.backward, dataloader._BaseDataLoaderIter.__next__, torch.nn.utils.clip_grad_norm_)
    assert not module._global_forward_pre_hooks and not module._global_forward_hooks, "nothing is left behind"
    found = read_profile(tmp_path / "runs/step-make/profile/profile.json")
    assert [step["step"] for step in found["steps"]] == [4, 5]
    for step in found["steps"]:
        assert tuple(step["phases"]) == PHASES
        for phase, seconds in SLEEPS.items():
            assert seconds <= step["phases"][phase], f"{phase}: each sleep is in one place only, so none may be short of it"
        assert step["seconds"] - sum(step["phases"].values()) >= 0.06, "what is in no phase"
    said = capsys.readouterr().out
    assert "profile    steps 4 to 5: " in said and "optimizer" in said
    trace = json.loads((tmp_path / "runs/step-make/profile/trace.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "backward" for event in trace) == 2
    page = (tmp_path / "runs/step-make/report.html").read_text()
    assert "Profiled steps" in page and "slow.py:make" in page


def test_the_example_of_the_page_stands_side_by_side(tmp_path, monkeypatch, capsys):
    """docs/profiling.md: a loop by hand, and Trainer, which makes all its steps in one call."""
    page = (ROOT / "docs/profiling.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("my_loop.py").write_text(re.search(r"A complete `my_loop.py`:\n\n```python\n(.*?)```", page, flags=re.DOTALL)[1])
    assert main(["step", "my_loop.py:by_hand"]) == 0
    capsys.readouterr()
    assert main(["step", "my_loop.py:with_trainer", "--beside", "runs/step-by_hand"]) == 0
    said = capsys.readouterr().out
    table = said[said.index("  ms a step") :].splitlines()
    assert table[0].split() == ["ms", "a", "step", "my_loop.py:with_trainer", "runs/step-by_hand"]
    threads = str(torch.get_num_threads())
    assert [line.split() for line in table[-2:]] == [["precision", "fp32", "fp32"], ["threads", threads, threads]]
    rows = {line.split()[0]: [float(cell) for cell in line.split()[-2:]] for line in table[1:-2]}
    assert {"data", "forward", "backward", "clip", "optimizer", "other"} <= set(rows)
    assert all(min(rows[name]) > 0 for name in ("data", "forward", "backward", "clip", "optimizer"))
    for column in (0, 1):
        whole = rows["a"][column]
        assert sum(cells[column] for name, cells in rows.items() if name != "a") == pytest.approx(whole, abs=0.1)


@pytest.mark.parametrize(
    ("code", "argv", "words"),
    [
        ("", ["step"], "the following arguments are required: FILE.py:FUNCTION"),
        ("", ["step", "my.txt"], "'my.txt': name a file and a function in it, FILE.py:FUNCTION"),
        ("", ["step", "none.py:make"], "none.py:make: there is no file none.py"),
        ("x = 1", ["step", "my.py:make"], "my.py:make: the file defines no function of that name"),
        ("import nowhere", ["step", "my.py:make"], "my.py:make: my.py cannot be imported: ModuleNotFoundError"),
        ("make = lambda: 1", ["step", "my.py:make"], "it returned int, and has to return a callable"),
        ("make = lambda: (lambda: None)", ["step", "my.py:make"], "1000 calls of it made no optimizer step"),
        ("make = lambda: iter(()).__next__", ["step", "my.py:make"], "its data ended after 0 optimizer steps, and 6 are needed"),
        ("", ["step", "my.py:make", "--steps", "0"], "argument --steps: must be a whole number of at least 1, found '0'"),
        ("", ["step", "my.py:make", "--beside", "."], "--beside .: there is no profile/profile.json"),
        ("", ["step", "my.py:make", "--output", "run"], "--output run holds a run or a model: name another directory"),
    ],
)  # fmt: skip
def test_what_cannot_be_profiled_is_one_line(code, argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(f"{code}\n# {time.time()}\n")
    Path("run").mkdir()
    Path("run/run.json").write_text("{}")
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ") and words in err, err


TWO = """
import torch
def make():
    lower, upper = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (lower, upper)]
    def step():
        with torch.autocast("cpu", torch.bfloat16):
            upper(lower(torch.ones(8, 3))).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    return step
"""


def test_of_several_optimizers_the_first_ends_a_step(tmp_path, monkeypatch, capsys):
    """As Muon for matrices and AdamW for the rest, or the two of a GAN."""
    monkeypatch.chdir(tmp_path)
    Path("two.py").write_text(TWO)
    assert main(["step", "two.py:make", "--steps", "2"]) == 0
    found = read_profile(tmp_path / "runs/step-make/profile/profile.json")
    assert [step["step"] for step in found["steps"]] == [4, 5] and found["run"]["precision"] == "bf16"
    assert "CPUAllocator" not in capsys.readouterr().err


def test_a_trainer_that_ends_too_early_says_how_many_steps_it_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("short.py").write_text(
        "import torch\ndef make():\n    w = torch.ones(1, requires_grad=True)\n    o = torch.optim.SGD([w], lr=0.1)\n"
        "    def train():\n        for _ in range(4):\n            w.sum().backward()\n            o.step()\n    return train\n"
    )
    assert main(["step", "short.py:make"]) == 2
    assert "the one call of it ended after 4 optimizer steps, and 6 are needed" in capsys.readouterr().err
