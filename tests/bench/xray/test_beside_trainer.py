"""What xray tells is what Trainer does: the same arguments, run, with their steps, rates, groups, batches and gradients compared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import Seq2SeqTrainingArguments, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from bench.toys import tiny
from bench.xray.arguments import resolve
from bench.xray.command import XrayConfig, look
from bench.xray.findings import find
from bench.xray.model import look_at, small_model
from bench.xray.numbers import Numbers
from bench.xray.refusals import refusals
from bench.xray.script import Given
from tests.bench.xray.configurations import CONFIGURATIONS, as_script

SLOW = set(CONFIGURATIONS) - {"course", "image-classification"}
NOT_ON_A_CPU = {"fp16", "bf16", "push_to_hub", "report_to", "evaluation_strategy", "warmup_ratio", "group_by_length"}


def model_of(name: str, folder: Path) -> Any:
    """A tiny model of the class that the tutorial trains, saved in ``folder``: config.json alone."""
    kind = getattr(transformers, name)
    config = kind.config_class()
    if not getattr(config, "vocab_size", None):
        config.hidden_size, config.num_attention_heads, config.intermediate_size, config.image_size, config.patch_size = (
            32,
            2,
            64,
            28,
            14,
        )
    for field in [field for field in vars(config) if "drop" in field and isinstance(getattr(config, field), float)]:
        setattr(config, field, 0.0)
    config.architectures = [name]
    config.save_pretrained(folder)
    torch.manual_seed(0)
    small, batch = small_model(kind, config)
    return small.train(False), batch


class Rows(torch.utils.data.Dataset):
    """Copies of the batch's two rows."""

    def __init__(self, batch: dict[str, torch.Tensor], number: int):
        self.batch, self.number = batch, number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {name: part[i % 2] for name, part in self.batch.items()}


class Watch(TrainerCallback):
    """Rates as they are used, and how often it logs a loss, evaluates and saves."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.groups: list[tuple[int, int, float]] = []
        self.times: Counter[str] = Counter()

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.groups = [
            (len(g["params"]), sum(p.numel() for p in g["params"]), g["weight_decay"]) for g in optimizer.param_groups
        ]

    def on_log(self, args, state, control, logs=None, **_):
        self.times["logging"] += "loss" in logs

    def on_evaluate(self, args, state, control, **_):
        self.times["eval"] += 1

    def on_save(self, args, state, control, **_):
        self.times["save"] += 1


class Counting(Trainer):
    """Notes how many rows each step has: one number for each of its micro-batches."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rows: dict[int, list[int]] = {}

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.rows.setdefault(self.state.global_step + 1, []).append(len(next(iter(inputs.values()))))
        return super().training_step(model, inputs, *args, **kwargs)


def trained(model: Any, batch: Any, arguments: Any, rows: int) -> tuple[Counting, Watch]:
    """Trainer, run on so many rows."""
    watch = Watch()
    trainer = Counting(
        model, arguments, train_dataset=Rows(batch, rows), eval_dataset=Rows(batch, 4), callbacks=[watch],
        data_collator=lambda some: {name: torch.stack([row[name] for row in some]) for name in some[0]},
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer, watch


def names(slow: set[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in CONFIGURATIONS]


@pytest.mark.parametrize("name", names(SLOW))
def test_a_published_configuration_does_what_is_told(name, tmp_path):
    """On a tiny model of the same class; half precision, which a CPU has not in Trainer, and the Hub are left out."""
    published = CONFIGURATIONS[name]
    model, batch = model_of(published.model, tmp_path / "model")
    (tmp_path / "train.py").write_text(as_script(published))
    rows = published.batch * 2 + 5
    case = look(
        XrayConfig(model=str(tmp_path / "model"), model_class=published.model, num_rows=rows), str(tmp_path / "train.py")
    )
    told = {finding.row for finding in find(case)}
    assert published.findings - {32, 42, 58, 48} <= told | (
        {31} if published.model.endswith("ForQuestionAnswering") else set()
    ), published.findings - told
    assert not (published.absent & {28, 30, 31} & told)
    if published.kind == "SFTConfig":
        pytest.skip("SFTTrainer is TRL's, which is not installed")
    if published.model.endswith("ForQuestionAnswering"):
        batch = {**batch, "start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([2, 3])}
        batch.pop("labels")
    values = {key: value for key, value in case.arguments.values.items() if key not in NOT_ON_A_CPU and key not in ("fp16",)}
    values |= {
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_only_model": True,
    }
    kind = Seq2SeqTrainingArguments if published.kind.startswith("Seq2Seq") else TrainingArguments
    values.pop("predict_with_generate", None)
    values["metric_for_best_model"] = "loss" if values.get("load_best_model_at_end") else None
    trainer, watch = trained(model, batch, kind(**values), rows)
    numbers = case.numbers
    assert trainer.state.global_step == numbers.num_steps
    assert sum(trainer.rows[1]) == numbers.effective_batch and len(trainer.rows[1]) == numbers.accumulation
    at_end = trainer.rows[numbers.steps_per_epoch]
    assert (len(at_end), sum(at_end)) == (numbers.last_step_of_epoch or (numbers.accumulation, numbers.effective_batch))
    assert watch.rates == [pytest.approx(numbers.rate(i + 1), rel=1e-12, abs=1e-18) for i in range(len(watch.rates))]
    trainer.model.config.save_pretrained(tmp_path / "tiny")
    facts = look_at(str(tmp_path / "tiny"), published.model)
    assert watch.groups == [(*facts.decayed, case.arguments.number("weight_decay")), (*facts.spared, 0.0)]
    for what in ("logging", "eval", "save"):
        if numbers.times(what) is not None:
            assert watch.times[what] == numbers.times(what), what
    if 57 in told:
        kept = {int(path.name.rpartition("-")[2]) for path in (tmp_path / "out").glob("checkpoint-*")}
        assert values["save_total_limit"] == 1 and kept == {trainer.state.best_global_step}


# ------------------------------------------------------------------------------------------------------------- the gradient


CLASSES = {  # what accumulation does to the gradient of each: the factor on a step of 3 micro-batches of rows of like length
    "BertForSequenceClassification": 3.0, "DistilBertForSequenceClassification": 3.0, "BertForMaskedLM": 3.0,
    "DistilBertForTokenClassification": 3.0, "BertForQuestionAnswering": 1.0, "GPT2LMHeadModel": 5 / 6, "LlamaForCausalLM": 1.0,
    "T5ForConditionalGeneration": 3.0, "ViTForImageClassification": 1.0, "GitForCausalLM": 1.0,
    "PegasusForConditionalGeneration": 3.0, "BertForMultipleChoice": 3.0,
}  # fmt: skip
QUICK = {"BertForSequenceClassification", "GPT2LMHeadModel", "BertForQuestionAnswering"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CLASSES])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_a_class_does_to_the_accumulated_gradient_is_what_is_told(name, smoothing, tmp_path):
    """The norm of Trainer's gradient over 2 x 3 rows, beside that of the mean over all of them."""
    if smoothing and name.startswith(("BertForQ", "Git", "T5", "Pegasus")):
        pytest.skip("they do not run without labels, or their logits are not the labels'")
    model, batch = model_of(name, tmp_path / "model")
    if name.endswith("ForQuestionAnswering"):
        batch = {**batch, "start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([2, 3])}
        batch.pop("labels")
    start = {key: value.clone() for key, value in model.state_dict().items()}

    def norm(**sizes: int) -> float:
        model.load_state_dict(start)
        arguments = TrainingArguments(str(tmp_path), use_cpu=True, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
                                      max_steps=1, label_smoothing_factor=smoothing, **sizes)  # fmt: skip
        trainer, _ = trained(model.eval(), batch, arguments, 6)
        return next(line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line)

    facts = look_at(str(tmp_path / "model"), name)
    ratio = norm(per_device_train_batch_size=2, gradient_accumulation_steps=3) / norm(per_device_train_batch_size=6)
    how = "items" if smoothing and facts.takes_count and facts.has_labels else facts.accumulates_by
    assert ratio == pytest.approx({"times": 3.0, "items": 1.0, "means": 1.0}[how], rel=1e-3)
    if not smoothing:
        assert {"times": 3.0, "items": (6 - facts.uncounted) / 6, "means": 1.0}[how] == pytest.approx(CLASSES[name])


def test_what_is_told_of_the_class_name_is_the_share_of_the_gradient(tmp_path):
    """GPT-2: one target too many is counted in each row, so the gradient is (T - 1) / T of that of the mean over targets."""
    model, batch = model_of("GPT2LMHeadModel", tmp_path / "model")
    model.eval()
    model(**batch).loss.backward()
    exact = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    model.zero_grad()
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
                                  max_steps=1, per_device_train_batch_size=2)  # fmt: skip
    trainer, _ = trained(model, batch, arguments, 2)
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(float(exact) * 5 / 6, rel=1e-3)
    assert look_at(str(tmp_path / "model"), "GPT2LMHeadModel").uncounted == 1


# ------------------------------------------------------------------------------------- schedules, ranks, padding, refusals


def numbers_of(values: dict[str, Any], **more: Any) -> Numbers:
    return Numbers(resolve(Given("TrainingArguments", "here", {"output_dir": "out"} | values)), **more)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "constant_with_warmup"])
@pytest.mark.parametrize("warmup", [0, 0.3, 4, 40])
def test_the_rates_are_those_of_transformers(schedule, warmup):
    """Its own functions, for a run of 20 steps; 40 steps of warm-up are more than it has."""
    numbers = numbers_of({"lr_scheduler_type": schedule, "warmup_steps": warmup, "max_steps": 20, "learning_rate": 3e-4})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    arguments = TrainingArguments("out", warmup_steps=warmup, use_cpu=True)
    theirs = transformers.get_scheduler(schedule, optimizer, arguments.get_warmup_steps(20), 20)
    for step in range(1, 21):
        assert numbers.rate(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-18), step
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("rows, world", [(100, 1), (100, 3), (104, 3), (97, 4), (5, 4), (64, 2)])
def test_the_micro_batches_of_a_rank_are_those_of_accelerate(rows, world, drop_last):
    sampler = BatchSampler(SequentialSampler(range(rows)), 8, drop_last)
    theirs = {len(list(BatchSamplerShard(sampler, world, rank))) for rank in range(world)}
    numbers = numbers_of({"dataloader_drop_last": drop_last, "per_device_train_batch_size": 8}, rows=rows, world=world)
    assert theirs == {numbers.micro_batches}
    given = [row for rank in range(world) for batch in BatchSamplerShard(sampler, world, rank) for row in batch]
    if world == 1 or drop_last:
        assert numbers.repeated is None
    else:
        assert len(given) - len(set(given)) == numbers.repeated and len(set(given)) == rows


@pytest.mark.parametrize("values", [{}, {"train_sampling_strategy": "group_by_length"}, {"dataloader_drop_last": True}])
def test_the_padding_is_that_of_trainers_batches(values, tmp_path):
    """Of the first epoch; grouped by length the order is another each time, so about as much."""
    tiny.save_model(tmp_path / "model")
    tiny.save_texts(tmp_path, train=90)
    values = {"per_device_train_batch_size": 8, "num_train_epochs": 1} | values
    (tmp_path / "args.json").write_text(json.dumps(values))
    flags = XrayConfig(model=str(tmp_path / "model"), data=str(tmp_path / "train.csv"))
    case = look(flags, str(tmp_path / "args.json"))
    assert case.padding is not None and case.numbers.rows == 90
    tokenizer = tiny.tokenizer()
    texts = [line.split(",")[0] for line in (tmp_path / "train.csv").read_text().splitlines()[1:]]
    rows = [{**tokenizer(text, truncation=True), "labels": 0} for text in texts]
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True, **values)
    trainer = Trainer(tiny.bert(), arguments, train_dataset=rows, processing_class=tokenizer)
    masks = [batch["attention_mask"] for batch in trainer.get_train_dataloader()]
    share = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    grouped = "train_sampling_strategy" in values
    assert (
        case.padding.share == pytest.approx(share, abs=0.03 if grouped else 1e-12)
        and f"{case.padding.share:.1%}" in case.padding.said
    )


@pytest.mark.parametrize(
    "values",
    [
        {"load_best_model_at_end": True, "eval_strategy": "epoch"}, {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"},
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 200}, {"fp16": True, "bf16": True},
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 250}, {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"fp16_full_eval": True, "bf16_full_eval": True}, {"lr_scheduler_type": "greedy", "eval_strategy": "epoch"},
        {"load_best_model_at_end": True, "save_strategy": "best", "eval_strategy": "epoch"}, {"evaluation_strategy": "epoch"},
        {"warmup_ratio": 0.1}, {"group_by_length": True}, {"no_cuda": True}, {"logging_dir": "logs"}, {"overwrite_output_dir": True},
        {"save_safetensors": True}, {"half_precision_backend": "auto"}, {"adafactor": True}, {"seed": 1},
    ],
)  # fmt: skip
def test_it_refuses_what_the_class_refuses(values, tmp_path):
    try:
        TrainingArguments(str(tmp_path), use_cpu=True, **values)
        refuses = False
    except (TypeError, ValueError):
        refuses = True
    said = refusals(resolve(Given("TrainingArguments", "here", {"use_cpu": False} | values)))
    assert bool(said) == refuses, said


def test_rows_of_unequal_length_do_not_stack_where_that_is_told(tmp_path):
    """Without a tokenizer or a collator; the finding about padding says so."""
    tiny.save_model(tmp_path / "model")
    tiny.save_texts(tmp_path, train=20)
    script = "args = TrainingArguments('out', seed=1)\nTrainer(model, args, train_dataset=rows{})\n"
    said = {}
    for more in ("", ", processing_class=tokenizer"):
        (tmp_path / "train.py").write_text(script.format(more))
        case = look(XrayConfig(model=str(tmp_path / "model"), data=str(tmp_path / "train.csv")), str(tmp_path / "train.py"))
        said[more] = next(finding.said for finding in find(case) if finding.row == 10)
    assert "rows of unequal length do not stack" in said[""] and "stack" not in said[", processing_class=tokenizer"]
    rows = [{"input_ids": list(range(5, 5 + n)), "labels": 0} for n in range(2, 10)]
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True)
    with pytest.raises(ValueError):
        Trainer(tiny.bert(), arguments, train_dataset=rows).train()


RANKED = """
import sys, torch, transformers
sys.path.insert(0, sys.argv[1])
from bench.toys import tiny
from transformers import Trainer, TrainingArguments
torch.manual_seed(0)
model = tiny.bert(dropout=0.0)
rows = [{"input_ids": [5 + i % 7] * 6, "attention_mask": [1] * 6, "labels": i % 3} for i in range(8)]
args = TrainingArguments(sys.argv[2], use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=1, max_steps=1,
                         per_device_train_batch_size=int(sys.argv[3]), average_tokens_across_devices=sys.argv[4] == "True")
trainer = Trainer(model, args, train_dataset=rows)
trainer.train()
if args.process_index == 0:
    print("NORM", trainer.state.log_history[0]["grad_norm"])
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_multiply_the_gradient_as_is_told(tmp_path):
    """The same 8 rows: in one process, and 4 on each of two (gloo)."""
    (tmp_path / "ranked.py").write_text(RANKED)
    norms = []
    for processes, size, averages in ((1, 8, True), (2, 4, True), (2, 4, False)):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
                   str(tmp_path / "ranked.py"), str(Path(__file__).parents[3]), str(tmp_path / "out"), str(size), str(averages)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
        assert "NORM" in done.stdout, done.stderr[-2000:]
        norms.append(float(done.stdout.split("NORM")[1].split()[0]))
    tiny.save_model(tmp_path / "model")
    said = []
    for arguments in ({}, {"average_tokens_across_devices": False}):
        (tmp_path / "args.json").write_text(json.dumps({"per_device_train_batch_size": 4} | arguments))
        found = find(look(XrayConfig(model=str(tmp_path / "model"), num_processes=2), str(tmp_path / "args.json")))
        said.append({finding.row: finding.said for finding in found})
    assert "2 times too large" in said[0][28] and 64 not in said[0] and 64 in said[1] and 28 not in said[1]
    assert [norm / norms[0] for norm in norms] == [1, pytest.approx(2, rel=1e-3), pytest.approx(1, rel=1e-3)]
