"""A whole run from Python: what it leaves behind, what it keeps, what it refuses."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from bench.toys import tiny
from engine.checkpoint.store import commit, sealed, steps_in
from engine.checkpoint.tensor_file import TensorFile
from engine.clock import PHASES
from engine.console import note
from engine.data.plan import Plan
from engine.errors import DivergedError, ResourceError
from engine.explain import millions
from engine.fit import fit
from engine.record.divergence import first_bad_step
from engine.state import StepRecord
from tests.toys.runs import config, kinds, make_task, unfinish


def test_a_finished_run(tmp_path, capsys):
    result = fit(make_task(), config(tmp_path), tiny.bert())
    out = capsys.readouterr().out
    document = json.loads((tmp_path / "run/run.json").read_text())
    assert document["status"] == "finished" and document["metrics"] == result.metrics
    assert {"train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second", "eval_loss", "eval_accuracy",
            "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"} <= result.metrics.keys()  # fmt: skip
    for word in (
        "device     cpu",
        "plan       10 steps = 2 epochs of 5",
        "epoch 1: mean loss",
        "train_runtime",
        "eval_accuracy",
    ):
        assert word in out
    lines = kinds(tmp_path)
    assert [line["step"] for line in lines if line["kind"] == "train"] == [3, 6, 9, 10]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [5, 10]
    assert [line["step"] for line in lines if line["kind"] == "epoch"] == [5, 10]
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".") and path.name != ".lock"], (
        "nothing temporary stays"
    )


def test_log_lines_mean_what_they_say(tmp_path):
    """Loss: mean over the window's items; learning rate: the one used; counts from the start; waste of the window."""
    fit(make_task(), config(tmp_path / "a"), tiny.bert(dropout=0.0))
    fit(make_task(), config(tmp_path / "b", log_steps=1), tiny.bert(dropout=0.0))
    windows = [line for line in kinds(tmp_path / "a") if line["kind"] == "train"]
    steps = [line for line in kinds(tmp_path / "b") if line["kind"] == "train"]
    assert len(steps) == 10
    assert windows[0]["loss"] == pytest.approx(sum(line["loss"] for line in steps[:3]) / 3, rel=1e-6)
    assert windows[-1]["loss"] == pytest.approx(steps[-1]["loss"], rel=1e-6)
    assert [line["learning_rate"] for line in steps] == pytest.approx([1e-3 * (10 - i) / 10 for i in range(10)])
    assert windows[0]["learning_rate"] == steps[2]["learning_rate"] and windows[0]["grad_norm"] == steps[2]["grad_norm"]
    assert [line["num_examples"] for line in steps] == [8 * (i + 1) for i in range(10)]
    assert steps[-1]["num_tokens"] == 2 * tiny.token_rows(40).lengths.sum()
    epochs = [line for line in kinds(tmp_path / "b") if line["kind"] == "epoch"]
    assert epochs[0]["loss"] == pytest.approx(sum(line["loss"] for line in steps[:5]) / 5, rel=1e-6)
    assert all(tuple(line["seconds"]) == PHASES for line in steps)


def test_log_lines_say_what_padding_costs_and_how_much_was_computed(tmp_path):
    """By hand from the lengths: the plan's rows, padded to the longest of each batch; FLOPs from what a token and a pair cost."""
    rows, sizes = tiny.token_rows(40), tiny.token_rows(40).lengths
    for batching in ("padded", "packed"):
        fit(make_task(), config(tmp_path / batching, log_steps=1, batching=batching, precision="fp32"), tiny.bert())
    padded, packed = ([line for line in kinds(tmp_path / b) if line["kind"] == "train"] for b in ("padded", "packed"))
    cuts = Plan.of(config(tmp_path), rows.lengths).batches(0)
    wastes = [1 - sizes[cut].sum() / (len(cut) * sizes[cut].max()) for cut in cuts]
    assert [line["padding_waste"] for line in padded[:5]] == pytest.approx(wastes, abs=1e-4)
    assert [line["waste_if_padded"] for line in packed[:5]] == pytest.approx(wastes, abs=1e-4)
    assert {line["padding_waste"] for line in packed} == {0.0}
    width, inner = 32, 64
    matrices = 2 * (4 * width * width + 2 * width * inner)
    for line, cut in zip(packed[:5], cuts, strict=True):
        flops = 6 * matrices * sizes[cut].sum() + 12 * 2 * width * (sizes[cut] ** 2).sum() + 6 * (width * width + 3 * width) * 8
        assert line["tflops"] * 1e12 / line["steps_per_second"] == pytest.approx(flops)
        assert line["mfu"] is None and 0.05 < line["memory_gb"] < 64


def test_a_small_number_of_parameters_is_written_out(tmp_path, capsys):
    fit(make_task(), config(tmp_path, freeze="^bert"), tiny.bert())
    model = tiny.bert()
    head, all_of_it = (sum(p.numel() for p in part.parameters()) for part in (model.classifier, model))
    assert f": {head} parameters to train, {all_of_it - head:,} frozen\n" in capsys.readouterr().out
    assert millions(22_713_986) == "22.7 M"


def test_the_end_says_where_the_time_went(tmp_path, capsys):
    fit(make_task(), config(tmp_path), tiny.bert())
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("time ")]
    shares = [int(share) for share in re.findall(r"(\d+)%", line)]
    assert {"forward", "backward", "optimizer"} <= set(re.findall(r"(\w+) \d+%", line)) <= {*PHASES, "other"}
    assert 97 <= sum(shares) <= 103
    assert re.search(r"[\d.]+ s evaluation, [\d.]+ s saving$", line)


class Terminal(io.StringIO):
    """Both streams of a terminal."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """What stands there in the end: carriage returns, line feeds and the cursor going up."""
        lines, row, column = [""], 0, 0
        for piece in re.findall(r"\x1b\[A|[\r\n]|[^\r\n\x1b]+", self.getvalue()):
            if piece == "\x1b[A":
                row -= 1
            elif piece == "\r":
                column = 0
            elif piece == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            else:
                lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + len(piece) :]
                column += len(piece)
        return [line.rstrip() for line in lines if line.strip()]


def test_on_a_terminal_a_bar_and_no_line_is_broken(tmp_path, monkeypatch):
    """A warning in the middle, two evaluations with a bar of their own that goes, and one line in the end."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)

    class Warning(tiny.TokenTask):
        def forward(self, model, batch):
            if batch.keys[0][0] == 1 and model.training:
                note("a note of one line")
            return super().forward(model, batch)

    rows = {"train": tiny.token_rows(40), "evaluation": tiny.token_rows(21, seed=5)}
    fit(Warning(**rows), config(tmp_path, log_steps=2, resume=True), tiny.bert())
    screen = terminal.screen()
    assert "evaluating (eval)" in terminal.getvalue() and not any("evaluating" in line for line in screen)
    assert sum("training" in line and "|" in line for line in screen) == 1
    [bar] = [line for line in screen if line.startswith("training: 100%")]
    assert re.search(r"10/10 \[.*loss [\d.]+, lr [\d.e-]+, [\d,.]+ examples/s, \d+% padding\]$", bar)
    assert screen.count("a note of one line") == 5 and "resume: there is no checkpoint, starting at step 0" in screen
    for start in ("epoch 1: mean loss", "epoch 1: evaluation loss", "epoch 2: mean loss", "epoch 2: evaluation loss"):
        assert sum(line.startswith(start) for line in screen) == 1, start
    assert not any(line.startswith("step ") for line in screen)


def test_eval_loss_and_metrics_do_not_depend_on_the_eval_batch_size(tmp_path):
    losses = []
    for size in (1, 4, 21):
        fit(make_task(), config(tmp_path / str(size), eval_batch_size=size), tiny.bert())
        losses.append([line["loss"] for line in kinds(tmp_path / str(size)) if line["kind"] == "eval"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] == pytest.approx(losses[2], rel=1e-6)


def test_evaluation_leaves_the_training_as_it_was(tmp_path):
    """Evaluating after every step or never: the same weights, dropout on."""
    often = fit(make_task(), config(tmp_path / "a", eval_steps=1, best_metric="loss", save_steps=100), tiny.bert())
    last = json.loads((tmp_path / "a/run/run.json").read_text())
    never = fit(tiny.TokenTask(train=tiny.token_rows(40)), config(tmp_path / "b"), tiny.bert())
    assert last["status"] == "finished"
    whole = {line["step"]: line["loss"] for line in kinds(tmp_path / "a") if line["kind"] == "train"}
    assert whole == {line["step"]: line["loss"] for line in kinds(tmp_path / "b") if line["kind"] == "train"}
    assert often.model is not None and never.model is not None


class Scripted(tiny.TokenTask):
    """Its evaluation gives the accuracies of a script, one after the other."""

    script = (0.5, 0.9, 0.6, 0.7)
    best_metric = "accuracy"

    def metrics(self, split):
        def figures() -> dict[str, float]:
            type(self).calls = getattr(type(self), "calls", -1) + 1
            return {"accuracy": self.script[min(self.calls, len(self.script) - 1)], "f1": 0.0, "mcc": 0.0}

        real = super().metrics(split)
        real.compute = figures
        return real


def test_the_best_model_is_the_one_that_is_kept(tmp_path):
    Scripted.calls = -1
    rows = tiny.token_rows(40)
    result = fit(Scripted(train=rows, evaluation=rows), config(tmp_path, epochs=4, keep_checkpoints=1), tiny.bert())
    assert result.metrics["eval_accuracy"] == 0.9
    best = (tmp_path / "run/checkpoints/step-00000010/model.safetensors").read_bytes()
    last = (tmp_path / "run/checkpoints/step-00000020/model.safetensors").read_bytes()
    from safetensors.torch import load

    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run", dtype=torch.float32).state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in load(best).items())
    assert not all(torch.equal(kept[name], tensor) for name, tensor in load(last).items())


@pytest.mark.parametrize(
    ("script", "kept", "value"),
    [((math.nan, 0.5, math.nan, 0.4), 2, 0.5), ((0.5, math.nan, 0.4, math.nan), 1, 0.5), ((math.nan,), 4, None)],
)
def test_a_figure_that_is_not_defined_is_never_the_best(tmp_path, monkeypatch, script, kept, value):
    """It is null in the files. Where it never is defined, the last model is kept, as without evaluation data."""
    monkeypatch.setattr(Scripted, "script", script)
    monkeypatch.setattr(Scripted, "calls", -1, raising=False)
    rows = tiny.token_rows(40)
    result = fit(Scripted(train=rows, evaluation=rows), config(tmp_path, epochs=4, keep_checkpoints=4), tiny.bert())
    assert result.metrics["eval_accuracy"] == value
    assert json.loads((tmp_path / "run/run.json").read_text())["metrics"]["eval_accuracy"] == value
    expected = load_file(tmp_path / f"run/checkpoints/step-{5 * kept:08d}/model.safetensors")
    found = load_file(tmp_path / "run/model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("how", ["damaged", "gone", "of a newer version", "another model's"])
def test_without_the_best_checkpoint_the_last_model_is_kept(tmp_path, capsys, how):
    """All the training is done: there must be a model, with its own figures, and a word about which one it is."""
    Scripted.calls = -1
    rows = tiny.token_rows(40)
    fit(Scripted(train=rows, evaluation=rows), config(tmp_path, epochs=4), tiny.bert())
    document = json.loads((tmp_path / "run/run.json").read_text())
    assert document["kept"] == {"step": 10, "best_step": 10} and document["metrics"]["eval_accuracy"] == 0.9
    unfinish(tmp_path)
    best = tmp_path / "run/checkpoints/step-00000010"
    if how == "damaged":
        (best / "model.safetensors").write_bytes(b"")
    elif how == "another model's":
        shutil.rmtree(best)
        commit(best.parent, 10, {"model.safetensors": TensorFile({"w": torch.ones(1)}), "state.json": b"{}"})
    elif how == "gone":
        shutil.rmtree(best)
    else:
        manifest = json.loads((best / "MANIFEST.json").read_text()) | {"format": 99}
        (best / "MANIFEST.json").write_bytes(sealed({key: value for key, value in manifest.items() if key != "sha256"}))
    capsys.readouterr()
    Scripted.calls = -1
    again = fit(Scripted(train=rows, evaluation=rows), config(tmp_path, epochs=4, resume=True), tiny.bert())
    printed = capsys.readouterr()
    assert (
        "warning: the best model, of step 10, is lost (" in printed.err and "the last one, of step 20, is kept" in printed.err
    )
    assert "best model: that of step" not in printed.out
    document = json.loads((tmp_path / "run/run.json").read_text())
    assert document["status"] == "finished" and document["kept"] == {"step": 20, "best_step": 10}
    assert again.metrics["eval_accuracy"] == document["metrics"]["eval_accuracy"] == 0.7
    last = load_file(tmp_path / "run/checkpoints/step-00000020/model.safetensors")
    assert all(torch.equal(again.model.state_dict()[name], tensor) for name, tensor in last.items())


def test_a_best_checkpoint_that_cannot_be_read_now_is_not_given_up(tmp_path, monkeypatch):
    """Too many open files, say: the next --resume finds it."""
    Scripted.calls = -1
    rows = tiny.token_rows(40)
    task = Scripted(train=rows, evaluation=rows)

    def fail(path):
        raise ResourceError(f"checkpoint {path} cannot be read: Too many open files")

    monkeypatch.setattr("engine.resume.open_checkpoint", fail)
    with pytest.raises(ResourceError, match="step-00000010 cannot be read"):
        fit(task, config(tmp_path, epochs=4), tiny.bert())
    monkeypatch.undo()
    Scripted.calls = -1
    assert fit(task, config(tmp_path, epochs=4, resume=True), tiny.bert()).metrics["eval_accuracy"] == 0.9


def test_keeping_the_best_keeps_the_best_and_the_newest(tmp_path):
    """Accuracies 0.5, 0.9, 0.6, 0.7 at steps 5, 10, 15, 20; and when the newest is the best, that one alone."""
    Scripted.calls = -1
    rows = tiny.token_rows(40)
    fit(Scripted(train=rows, evaluation=rows), config(tmp_path, epochs=4, keep_checkpoints="best"), tiny.bert())
    assert steps_in(tmp_path / "run/checkpoints") == [10, 20]
    Scripted.calls = -1
    fit(Scripted(train=rows, evaluation=rows), config(tmp_path / "b", epochs=2, keep_checkpoints="best"), tiny.bert())
    assert steps_in(tmp_path / "b/run/checkpoints") == [10]


def test_early_stopping(tmp_path, capsys):
    Scripted.calls = -1
    rows = tiny.token_rows(40)
    result = fit(Scripted(train=rows, evaluation=rows), config(tmp_path, epochs=9, patience=2), tiny.bert())
    assert result.metrics["num_steps"] == 20 and result.metrics["eval_accuracy"] == 0.9
    assert "stopping early: 2 evaluations without a better accuracy" in capsys.readouterr().out


def test_a_run_killed_after_stopping_early_does_not_train_on(tmp_path):
    Scripted.calls = -1
    rows = tiny.token_rows(40)
    settings = {"epochs": 9, "patience": 2}
    fit(Scripted(train=rows, evaluation=rows), config(tmp_path, **settings), tiny.bert())
    document = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(document | {"status": "running"}))
    (tmp_path / "run/model.safetensors").unlink()
    Scripted.calls = -1
    again = fit(Scripted(train=rows, evaluation=rows), config(tmp_path, resume=True, **settings), tiny.bert())
    assert again.metrics["num_steps"] == 20 and again.metrics["eval_accuracy"] == 0.9


def test_nan_stops_the_run_before_the_weights_are_touched(tmp_path):
    """The weights in memory and in the last checkpoint stay finite; the run says where."""

    class Poisoned(tiny.TokenTask):
        def loss(self, outputs, batch):
            loss = super().loss(outputs, batch)
            return loss * float("nan") if any(key == (1, 0) for key in batch.keys) else loss

    task = Poisoned(train=tiny.token_rows(40), evaluation=tiny.token_rows(21))
    model = tiny.bert()
    with pytest.raises(DivergedError, match="the loss is not finite at step") as caught:
        fit(task, config(tmp_path), model)
    cuts = Plan.of(config(tmp_path), task.train.lengths).batches(1)
    [(index, cut)] = [(i, cut) for i, cut in enumerate(cuts) if 0 in cut]
    assert f"at step {6 + index} (epoch {1 + (index + 1) / 5:.2f}), in rows {', '.join(map(str, cut))} of the" in str(
        caught.value
    )
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not (tmp_path / "run/model.safetensors").exists()
    assert (tmp_path / "run/checkpoints/step-00000005").is_dir()


def test_own_model_and_data_from_python(tmp_path):
    """The example of docs/from-python.md, as it stands there."""
    page = (Path(__file__).parent.parent.parent / "docs/from-python.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) <= 24
    tiny.save_model(tmp_path / "model")
    code = code.replace('model="auto"', f"model={str(tmp_path / 'model')!r}").replace("runs/mine", str(tmp_path / "mine"))
    names: dict = {}
    exec(compile(code, "from-python.md", "exec"), names)
    assert names["result"].metrics["eval_accuracy"] >= 0
    assert (tmp_path / "mine/model.safetensors").exists()


def test_a_model_may_bring_folders(tmp_path):
    """As sentence-transformers' 1_Pooling; a second run puts its own in their place."""

    class WithFolder(tiny.TokenTask):
        content = "first"

        def save(self, model, directory):
            super().save(model, directory)
            (directory / "1_Part/deep").mkdir(parents=True)
            (directory / "1_Part/deep/config.json").write_text(self.content)

    task = WithFolder(train=tiny.token_rows(16))
    fit(task, config(tmp_path), tiny.bert())
    task.content = "second"
    fit(task, config(tmp_path, overwrite=True), tiny.bert())
    assert (tmp_path / "run/1_Part/deep/config.json").read_text() == "second"
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == ["1_Part", "checkpoints"]


def test_fp16_overflows_before_a_loss_that_is_not_finite_are_not_to_blame():
    good, infinite = torch.tensor(1.0), torch.tensor(float("inf"))
    steps = [
        (SimpleNamespace(step=step, epochs_done=0.1), [(0, step)], StepRecord(loss, good, norm, 1e-3))
        for step, loss, norm in ((1, good, infinite), (2, infinite, infinite))
    ]
    assert first_bad_step(steps, scaled=True)[:2] == (2, False)
    assert first_bad_step(steps, scaled=False)[:2] == (1, True)


def without_targets(num_rows):
    """Masked language models have such rows, where no token is masked."""
    rows = tiny.token_rows(num_rows)
    rows.columns["labels"][:] = -100
    return rows


def test_an_evaluation_without_a_target_has_no_figure_and_is_never_the_best(tmp_path, capsys):
    task = tiny.TokenTask(tiny.bert(), tiny.token_rows(20), without_targets(6))
    result = fit(task, config(tmp_path), tiny.bert())
    out, err = capsys.readouterr()
    assert "nothing to measure: the 6 examples of 'eval' hold no target" in err and "best so far" not in out
    assert [line["loss"] for line in kinds(tmp_path) if line["kind"] == "eval"] == [None, None]
    assert result.metrics["eval_loss"] is None and (tmp_path / "run/model.safetensors").exists()


def test_a_window_without_a_target_has_no_loss(tmp_path):
    fit(tiny.TokenTask(tiny.bert(), without_targets(20)), config(tmp_path), tiny.bert())
    assert {line["loss"] for line in kinds(tmp_path) if line["kind"] in ("train", "epoch")} == {None}
