"""The task of docs/your-own-task.md as it stands there: trained, predicted and evaluated from a file outside the project.

And that such a file is run only when the user names it: never because a run.json does, which anybody may have written.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import run
from bench.toys import tiny
from engine.data.sources import Source, SourceConfig
from engine.errors import UsageError
from tasks import COMMANDS
from tasks.classification.task import Classification, ClassificationOptions
from tests.toys.cli import command, fails

PAGE = (Path(__file__).parent.parent.parent / "docs/your-own-task.md").read_text(encoding="utf-8")


def test_the_example_runs_end_to_end(tmp_path, monkeypatch, capsys):
    code, commands = (PAGE.split(f"```{language}\n")[1].split("```")[0] for language in ("python", "bash"))
    assert len(code.splitlines()) <= 40
    monkeypatch.chdir(tmp_path)
    Path("my_task.py").write_text(code)
    tiny.save_model(tmp_path / "model", tiny.distilbert(num_labels=2).distilbert)
    generator = np.random.default_rng(0)
    rows = {}
    for name, number, seed in (("train", 60, 0), ("eval", 30, 1)):
        votes = generator.integers(1, 9, number)
        rows[name] = [
            (text, generator.integers(0, v + 1), v) for (text, _), v in zip(tiny.texts(number, seed), votes, strict=True)
        ]
        with open(f"{name}.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("text", "likes", "judges"), *rows[name]])

    train, predict = (shlex.split(line)[2:] for line in commands.strip().splitlines())
    assert run.main([*train, "--model", "model", "--epochs", "2", "--device", "cpu", "--learning-rate", "1e-3"]) == 0
    assert "warning" not in "".join(capsys.readouterr())
    assert run.main(predict) == 0
    line = capsys.readouterr().out
    assert line.startswith(("like (", "dislike (")) and line.endswith("Great tacos, slow service.\n")
    evaluate = ["evaluate", "--model", "runs/likes", "--device", "cpu", "--output", "figures.json"]
    code, line = fails(evaluate, capsys)
    assert code == 4 and line.endswith("add: --task my_task.py:Likes") and not Path("figures.json").exists()
    Path("elsewhere").mkdir()
    os.rename("my_task.py", "elsewhere/my_task.py")  # the run's settings, --votes-column among them, hold all the same
    assert run.main([*evaluate, "--task", "elsewhere/my_task.py:Likes"]) == 0
    assert re.search(r"^ +dislike .*\n +like ", capsys.readouterr().out, flags=re.MULTILINE), "classes by name"

    model, tokenizer = (kind.from_pretrained("runs/likes") for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    texts, likes, votes = zip(*rows["eval"], strict=True)
    with torch.no_grad():
        logits = model.eval()(**tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")).logits
    p, likes, votes = logits.softmax(-1).double(), torch.tensor(np.array(likes)), torch.tensor(np.array(votes))
    expected = -(likes * p[:, 1].log() + (votes - likes) * p[:, 0].log()).sum() / votes.sum()
    assert json.loads(Path("figures.json").read_text())["eval_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert pipeline("text-classification", model="runs/likes", device="cpu")("w0")[0]["label"] in ("like", "dislike")
    assert "--task my_task.py:Likes" in Path("runs/likes/README.md").read_text()


def test_another_head_is_trained_and_loaded_and_is_never_made_anew_in_silence(tmp_path, monkeypatch, capsys):
    code, commands = (
        PAGE.split("## Another head")[1].split(f"```{language}\n")[1].split("```")[0] for language in ("python", "bash")
    )
    monkeypatch.chdir(tmp_path)
    Path("my_head.py").write_text(code)
    tiny.save_model(tmp_path / "model", tiny.bert().bert)
    tiny.save_texts(tmp_path, train=60, eval=30)
    train, predict = (shlex.split(line)[2:] for line in commands.strip().splitlines())
    train[train.index("bert-base-uncased")] = "model"
    assert (
        run.main([*train, "--epochs", "2", "--device", "cpu", "--learning-rate", "1e-3", "--head-learning-rate", "3e-3"]) == 0
    )
    said = capsys.readouterr().err
    assert "new, to be trained: " in said and "classifier.0.weight, classifier.2.bias" in said
    assert run.main([*predict, "--device", "cpu"]) == 0
    label, text = capsys.readouterr().out.strip().split("\t")
    with pytest.raises(ValueError, match="bert-wide-head"):  # as where the file was never imported
        loaded_elsewhere("runs/wide")
    answer = pipeline("text-classification", model="runs/wide", device="cpu")(text)[0]
    assert label == f"{answer['label']} ({answer['score']:.2f})"
    model = AutoModelForSequenceClassification.from_pretrained("runs/wide")
    assert model.classifier[0].out_features == 4 * model.config.hidden_size
    head = {name for name, _ in model.named_parameters() if name.startswith("classifier.")}
    assert head == {"classifier.0.weight", "classifier.0.bias", "classifier.2.weight", "classifier.2.bias"}


def loaded_elsewhere(folder: str) -> Any:
    """By a program that does not know the kind of model."""
    known = CONFIG_MAPPING._extra_content
    kept = dict(known)
    known.clear()
    try:
        return AutoModelForSequenceClassification.from_pretrained(folder)
    finally:
        known.update(kept)


def test_every_method_of_a_task_is_named():
    from engine.task import Task

    methods = {name for name in vars(Task) if not name.startswith("_") and callable(getattr(Task, name))}
    have_a_default = {"Options", "forward", "inputs_of", "inputs_typed", "describe"}
    missing = [name for name in methods - have_a_default if f"`{name}(" not in PAGE]
    assert not missing


def test_what_is_asked_before_its_turn_is_one_line():
    """examples() finds out what the data hold; the model's head and the metrics depend on it."""
    for ask in (lambda task: task.build_model(), lambda task: task.metrics("eval")):
        with pytest.raises(UsageError, match=r"Classification: call examples\(\) before build_model\(\) and metrics\(\)"):
            ask(Classification(ClassificationOptions(), Source(SourceConfig(model="none"))))


EVIL = """
from pathlib import Path
Path({marker!r}).touch()
from tasks.classification.task import Classification
class Evil(Classification):
    try_it = ("w0 w1",)
"""


def strangers(project, folder: Path, how: str) -> tuple[Path, str]:
    """A finished run that was fetched, and the task that its run.json names."""
    folder.mkdir(exist_ok=True)
    model, code = folder / "model", EVIL.format(marker=str(folder / "marker"))
    if how == "snapshot":  # as the Hub's cache has it
        model = folder / "snapshots/0123"
    shutil.copytree(project / "run", model)
    (folder / "code").mkdir()
    (folder / "code/evil.py").write_text(code)
    task = f"{model}/evil.py:Evil"
    if how == "outside":
        task = "code/../code/evil.py:Evil"  # from the working directory
    elif how == "within":
        (model / "evil.py").write_text(code)
    elif how == "link":
        (model / "evil.py").symlink_to("../code/evil.py")
    else:
        (folder / "blobs").mkdir()
        (model / "evil.py").write_text(code)
        for path in sorted(path for path in model.iterdir() if path.is_file() and path.name != "run.json"):
            os.rename(path, folder / "blobs" / path.name)
            path.symlink_to(f"../../blobs/{path.name}")
    document = json.loads((model / "run.json").read_text())
    document["settings"]["task"] = task
    (model / "run.json").write_text(json.dumps(document))
    return model, task


@pytest.mark.parametrize("how", ["outside", "within", "link", "snapshot"])
def test_a_file_that_only_run_json_names_is_never_run(project, tmp_path, monkeypatch, capsys, how):
    model, task = strangers(project, tmp_path, how)
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("w0 w1\nw2\n")
    Path("picture.png").write_bytes(b"")
    Path("train.py").write_text("TrainingArguments('out', seed=1)\n")
    arguments = {
        "predict": ["--model", str(model), "w0 w1"], "evaluate": ["--model", str(model)], "fill": ["--model", str(model), "w0"],
        "generate": ["--model", str(model), "w0"], "report": [str(model), "--output", "r.html"],
        "compare": [str(model), str(project / "run"), "--output", "c.html"], "push": ["--model", str(model), "--repo", "a/b"],
        "search": ["--model", str(model), "--corpus", "texts.txt", "w0"], "compare-models": ["--models", str(model)],
        "caption": ["--model", str(model), "picture.png"], "env": [],
        "serve": ["--model", str(model), "--port", "0"],
        "export": ["--model", str(model), "--output", "exported"],
        "monitor": ["--model", str(model), "--input", "texts.txt"],
        "update": ["--model", str(model), "--train-file", "texts.txt"],
        "xray": ["train.py", "--model", str(model)],
    }  # fmt: skip
    assert {*arguments} == {*COMMANDS} - {"lesson", "inspect", "sweep", "tune"}, "another command: does it open a model?"
    for name, given in arguments.items():
        code = run.main([name, *given])
        assert not Path("marker").exists(), f"{name} has run the file"
        said = capsys.readouterr().err
        if name in ("predict", "evaluate", "serve", "export", "monitor", "update"):
            assert code == 4 and said.startswith("error: ") and len(said.splitlines()) == 1
            assert said.endswith(f"such a file is never run unless you name it. If it is your own, add: --task {task}\n")
    training = command(project, "--max-steps", "1")
    training[3] = str(model)  # a run that starts from it, and one that finds it in its place
    for more in (["--output-dir", "new"], ["--output-dir", "new", "--explain"], *(["--output-dir", str(model), *[flag] * bool(flag)]
                 for flag in ("", "--resume", "--overwrite"))):  # fmt: skip
        run.main([*training, *more])
        assert not Path("marker").exists(), f"training with {more} has run the file"
    model, task = strangers(project, tmp_path / "again", how)
    monkeypatch.chdir(tmp_path / "again")
    assert run.main(["predict", "--model", str(model), "--task", task, "w0 w1"]) == 0
    assert Path("marker").exists(), "the test can tell that the file was run"


def test_finding_a_finished_run_opens_it_with_the_task_that_was_named(project, tmp_path, monkeypatch, capsys):
    """The second time nothing is trained, and the examples are predicted with the file of the user, not of run.json."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(EVIL.format(marker="ran"))
    train = ["--task", "mine.py:Evil", "--model", str(project / "model"), "--train-file", str(project / "train.csv"),
             "--max-steps", "1", "--device", "cpu", "--output-dir", "run"]  # fmt: skip
    assert run.main(train) == 0
    Path("ran").unlink()
    os.utime("mine.py")  # a file that has not been touched is not run again in one process
    assert run.main(train) == 0
    assert "training skipped" in capsys.readouterr().out and Path("ran").exists()
    code, line = fails([*train[2:], "--task", "classification"], capsys)
    assert code == 2 and "other task" in line


def test_a_command_takes_a_task_that_is_made_from_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.save_model(tmp_path / "m", tiny.bert())
    Path("mine.py").write_text(
        "from tasks.embeddings.task import Embeddings\nclass Mine(Embeddings):\n"
        "    def vectors(self, *given):\n        print('mine')\n        return super().vectors(*given)\n"
    )
    Path("t.txt").write_text("w0 w1\nw2\n")
    search = ["search", "--model", "m", "--corpus", "t.txt", "w0 w1"]
    assert run.main(search) == 0 and "mine" not in capsys.readouterr().out
    assert run.main([*search, "--task", "mine.py:Mine"]) == 0 and "mine" in capsys.readouterr().out
    assert fails([*search, "--task", "clm"], capsys) == (
        2, "error: --task clm: this command needs embeddings, or a task that is made from it"
    )  # fmt: skip
