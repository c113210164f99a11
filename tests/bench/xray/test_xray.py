"""xray reads arguments without running anything, and tells what Trainer would do: published configurations, bad input."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from transformers import BertConfig, Seq2SeqTrainingArguments, TrainingArguments

import run
from bench.bad_input.case import call
from bench.xray.arguments import fields_of, resolve
from bench.xray.case import ALWAYS, LEARNED, PAGE, TITLES
from bench.xray.command import XrayConfig, look
from bench.xray.findings import find
from bench.xray.refusals import refusals
from bench.xray.script import Unknown, of_script
from bench.xray.translate import NO_TASK, translate
from engine.config import TrainConfig
from engine.data.sources import SourceConfig
from engine.settings.parser import parse
from tasks import flags_of
from tests.bench.xray.configurations import CONFIGURATIONS, as_script

ROOT = Path(__file__).parents[3]
IS_TODAY = pytest.mark.skipif(
    not version("transformers").startswith("5.23"), reason="names and defaults as transformers 5.23 has them"
)


def given(text: str, **picked):
    return of_script(Path("train.py"), text, picked.get("number"), picked.get("line"))


def case_of(tmp_path, text: str, name: str = "train.py", **flags):
    (tmp_path / name).write_text(text)
    return look(XrayConfig(**flags), str(tmp_path / name))


# -------------------------------------------------------------------------------------------------------- the installed class


@pytest.mark.parametrize("kind", [TrainingArguments, Seq2SeqTrainingArguments])
def test_the_fields_and_defaults_read_are_those_of_the_class(kind):
    """Read from the source, without torch; compared with the dataclass itself."""
    real = {
        field.name: field.default if field.default is not dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(kind)
    }
    assert fields_of(kind.__name__) == real


def test_no_torch_is_imported_and_the_script_is_not_run(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nimport torch, nowhere\nTrainingArguments('out', seed=1)\n")
    code = f"import sys, run; assert run.main(['xray', {str(script)!r}]) == 0; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists() and "seed=1 is set when Trainer is made" in done.stdout


def test_the_titles_are_those_of_the_page():
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    on_page = {int(number): title for number, title in re.findall(r"^(\d+)\. \*\*(.+?)\.\*\*", page, flags=re.MULTILINE)}
    assert {number: on_page[number] for number in TITLES} == TITLES
    around = {46, 60, 61, 62, 63}  # of loops written by hand, and of what goes around the training: no argument says it
    assert set(ALWAYS) | set(TITLES) | around == set(on_page)
    assert not around & (set(ALWAYS) | set(TITLES))
    assert not set(ALWAYS) & set(TITLES) and set(TITLES) >= LEARNED


# --------------------------------------------------------------------------------------------------------- reading a script


@pytest.mark.parametrize(
    ("before", "expression", "value"),
    [
        ("", "8", 8), ("", "-1", -1), ("", "'epoch'", "epoch"), ("B = 4", "B", 4), ("B = 128\nM = 4", "B // M", 32),
        ("B: int = 4", "B * 2", 8), ("A = 2\nB = A", "B", 2), ("", "[1, 2]", [1, 2]), ("", "2 * 10 ** 3", Unknown),
        ("B = 4\nB = 8", "B", Unknown), ("B = 4\nB += 1", "B", Unknown), ("for B in (1, 2): pass", "B", Unknown),
        ("from config import B", "B", Unknown), ("B = 4\nfrom config import *", "B", Unknown), ("from config import *\nB = 4", "B", 4),
        ("B = 4\ndef f(B): pass", "B", Unknown), ("if (B := 4): pass", "B", Unknown), ("", "args.batch", Unknown),
        ("", "int('8')", Unknown), ("B = 0", "1 // B", Unknown), ("A = B\nB = A", "A", Unknown), ("", "f'{1}'", Unknown),
        ("B = 4\nwith open('x') as B: pass", "B", Unknown), ("B = 4\ntry: pass\nexcept E as B: pass", "B", Unknown),
        ("B = 4\ndef f():\n    global B\n    B = 3", "B", Unknown), ("(B, C) = 1, 2", "B", Unknown),
    ],
)  # fmt: skip
def test_what_a_value_is_followed_to(before, expression, value):
    found = given(f"{before}\nx = TrainingArguments(save_steps={expression})").values["save_steps"]
    assert isinstance(found, Unknown) if value is Unknown else found == value


def test_what_is_set_behind_the_call_is_not_taken_for_known():
    text = (
        "args = TrainingArguments('o', seed=1, warmup_steps=5)\nargs.seed = 2\nargs.set_logging(steps=1)\nsetattr(args, x, 1)\n"
    )
    found = given(text)
    assert isinstance(found.values["seed"], Unknown) and "line 2" in str(found.values["seed"])
    assert found.values["warmup_steps"] == 5 and "line 3" in found.notes[0] and "line 4" in found.notes[1]


def test_what_the_rest_of_the_script_says():
    text = """
from transformers import AutoModelForCausalLM as A, TrainingArguments as TA, Trainer
import torch
name = "gpt2"
model = A.from_pretrained(name, dtype=torch.bfloat16)
tokens = tokenizer(texts, padding="max_length", max_length=64)
class Mine(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return loss(num_items_in_batch)
t = Mine(model, TA("out", seed=1), compute_metrics=f, model_init=None)
"""
    found = given(text)
    clues = found.clues
    assert found.kind == "TrainingArguments" and (clues.model_class, clues.checkpoint) == ("AutoModelForCausalLM", "gpt2")
    assert clues.half == "torch.bfloat16" and clues.pads_to_max_length and clues.max_length == 64
    assert clues.own_loss == "Mine, line 8, which reads num_items_in_batch" and clues.passed == {"compute_metrics"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "no TrainingArguments(...) is called in it; if a parser fills them, give what json.dump"),
        ("TrainingArguments('a')\nTrainingArguments('b')\n", "2 TrainingArguments(...) are called, at lines 1, 2: say which with --number 2"),
        ("TrainingArguments(**kwargs)\n", "train.py, line 1: arguments are handed on with a star"),
        ("TrainingArguments(*args)\n", "handed on with a star"),
        ("TrainingArguments('out', True, False)\n", "3 arguments without a name"),
        ("TrainingArguments('out', learning_rat=1)\n", "has no argument 'learning_rat' (did you mean learning_rate?)"),
        ("TrainingArguments(\n", "train.py, line 1: this is no Python that can be read"),
        ("TrainingArguments()\n", "no arguments are given"),
        ("TrainingArguments('o', per_device_train_batch_size='8')\n", "per_device_train_batch_size must be a number, found '8'"),
        ("TrainingArguments('o', per_device_train_batch_size=0)\n", "must be a whole number of at least 1, found 0"),
        ("TrainingArguments('o', fp16='yes')\n", "fp16 must be true or false, found 'yes'"),
    ],
)  # fmt: skip
def test_a_script_that_cannot_be_read_is_one_line(text, words, tmp_path):
    (tmp_path / "train.py").write_text(text)
    done = call(["xray", str(tmp_path / "train.py")])
    assert done.code in (2, 3) and done.out == "" and done.err.count("\n") == 1 and words in done.err, done


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not valid JSON"), ("[1]", "must hold arguments by name"), ("{}", "no arguments are given"),
     ('{"lr": 1}', "has no argument 'lr'"), ('{"num_train_epochs": "3"}', "num_train_epochs must be a number, found '3'")],
)  # fmt: skip
def test_a_json_file_that_cannot_be_read_is_one_line(text, words, tmp_path):
    (tmp_path / "args.json").write_text(text)
    done = call(["xray", str(tmp_path / "args.json")])
    assert done.code in (2, 3) and done.out == "" and done.err.count("\n") == 1 and words in done.err, done


def test_one_of_several_is_picked_by_number_or_line(tmp_path):
    text = "a = TrainingArguments('a', seed=1)\nb = TrainingArguments(\n    'b',\n    seed=2,\n)\n"
    assert given(text, number=2).values["seed"] == 2 == given(text, line=4).values["seed"]
    assert given(text, number=1).values["seed"] == 1 == given(text, line=1).values["seed"]
    (tmp_path / "train.py").write_text(text)
    for flags, words in (
        (["--number", "3"], "--number must be between 1 and 2 here (lines 1, 2), found 3"),
        (["--line", "9"], "--line 9: no TrainingArguments(...) there; there are some at 1, 2"),
        (["--number", "1", "--line", "1"], "both pick a call"),
    ):
        done = call(["xray", str(tmp_path / "train.py"), *flags])
        assert done.code == 2 and words in done.err, done


def test_a_dictionary_saved_by_the_class_is_read(tmp_path):
    arguments = TrainingArguments(str(tmp_path), learning_rate=3e-5, warmup_steps=0.2, eval_strategy="epoch", use_cpu=True)
    case = case_of(tmp_path, json.dumps(arguments.to_dict()), "args.json", num_rows=80)
    assert (case.numbers.num_steps, case.numbers.warmup, case.numbers.effective_batch) == (30, 6, 8)
    assert {20, 23, 24, 50} - {20} <= {finding.row for finding in find(case)}


# ---------------------------------------------------------------------------------------------------- published configurations


def test_a_configuration_says_where_it_stands():
    """Repository, commit and file of each; no two of one file."""
    sources = [each.source for each in CONFIGURATIONS.values()]
    assert len(set(sources)) == len(sources) >= 12
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}:\S+\.(py|md|mdx|ipynb)", source) for source in sources)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_published_configuration_has_the_findings_it_should(name, tmp_path):
    """Without a model: what the class does to the gradient, 28 to 31, is told only where one is given."""
    expected = CONFIGURATIONS[name]
    case = case_of(tmp_path, as_script(expected), num_rows=expected.rows)
    assert (case.numbers.effective_batch, case.numbers.num_steps) == (expected.batch, expected.steps)
    if expected.kind != "SFTConfig" or expected.warmup:
        assert case.numbers.warmup == expected.warmup
    of_class = {28, 30, 31, 45}
    rows = {finding.row for finding in find(case)}
    assert expected.findings - of_class <= rows and not expected.absent - of_class & rows
    said = refusals(case.arguments)
    assert {word for word in expected.refused if any(line.startswith(f"{word} ") for line in said)} == expected.refused


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_command_is_one_that_the_parser_takes(name, tmp_path):
    expected = CONFIGURATIONS[name]
    case = case_of(
        tmp_path, as_script(expected) + f"\nmodel = {expected.model}.from_pretrained('some/model')\n", num_rows=expected.rows
    )
    command = translate(case)
    if expected.in_command is None:
        assert "--task TASK" in command.text and (expected.model, NO_TASK) in command.left
        return
    assert all(words in command.text for words in expected.in_command), command.text
    assert command.text == f"python run.py {shlex.join(command.argv)}"
    task = command.argv[command.argv.index("--task") + 1]
    config, source, _ = parse(command.argv, "run.py", [TrainConfig, SourceConfig, flags_of(task)[0]], flags_of(task)[1])
    assert (config.batch_size * config.accumulation_steps, source.model) == (expected.batch, "some/model")
    assert all(why for _, why in command.left)
    a = case.arguments
    asked = {  # and each number is that of Trainer, whatever the task's own default is
        "learning_rate": a.number("learning_rate"), "weight_decay": a.number("weight_decay"), "seed": a.whole("seed"),
        "epochs": a.number("num_train_epochs"), "max_grad_norm": a.number("max_grad_norm"), "schedule": a.text("lr_scheduler_type"),
        "eval_batch_size": a.whole("per_device_eval_batch_size"), "adam_beta2": a.number("adam_beta2"),
    }  # fmt: skip
    if a.number("max_steps") > 0:  # which overrides them
        del asked["epochs"]
    assert {name: getattr(config, name) for name in asked} == asked
    warmup = a.number("warmup_steps")
    assert (config.warmup_steps or config.warmup_ratio) == warmup
    is_grouped = a.text("train_sampling_strategy") == "group_by_length"
    assert config.batching == ("bucketed" if is_grouped else "padded")
    if a.truth("bf16") is not None:
        assert config.precision == ("bf16" if a.truth("bf16") else "fp16" if a.truth("fp16") else "fp32")


def test_a_default_of_a_task_does_not_stand_in_for_trainers(tmp_path):
    """mlm's own learning rate is 1e-4 and its warm-up 6%: Trainer's 2e-5 and none are written down, though they are our usual ones."""
    made = "\nmodel = BertForMaskedLM.from_pretrained('m')\n"
    case = case_of(tmp_path, "TrainingArguments('o', learning_rate=2e-5)" + made)
    assert "--learning-rate 2e-05" in translate(case).text and "--warmup-ratio 0" in translate(case).text
    unknown = case_of(tmp_path, "TrainingArguments('o', learning_rate=2e-5)\n")
    assert "--task TASK" in translate(unknown).text and "--learning-rate 2e-05" in translate(unknown).text


def rows_of(tmp_path, text: str, **flags) -> set[int]:
    return {finding.row for finding in find(case_of(tmp_path, text, **flags))}


def test_what_the_script_does_beside_the_arguments_is_heeded(tmp_path):
    """A finding is not told where another line of the script makes it untrue."""
    text = "{}\nargs = TrainingArguments('o', eval_strategy='epoch', warmup_steps=5, weight_decay=0.1)\nTrainer(m, args{})\n"
    assert {1, 20, 22, 23, 44} <= rows_of(tmp_path, text.format("", ", compute_metrics=f"))
    assert 1 not in rows_of(tmp_path, text.format("set_seed(1)", "")) and 1 not in rows_of(
        tmp_path, text.format("", ", model_init=f")
    )
    assert not {20, 22, 23} & rows_of(tmp_path, text.format("", ", optimizers=(a, b)"))
    assert 44 not in rows_of(tmp_path, text.format("", ", compute_metrics=f, preprocess_logits_for_metrics=g"))
    assert 44 not in rows_of(tmp_path, text.format("", ""))


def test_lora_and_several_processes_are_in_the_command(tmp_path):
    text = "LoraConfig(r=8, lora_dropout=0.05)\nBitsAndBytesConfig(load_in_4bit=True)\nTrainingArguments('o', num_train_epochs=1)\n"
    command = translate(case_of(tmp_path, text, num_processes=4))
    assert command.text.startswith("torchrun --nproc-per-node 4 run.py ") and "--batch-size 32" in command.text
    assert "--lora --lora-alpha 8 --lora-dropout 0.05" in command.text and "--lora-rank" not in command.text
    assert ("4 or 8 bits", "not yet: weights are float32 here") in command.left


def test_what_has_no_flag_is_named_with_its_reason(tmp_path):
    case = case_of(
        tmp_path, "TrainingArguments('o', neftune_noise_alpha=5, optim='paged_adamw_8bit', num_train_epochs=1.5, fp16=True)\n"
    )
    left = dict(translate(case).left)
    assert left["neftune_noise_alpha"] == "not yet" and left["optim"].startswith("paged_adamw_8bit is not among ours")
    assert "--num-rows" in left["num_train_epochs"] and "save_total_limit" in left


def test_a_class_that_is_not_installed_has_defaults_that_are_said_to_be_unknown(tmp_path):
    if fields_of("SFTConfig") is not None:
        pytest.skip("trl is installed here")
    done_on = CONFIGURATIONS["sft"]
    (tmp_path / "train.py").write_text(as_script(done_on))
    done = call(["xray", str(tmp_path / "train.py")])
    assert done.code == 0 and "SFTConfig has defaults of its own" in done.out and "dataset_text_field, max_length" in done.out
    found = resolve(given("from trl import SFTConfig\nSFTConfig('out', seed=1)"))
    assert found.number("max_grad_norm") == 1.0, "that of TrainingArguments"
    assert found.number("learning_rate") is None and found.truth("bf16") is None and found.number("logging_steps") is None
    installed = dataclasses.replace(found, defaults={"bf16": None, "seed": 42})  # as TRL's own source has it: on unless fp16 is
    assert installed.truth("bf16") is None and installed.number("seed") == 1
    other = resolve(given("from trl import OtherConfig\nOtherConfig('out', seed=1)"))
    assert other.number("max_grad_norm") is None and other.number("seed") == 1


@IS_TODAY
def test_the_page_shows_what_the_command_prints(tmp_path, monkeypatch):
    """docs/xray.md: the script that stands there, and the output below it."""
    page = (ROOT / "docs/xray.md").read_text(encoding="utf-8")
    script, output = re.search(r"```python\n(.*?)```.*?```bash.*?```\n+```\n(.*?)```", page, flags=re.DOTALL).groups()
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(script)
    config = BertConfig()  # that of bert-base-uncased
    config.architectures = ["BertForMaskedLM"]
    config.save_pretrained("bert-base-uncased")
    typed = re.search(r"^python run.py (xray train.py --model .*)$", page, flags=re.MULTILINE)[1]
    done = call(typed.split())
    assert done.code == 0 and done.out == output, done.err


def test_the_command_runs_from_the_command_line_and_points_to_the_page(tmp_path, capsys):
    (tmp_path / "train.py").write_text(as_script(CONFIGURATIONS["image-classification"]))
    assert run.main(["xray", str(tmp_path / "train.py"), "--num-rows", "4000"]) == 0
    said = capsys.readouterr().out
    for words in (
        "64 examples a step = 16 per device x 4 accumulated x 1 process", "189 = 3 epochs of 63 an epoch, of 250 micro-batches",
        "19 steps of warm-up; first step 0", f"rows of {PAGE}", " 28  Accumulation multiplies the gradient: 4 micro-batches", "--warmup-ratio 0.1",
        "warmup_steps=0.1 is a share of all steps, rounded up: 19 of 189 steps",
    ):  # fmt: skip
        assert words in said, words
    assert max(map(len, said.splitlines()[1:])) <= 126
