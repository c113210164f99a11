"""--task sft: what is an answer, conversations that do not see each other, TRL beside it, and one line for every mistake."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

import run
from engine.build import build
from engine.config import TrainConfig
from engine.data.collate import Layout
from engine.data.sources import Source, SourceConfig
from engine.data.taken import TakenModel
from engine.errors import DataError, ModelError
from engine.loop import train_step
from engine.model import packing, target_logits
from tasks.language.conversations import messages_in
from tasks.language.generate import chat_prompt
from tasks.language.scratch import CHAT_TEMPLATE, END, train_tokenizer
from tasks.language.sft import SFT, SFTOptions
from tasks.language.templates import TemplateError, within_limits
from tasks.samples.instructions import conversations
from tests.toys.cli import fails
from tests.toys.language import gpt2

TALKS = conversations(60, seed=1)
# ChatML, as many models have it, and without marks for answers
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETFUL = "{% for m in messages %}{{ (m['content'] if loop.last else '...') + eos_token }}{% endfor %}"
STRICT = "{{ raise_exception('roles must alternate') }}"


def make_tokenizer(template: str | None = CHAT_TEMPLATE) -> Any:
    tokenizer = train_tokenizer([m["content"] for talk in TALKS for m in talk])
    tokenizer.chat_template = template
    return tokenizer


def make_model(tokenizer: Any, **changes: Any) -> Any:
    end = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    return gpt2(vocab_size=len(tokenizer), n_positions=256, **end, **changes)


def make_task(rows: dict[str, list[Any]], template: str | None = CHAT_TEMPLATE, **options: Any) -> SFT:
    task = SFT(SFTOptions(**options), Source(SourceConfig(), {"train": Dataset.from_dict(rows)}))
    task._tokenizer = make_tokenizer(template)
    task._config = make_model(task._tokenizer).config
    return task


def answers(task: SFT) -> list[str]:
    """What each row's labels say, an end of turn between two answers."""
    examples = task.examples()["train"]
    found = []
    for i in range(len(examples)):
        row = examples[i]
        labels = row["labels"]
        assert (labels[:-1][labels[:-1] != -100] == row["input_ids"][1:][labels[:-1] != -100]).all() and labels[-1] == -100
        found.append(task.tokenizer.decode(labels[labels != -100]))
    return found


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, CHATML], ids=["marked", "not marked"])
def test_the_labels_are_the_answers(template):
    """Every assistant turn with the end of its turn, and nothing else; with and without marks in the template."""
    end = END if template == CHAT_TEMPLATE else "<|im_end|>\n"
    wanted = ["".join(m["content"] + end for m in talk if m["role"] == "assistant") for talk in TALKS]
    assert answers(make_task({"messages": TALKS}, template)) == wanted
    assert any(len(talk) == 4 for talk in TALKS), "conversations of two turns are among them"


def test_marked_and_unmarked_templates_agree():
    """The same text, once with {% generation %} and once without."""
    plain = CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    one, two = (make_task({"messages": TALKS}, template).examples()["train"] for template in (CHAT_TEMPLATE, plain))
    assert one.fingerprint() == two.fingerprint()


def test_a_completion_is_the_answer_to_its_prompt():
    rows = {"prompt": ["What is 2?\n", "Say one "], "completion": ["two", "one" + END]}
    task = make_task(rows, template=None, prompt_column="prompt")
    assert [text.strip() for text in answers(task)] == ["two" + END, "one" + END], "one end token, not two"


def test_other_labels_make_other_data():
    one = make_task({"prompt": ["a b c"], "completion": [" d"]}, prompt_column="prompt").examples()["train"]
    two = make_task({"prompt": ["a b"], "completion": [" c d"]}, prompt_column="prompt").examples()["train"]
    assert (one[0]["input_ids"] == two[0]["input_ids"]).all()
    assert one.fingerprint() != two.fingerprint()


def test_what_is_cut_is_counted(capsys):
    """A conversation whose answer lies behind the limit teaches nothing: it is left out."""
    talk = [{"role": "user", "content": "red " * 30}, {"role": "assistant", "content": "blue"}]
    task = make_task({"messages": [talk, *TALKS[:3]]}, max_length=25)
    assert len(task.examples()["train"]) == 3
    lines = capsys.readouterr().err
    assert (
        "conversations cut to 25 tokens" in lines and "1 conversations left out: within 25 tokens there is no answer" in lines
    )
    with pytest.raises(DataError, match="no answer lies within 5 tokens: raise --max-length"):
        make_task({"messages": [talk]}, max_length=5).examples()


def test_a_conversation_does_not_see_its_neighbours():
    """Packed: its logits stay, to the bit, when all others change; without the walls between them they would not."""
    task = make_task({"messages": TALKS})
    examples = task.examples()["train"]
    model = make_model(task.tokenizer).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)  # attention far from even
    packing.enable(model, "token")
    target_logits.enable(model, "token")

    def logits(rows: list[int], lengths: int | None = None) -> torch.Tensor:
        batch = task.collate([examples[i] for i in rows], Layout("packed"))
        if lengths is not None:  # one wall less: the first two conversations become one
            batch.inputs["cu_seq_lens_q"] = batch.inputs["cu_seq_lens_q"][[0, *range(2, len(rows) + 1)]]
        with torch.no_grad():
            found = model(**batch.inputs).logits[0]
        counts = [int((examples[i]["labels"] != -100).sum()) for i in rows]
        return found[counts[0] : counts[0] + counts[1]]

    same = [i for i in range(60) if len(examples[i]["input_ids"]) == len(examples[3]["input_ids"]) and i != 7]
    before, after = logits([same[0], 7, 5]), logits([same[1], 7, 9])
    assert torch.equal(before, after)
    assert not torch.allclose(logits([same[0], 7, 5], 1), logits([same[1], 7, 9], 1), atol=1e-3)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("hello", "row 1: a list of messages is needed, found 'hello'"),
        ([], "row 1: a list of messages is needed"),
        ([{"role": "user", "content": None}], 'row 1: a message must be {"role": text, "content": text}'),
        ([{"role": "user", "content": "Hi"}], "row 1: no message has the role 'assistant'"),
    ],
)
def test_rows_that_are_no_conversations(row, words):
    with pytest.raises(DataError) as caught:
        make_task({"messages": [row]}).examples()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "completion", "words"),
    [("Hi", " ", "row 1: the completion is blank"), ("Hi", None, "row 1: prompt and completion must be texts, found None")],
)
def test_rows_that_are_no_prompts(prompt, completion, words):
    with pytest.raises(DataError) as caught:
        make_task({"prompt": [prompt], "completion": [completion]}, prompt_column="prompt").examples()
    assert words in str(caught.value)


BOMBS = {  # a template, and what is said of it
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}": "it takes more than 1 seconds",
    "{{ 10 ** (10 ** 9) }}": "it takes more than 1 seconds",
    "{{ 1.5|round(1000000000, 'floor') }}": "it takes more than 1 seconds",
    "{{ 'a' * (10 ** 10) }}": "it takes more than 1 GiB of memory",
    "{{ 1 / 0 }}": "ZeroDivisionError: division by zero",
    "{{ 'a' + 1 }}": "TypeError: can only concatenate str",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}": "RecursionError: ",
    "{{ raise_exception('no') }}": "(no)",
    "{{ messages[9].content.x }}": "has no element 9",
    "{% for %}": "Expected an expression",
    "{{ ''.__class__.x }}": "is unsafe",
    "{% generation %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endgeneration %}": "1 seconds",
}  # fmt: skip


@pytest.mark.parametrize("template", BOMBS)
def test_a_template_without_end_or_with_an_error_is_one_line(template, monkeypatch):
    """In training and in generate; nothing of it is left behind."""
    monkeypatch.setattr("tasks.language.templates.SECONDS", 1)
    task = make_task({"messages": TALKS[:2]}, template)
    began = time.monotonic()
    with pytest.raises(DataError, match=r"train data, .*row 1: the model's chat template does not take it \(") as caught:
        task.examples()
    assert BOMBS[template] in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500
    task.source.taken_model = TakenModel("model", "a model")
    with pytest.raises(ModelError, match=r"model model: its chat template fails \(") as refused:
        chat_prompt(task, "hello")
    assert BOMBS[template] in str(refused.value)
    assert time.monotonic() - began < 20
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_a_template_makes_is_bounded(monkeypatch):
    monkeypatch.setattr("tasks.language.templates.LONGEST", 1 << 20)
    found = within_limits(lambda size: "x" * size, [10, 2 << 20])
    assert next(found) == "x" * 10
    with pytest.raises(TemplateError, match="it makes more than 1 MiB"):
        next(found)
    with pytest.raises(TemplateError, match="it has ended its process"):
        list(within_limits(lambda _: os._exit(1), [1]))


def test_a_template_that_fails_late_names_its_row():
    task = make_task({"messages": TALKS[:5]}, "{% if messages[0].content == " + json.dumps(TALKS[3][0]["content"]) + " %}{{ 1 / 0 }}{% endif %}"
                     + CHATML)  # fmt: skip
    with pytest.raises(DataError, match=r"row 4: .*division by zero"):
        task.examples()


def test_templates_that_do_not_fit():
    two_turns = [talk for talk in TALKS if len(talk) == 4]
    with pytest.raises(DataError, match="renders message 2 otherwise when more follow"):
        make_task({"messages": two_turns}, FORGETFUL).examples()
    with pytest.raises(DataError, match=r"row 1: the model's chat template does not take it .roles must alternate"):
        make_task({"messages": TALKS}, STRICT).examples()
    with pytest.raises(ValueError, match=r"its tokenizer has no chat template\. Take a model that has one") as caught:
        make_task({"messages": TALKS}, None).examples()
    assert caught.value.exit_code == 4


# ----------------------------------------------------------------------------------------------------- through run.py


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    tokenizer = make_tokenizer()
    make_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "train.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in TALKS))
    assert run.main(command(folder, "--output-dir", str(folder / "run"))) == 0
    return folder


def command(folder, *more: str) -> list[str]:
    return ["--task", "sft", "--model", str(folder / "model"), "--train-file", str(folder / "train.jsonl"), "--eval-fraction",
            "0.2", "--epochs", "2", "--learning-rate", "1e-3", "--device", "cpu", *more]  # fmt: skip


def test_generate_chat_equals_transformers(project, capsys):
    question = "Which word comes last: red, moon?"
    arguments = ["generate", "--model", str(project / "run"), "--device", "cpu", "--max-new-tokens", "8"]
    assert run.main([*arguments, "--chat", question]) == 0
    printed = capsys.readouterr().out.removesuffix("\n")
    model, tokenizer = (auto.from_pretrained(project / "run") for auto in (AutoModelForCausalLM, AutoTokenizer))
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    row = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert printed == tokenizer.decode(row, skip_special_tokens=True)


def test_wrong_columns_are_one_line(project, tmp_path, capsys):
    out = ["--output-dir", str(tmp_path / "out")]
    code, line = fails(command(project, *out, "--messages-column", "talk"), capsys)
    assert code == 3 and "'talk'" in line
    code, line = fails(command(project, *out, "--prompt-column", "prompt"), capsys)
    assert code == 3 and "'prompt'" in line


# ----------------------------------------------------------------------------------------------------------- beside TRL


@pytest.mark.slow
@pytest.mark.parametrize("form", ["messages", "prompt"])
def test_trls_trainer_on_the_same_rows(form, tmp_path):
    """SFTTrainer with the loss on answers only: the same loss at step 1, and the same curve, to rounding."""
    trl = pytest.importorskip("trl")
    if form == "messages":
        rows: dict[str, list[Any]] = {"messages": TALKS}
        task = make_task(rows)
    else:
        rows = {"prompt": [talk[0]["content"] + "\n" for talk in TALKS], "completion": [talk[1]["content"] for talk in TALKS]}
        task = make_task(rows, prompt_column="prompt")
    settings = {"learning_rate": 1e-4, "weight_decay": 0.1, "seed": 7, "max_grad_norm": 0.5}
    theirs, ours = (make_model(task.tokenizer) for _ in range(2))
    arguments = trl.SFTConfig(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=8, use_cpu=True, bf16=False, logging_steps=1,
        gradient_checkpointing=False, save_strategy="no", report_to=[], disable_tqdm=True, loss_type="nll", max_length=128,
        assistant_only_loss=form == "messages", eos_token=END, **settings,
    )  # fmt: skip
    trainer = trl.SFTTrainer(theirs, arguments, train_dataset=Dataset.from_dict(rows), processing_class=make_tokenizer())
    trainer.train()
    log = [line for line in trainer.state.log_history if "grad_norm" in line]
    config = TrainConfig(batch_size=8, epochs=2, device="cpu", precision="fp32", batching="packed", **settings)
    setup = build(task, task.examples()["train"], config, ours)
    setup.state.model.train()
    records = [train_step(setup.state, task, batches, config, setup.world) for _, batches in setup.data.steps()]
    losses = [float(r.loss_sum / r.num_items) for r in records]
    assert len(log) == len(losses) == 16
    assert losses[0] == pytest.approx(log[0]["loss"], rel=1e-6)
    np.testing.assert_allclose(losses, [line["loss"] for line in log], rtol=1e-4)
    np.testing.assert_allclose([float(r.grad_norm) for r in records], [line["grad_norm"] for line in log], rtol=1e-3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "cell",
    [
        [{"from": "human", "value": "red?"}, {"from": "gpt", "value": "yes"}],
        [
            {"role": "user", "content": [{"type": "text", "text": "re"}, {"type": "text", "text": "d?"}]},
            {"role": "assistant", "content": "yes"},
        ],
        '[{"role": "user", "content": "red?"}, {"role": "assistant", "content": "yes"}]',
    ],
)
def test_conversations_as_they_come(cell):
    """ShareGPT's, contents in parts, and JSON in the cell of a CSV file are the messages that they mean."""
    found = [(message["role"], message["content"]) for message in messages_in(cell, "here")]
    assert found == [("user", "red?"), ("assistant", "yes")]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ([{"from": "bot", "value": "x"}], "a message is from 'bot', and known are human"),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}],
            "calls tools, which is not trained on: leave such",
        ),
        ([{"role": "user", "content": [{"type": "image"}]}], "is no text, and texts are what is learned"),
        ("[{]", "is not JSON"),
        ([{"from": "human", "value": "x"}], "no message has the role 'assistant'"),
    ],
)
def test_conversations_that_are_refused(cell, said):
    with pytest.raises(DataError) as error:
        messages_in(cell, "train data, row 1")
    assert str(error.value).startswith("train data, row 1: ") and said in str(error.value)


def test_columns_of_others_are_named_with_the_flags_that_take_them(tmp_path, capsys):
    """And those flags do: of Alpaca's rows both the instruction and its input are learned from, a line each."""
    (tmp_path / "a.jsonl").write_text(
        '{"instruction": "w1", "input": "w2", "output": "w3"}\n{"instruction": "w4", "input": "", "output": "w5"}\n'
    )
    (tmp_path / "s.jsonl").write_text('{"conversations": [{"from": "human", "value": "w1"}, {"from": "gpt", "value": "w2"}]}\n')
    for name, way in (
        ("s", "--messages-column conversations"),
        ("a", "--prompt-column instruction,input --completion-column output"),
    ):
        task = SFT(SFTOptions(), Source(SourceConfig(train_file=str(tmp_path / f"{name}.jsonl"))))
        with pytest.raises(DataError, match="another column: ") as error:
            task.tables()
        assert str(error.value).endswith(way)
    options = SFTOptions(prompt_column="instruction,input", completion_column="output")
    task = SFT(options, Source(SourceConfig(train_file=str(tmp_path / "a.jsonl"))))
    assert task.read(task.tables()["train"], "train") == [("w1\nw2", "w3"), ("w4", "w5")]
