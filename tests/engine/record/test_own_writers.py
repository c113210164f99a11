"""--write-to FILE.py:CLASS: the example of docs/writers.md as it stands there, and what a writer of one's own may and may not do."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import run
from bench.toys import tiny
from engine.config import TrainConfig
from engine.errors import StoppedError, UsageError
from engine.fit import fit
from engine.record.writers import MOMENTS, Writer, names_in
from tests.toys.killed import killed_after

ROOT = Path(__file__).parent.parent.parent.parent
PAGE = (ROOT / "docs/writers.md").read_text(encoding="utf-8")
CODE, COMMANDS = (PAGE.split(f"```{language}\n")[1].split("```")[0] for language in ("python", "bash"))

NOTES = """
import json
class Notes:
    def __init__(self, directory, settings, step):
        self.path = directory / "notes.jsonl"
        self.note("init", step=step, settings=settings)
    def note(self, what, **more):
        with open(self.path, "a") as stream:
            stream.write(json.dumps({"what": what, **more}) + "\\n")
    def on_log(self, step, line):
        self.note("log", step=step, line=line)
        line["seconds"] = line["loss"] = None  # its own copy
    def on_evaluate(self, step, line):
        self.note("evaluate", step=step, line=line)
    def on_save(self, step, directory):
        self.note("save", step=step, directory=str(directory), files=sorted(p.name for p in directory.iterdir()))
    def on_end(self):
        self.note("end")
    def state_dict(self):
        return {"size": self.path.stat().st_size}
    def load_state_dict(self, state):
        self.note("load", state=state)
"""


@pytest.fixture
def own(tmp_path):
    def write(code: str, kind: str = "Mine", name: str = "mine.py") -> str:
        (tmp_path / name).write_text(code)
        return f"{tmp_path / name}:{kind}"

    return write


def make(folder, name="run", **changes) -> list[dict]:
    """A run of 10 steps; its metrics.jsonl."""
    settings = {"batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "device": "cpu", "log_steps": 2, "precision": "fp32"}
    rows = {"train": tiny.token_rows(40), "evaluation": tiny.token_rows(21, seed=5)}
    fit(tiny.TokenTask(**rows), TrainConfig(**settings | changes, output_dir=str(folder / name)), tiny.bert())
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def notes(folder, name="run") -> list[dict]:
    return [json.loads(line) for line in (folder / name / "notes.jsonl").read_text().splitlines()]


# --------------------------------------------------------------------------------------------------------- the example

KILL = """
import os, signal, sys
from engine.record import run
log = run.Run.log
def and_die(self, at, micro_batches, state):
    log(self, at, micro_batches, state)
    if at.step == 9:
        os.kill(os.getpid(), signal.SIGKILL)
run.Run.log = and_die
import run
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_example_runs_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    """Killed by SIGKILL at step 9, with a checkpoint of step 4 and lines up to step 8: the file is that of a run in one piece."""
    assert len([line for line in CODE.splitlines() if line]) <= 26
    monkeypatch.chdir(tmp_path)
    Path("my_writer.py").write_text(CODE)
    tiny.save_model(tmp_path / "model", tiny.distilbert(num_labels=2).distilbert)
    for name, number, seed in (("train", 48, 0), ("eval", 16, 1)):
        with open(f"{name}.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *((text, int(w == "a")) for text, w in tiny.texts(number, seed))])
    first, second = (shlex.split(line)[2:] for line in COMMANDS.strip().splitlines())
    small = ["--model", "model", "--train-file", "train.csv", "--eval-file", "eval.csv", "--batch-size", "4", "--device", "cpu"]
    small += ["--precision", "fp32", "--save-steps", "4", "--epochs", "1"]
    first, second = ([word if word != "5" else "1" for word in words] + small for words in (first, second))  # --log-steps 1
    assert run.main([*first[: first.index("--output-dir")], *small, "--output-dir", "runs/whole"]) == 0
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILL, *first], env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [row[0] for row in csv.reader(Path("runs/smooth/smooth.csv").read_text().splitlines())][-1] == "9", (
        "further than its checkpoint"
    )
    assert run.main(second) == 0
    rows = Path("runs/smooth/smooth.csv").read_text()
    assert rows == Path("runs/whole/smooth.csv").read_text()
    assert [row.split(",")[:2] for row in rows.splitlines()[1:]] == [[str(n), "train"] for n in range(1, 13)] + [["12", "eval"]]
    lines = [json.loads(line) for line in Path("runs/smooth/metrics.jsonl").read_text().splitlines()]
    mean = None
    for line, row in zip((line for line in lines if line["kind"] == "train"), rows.splitlines()[1:], strict=False):
        mean = line["loss"] if mean is None else 0.9 * mean + 0.1 * line["loss"]
        assert float(row.split(",")[2]) == mean, "the state has come through the checkpoint to the last bit"


def test_the_page_names_every_method():
    assert all(f"`{name}(" in PAGE for name in (*MOMENTS, "state_dict", "load_state_dict"))
    assert {name for name in vars(Writer) if not name.startswith("_")} == {*MOMENTS, "state_dict", "load_state_dict"}


# ----------------------------------------------------------------------------------------------------- what it is told


def test_it_is_told_of_everything_once_and_in_order(tmp_path, own):
    lines = make(tmp_path, write_to=own(NOTES, "Notes"))
    found = notes(tmp_path)
    assert found[0]["what"] == "init" and found[0]["step"] == 0 and found[-1] == {"what": "end"}
    assert str(tmp_path) not in json.dumps(found[0]["settings"]) and found[0]["settings"]["learning_rate"] == 1e-3
    assert [note["line"] for note in found if note["what"] in ("log", "evaluate")] == lines
    assert [note["step"] for note in found if note["what"] == "evaluate"] == [5, 10]
    saved = [(note["step"], Path(note["directory"]).name) for note in found if note["what"] == "save"]
    assert saved == [(5, "step-00000005"), (10, "step-00000010")]
    assert all("MANIFEST.json" in note["files"] for note in found if note["what"] == "save")


def test_with_async_save_it_is_told_when_the_checkpoint_is_there(tmp_path, own):
    make(tmp_path, write_to=own(NOTES, "Notes"), async_save=True, save_steps=2)
    saved = [note for note in notes(tmp_path) if note["what"] == "save"]
    assert [note["step"] for note in saved] == [2, 4, 5, 6, 8, 10]
    assert all("MANIFEST.json" in note["files"] for note in saved)


def test_a_resumed_run_gives_it_its_state(tmp_path, own):
    name = own(NOTES, "Notes")
    with killed_after(9):
        make(tmp_path, write_to=name)
    state = json.loads((tmp_path / "run/checkpoints/step-00000005/state.json").read_text())["progress"].get("writers", {})
    assert list(state) == ["mine.py:Notes"], "no folder: it may lie elsewhere the next time"
    (tmp_path / "elsewhere").mkdir()
    Path(tmp_path / "mine.py").rename(tmp_path / "elsewhere/mine.py")
    make(tmp_path, write_to=f"{tmp_path}/elsewhere/mine.py:Notes", resume=True)
    found = notes(tmp_path)
    begun = [i for i, note in enumerate(found) if note["what"] == "init"]
    assert len(begun) == 2 and found[begun[1]]["step"] == 5
    assert found[begun[1] + 1] == {"what": "load", "state": state["mine.py:Notes"]}
    assert [note["step"] for note in found[begun[1] :] if note["what"] == "log"] == [6, 8, 10, 10]


def test_a_state_that_nobody_asks_for_is_said(tmp_path, own, capsys):
    with killed_after(9):
        make(tmp_path, write_to=own(NOTES, "Notes"))
    make(tmp_path, resume=True)
    assert capsys.readouterr().err.count("mine.py:Notes, which --write-to does not name: it is left out") == 1
    with killed_after(9):
        make(tmp_path, "other", write_to=own(NOTES, "Notes"))
    make(
        tmp_path,
        "other",
        resume=True,
        write_to=own("class Mine:\n def on_end(self): pass\n def __init__(self, *a): pass", name="b.py"),
    )
    assert capsys.readouterr().err.count("mine.py:Notes, which --write-to does not name: it is left out") == 1


def test_a_stopped_run_ends_it_too(tmp_path, own):
    with pytest.raises(StoppedError):
        make(tmp_path, write_to=own(NOTES, "Notes"), max_minutes=1e-9)
    assert notes(tmp_path)[-1] == {"what": "end"} and notes(tmp_path)[-2]["what"] == "save"


def test_it_changes_no_bit(tmp_path, own):
    """A writer that draws from, and seeds, every generator: the run with dropout ends with the same weights."""
    greedy = """
import random, numpy, torch
class Mine:
    def __init__(self, directory, settings, step):
        self.draw()
    def draw(self, *told):
        random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
        random.random(), numpy.random.rand(3), torch.rand(3)
    on_log = on_evaluate = on_save = draw
    def state_dict(self):
        self.draw()
        return {"a": 1}
    def load_state_dict(self, state):
        self.draw()
"""

    def weights(name, **changes):
        torch.manual_seed(0)
        make(tmp_path, name, save_steps=2, **changes)
        return load_file(tmp_path / name / "model.safetensors")

    plain, watched = weights("plain"), weights("watched", write_to=own(greedy))
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


# --------------------------------------------------------------------------------------------------------- its defects


@pytest.mark.parametrize(
    ("method", "body", "words"),
    [
        ("on_log", "return line['nothing']", "KeyError: 'nothing' (mine.py, line 4)"),
        ("on_evaluate", "return 1 / 0", "ZeroDivisionError: division by zero (mine.py, line 4)"),
        ("on_log", "import sys; sys.exit(3)", "SystemExit: 3 (mine.py, line 4)"),
    ],
)
def test_one_that_fails_is_left_out_with_file_and_line(tmp_path, own, capsys, method, body, words):
    name = own(f"class Mine:\n    def __init__(self, *told): pass\n    def {method}(self, step, line):\n        {body}\n")
    lines = make(tmp_path, write_to=name)
    assert len(lines) == 5 + 2 + 2 and (tmp_path / "run/model.safetensors").exists()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == [f"warning: mine.py:Mine takes no more: {words}; metrics.jsonl goes on"]


@pytest.mark.parametrize("state", ["{1: 2}", "{'a': float('nan')}", "{'a': (1, 2)}", "{'a': object()}"])
def test_a_state_that_json_cannot_hold_costs_the_writer_and_not_the_checkpoint(tmp_path, own, capsys, state):
    code = "class Mine:\n def __init__(self, *told): pass\n def on_end(self): pass\n def load_state_dict(self, state): pass\n"
    make(tmp_path, write_to=own(f"{code} def state_dict(self): return {state}\n"))
    assert capsys.readouterr().err.count("warning: mine.py:Mine takes no more") == 1
    document = json.loads((tmp_path / "run/checkpoints/step-00000010/state.json").read_text())
    assert document["progress"].get("writers", {}) == {}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("class Mine(:", "cannot be imported: SyntaxError"),
        ("import sys\nsys.exit(1)", "cannot be imported: SystemExit: 1 (mine.py, line 2)"),
        ("x = 1\ny = x / 0", "cannot be imported: ZeroDivisionError: division by zero (mine.py, line 2)"),
        ("class Other:\n def on_end(self): pass", "defines no class of that name"),
        ("def Mine(): pass", "defines no class of that name"),
        ("class Mine: pass", "the class has nothing to call; a writer's methods are on_log, on_evaluate, on_save, on_end"),
        ("class Mine:\n def on_evaluation(self, step, line): pass", "on_evaluation would never be called"),
        (
            "class Mine:\n def on_end(self): pass\n def state_dict(self): return {}",
            "state_dict and load_state_dict come together",
        ),
        (
            "class Mine:\n def on_end(self): pass\n def __init__(self, *a):\n  1 / 0",
            "ZeroDivisionError: division by zero (mine.py, line 4)",
        ),
        ("class Mine:\n def on_end(self): pass", "TypeError: Mine() takes no arguments"),
    ],
)
def test_one_that_cannot_begin_is_refused_in_one_line(tmp_path, own, code, words):
    with pytest.raises(UsageError) as caught:
        make(tmp_path, write_to=own(code))
    message = str(caught.value)
    assert message.startswith(f"--write-to {tmp_path}/mine.py:Mine: ") and words in message
    assert not (tmp_path / "run/checkpoints").exists()


def test_names():
    assert names_in("tensorboard, a/b.py:C") == ["tensorboard", "a/b.py:C"]
    with pytest.raises(UsageError, match="there is no file"):
        make(Path("/nowhere"), write_to="no_such.py:Mine")
    with pytest.raises(UsageError, match=r"x\.py:C is there twice"):
        names_in("a/x.py:C,b/x.py:C")


def test_a_state_that_it_cannot_take_is_refused(tmp_path, own):
    with killed_after(9):
        make(tmp_path, write_to=own(NOTES, "Notes"))
    with pytest.raises(UsageError, match=r"KeyError: 'other' \(mine.py, line \d+\)"):
        make(tmp_path, resume=True, write_to=own(NOTES.replace('self.note("load", state=state)', 'state["other"]'), "Notes"))
    make(tmp_path, resume=True, write_to=own(NOTES, "Notes"))


def test_checkpoints_from_before_writers_had_a_state_resume(tmp_path, own):
    from engine.checkpoint.store import commit, open_checkpoint, set_aside

    with killed_after(9):
        make(tmp_path)
    folder = tmp_path / "run/checkpoints/step-00000005"
    files = dict(open_checkpoint(folder))
    document = json.loads(files["state.json"])
    document["progress"].pop("writers", None)
    set_aside(folder)
    commit(folder.parent, 5, files | {"state.json": json.dumps(document).encode()})
    make(tmp_path, resume=True, write_to=own(NOTES, "Notes"))
    assert notes(tmp_path)[0] == {**notes(tmp_path)[0], "what": "init", "step": 5}
    assert "load" not in [note["what"] for note in notes(tmp_path)]
