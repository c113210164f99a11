"""--task reward and --task dpo: forms of rows, the reference, figures, the finished models' use. TRL: test_parity_with_trl.py."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import run
from engine.build import build
from engine.config import TrainConfig
from engine.data.collate import Layout
from engine.errors import DataError, ModelError, UsageError
from engine.finished import open_model
from engine.loop import train_step
from tasks import find
from tasks.preferences.metrics import PreferenceMetrics
from tasks.preferences.rows import preference, preferences_of, without_prompt
from tasks.samples.instructions import question
from tasks.samples.preferences import preferences, wrong
from tests.toys.answers import save_rows
from tests.toys.cli import fails
from tests.toys.killed import assert_same_bits, assert_sigkill_changes_nothing, lines_of, train_to
from tests.toys.preferring import as_texts, make_task, model, save_model, tokenizer
from tests.toys.ranks import assert_two_ranks_are_one

KINDS = ("reward", "dpo")
ONE = [pytest.param(kind, marks=pytest.mark.slow if kind == "reward" else ()) for kind in KINDS]
USER, SAYS = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A language model, preferences as conversations and as texts, and a finished run of each task."""
    folder = tmp_path_factory.mktemp("preferences")
    save_model(folder / "model")
    for name, rows in (("train", preferences(80, 0)), ("eval", preferences(40, 1))):
        save_rows(folder / f"{name}.jsonl", rows)
        save_rows(folder / f"{name}-texts.jsonl", as_texts(rows))
    for kind in KINDS:
        more = ["--output-dir", str(folder / kind), "--epochs", "3", "--learning-rate", "3e-3", "--precision", "fp32"]
        assert run.main([*command(folder, kind), *more]) == 0
    return folder


def command(
    folder: Path, kind: str, train: Any = "train.jsonl", evaluation: Any = "eval.jsonl", prompt: str = "none"
) -> list[str]:
    held_out = ["--eval-file", str(folder / evaluation)] if evaluation else []
    return ["--task", kind, "--model", str(folder / "model"), "--train-file", str(folder / train), *held_out, "--device", "cpu",
            "--batch-size", "8", "--max-length", "64", "--prompt-column", prompt]  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- rows


def test_what_both_answers_begin_with():
    assert without_prompt("q: yes no", "q: yes it is") == ("q: yes", " no", " it is")
    assert without_prompt([USER, SAYS], [USER, SAYS | {"content": "b"}])[0] == [USER]
    assert without_prompt("ab", "abc") == ("ab", "", "c") and without_prompt("", "x") == ("", "", "x")


def test_all_forms_are_the_same_tokens():
    rows = preferences(12, 0)
    with_prompt = [{"prompt": row["chosen"][:1], "chosen": row["chosen"][1:], "rejected": row["rejected"][1:]} for row in rows]
    as_json = [{name: json.dumps(cell) for name, cell in row.items()} for row in rows]
    sharegpt = [
        {n: [{"from": {"user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]} for m in row[n]] for n in row}
        for row in rows
    ]
    whole = make_task("dpo", tables={"train": rows}, prompt_column="none").examples()["train"].fingerprint()
    for other, column in ((with_prompt, "prompt"), (as_json, "none"), (sharegpt, "none")):
        task = make_task("reward", tables={"train": other}, prompt_column=column)
        assert task.examples()["train"].fingerprint() == whole
    texts = make_task("dpo", tables={"train": as_texts(rows)}).examples()["train"]
    first = texts[0]["texts"][0]
    decoded = tokenizer().decode(first["input_ids"])
    assert decoded == as_texts(rows)[0]["prompt"] + as_texts(rows)[0]["chosen"] + "<|endoftext|>"
    learned = [token for token in first["labels"].tolist() if token != -100]
    assert tokenizer().decode(learned).endswith("<|endoftext|>") and len(learned) < len(first["input_ids"]) - 1


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (("q", "a", [USER, SAYS]), "one answer is a text and the other a list of messages"),
        (("q", None, "b"), "prompt and answers must be texts, or lists of messages, found None"),
        ((None, "a", 3), "must be texts, or lists of messages, found 3"),
        (("q", [USER, SAYS], [USER, SAYS]), "the answers are conversations that begin with the prompt: --prompt-column none"),
        (("other", [SAYS], [SAYS]), "the prompt must be one, too, found 'other'"),
        ((None, [USER], [USER, SAYS]), "no message has the role 'assistant'"),
        (([{"role": "user"}], [SAYS], [SAYS]), "a message must be"),
    ],
)
def test_what_is_no_preference_is_refused(cells, words):
    with pytest.raises(DataError, match="here") as error:
        preference(0, *cells, "here")
    assert words in str(error.value)


def test_same_answers_and_long_ones_are_left_out_and_counted(capsys):
    rows = as_texts(preferences(6, 0))
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[4]["chosen"] = "cat " * 80
    task = make_task("reward", tables={"train": rows})
    data = task.examples()["train"]
    said = capsys.readouterr().err
    assert "1 of 6 rows left out: their answers are the same" in said
    assert "1 of 5 pairs left out: an answer and its prompt have more than 64 tokens" in said
    assert [data.row_name(i) for i in range(len(data))] == ["row 1", "row 3", "row 4", "row 6"]
    with pytest.raises(DataError, match="in every row both answers are the same"):
        preferences_of(Dataset.from_list(rows[1:2]), "prompt", ("chosen", "rejected"), "here")
    with pytest.raises(DataError, match="here, row 2: prompt and answers must be texts, or lists of messages, found None"):
        preferences_of(Dataset.from_list([rows[0], rows[2] | {"prompt": None}]), "prompt", ("chosen", "rejected"), "here")
    with pytest.raises(DataError, match="no pair has its answers within 2 tokens"):
        make_task("reward", tables={"train": rows}, max_length=2).examples()


def test_columns_that_are_not_there(project, tmp_path, capsys):
    for kind in KINDS:
        arguments = [*command(project, kind, prompt="prompt"), "--output-dir", str(tmp_path / "r"), "--max-steps", "1"]
        code, line = fails(arguments, capsys)
        assert code == 3 and "--prompt-column none, if both answers begin with the prompt" in line
    code, line = fails([*arguments, "--chosen-column", "rejected"], capsys)
    assert code == 2 and "must be different columns" in line
    code, line = fails([*command(project, "reward", prompt="none"), "--chosen-column", "better"], capsys)
    assert code == 3 and "--chosen-column NAME" in line


def test_conversations_need_a_template():
    task = make_task("reward")
    task._tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template, and the data are conversations"):
        task.examples()
    task._tokenizer.chat_template = "{{ raise_exception('not so') }}"
    with pytest.raises(DataError, match=r"train data, row 1: the model's chat template does not take it \(not so"):
        task.examples()


def test_the_samples_wrong_answers_are_wrong():
    from random import Random

    for i in range(400):
        asked, answer = question(Random(f"1 {i}"))
        other = wrong(asked, answer, Random(i))
        assert other != answer and other.strip() and ("," in other) == ("," in answer)


# ------------------------------------------------------------------------------------------------------------ figures


def test_figures_and_ties():
    metrics = PreferenceMetrics(lambda outputs, batch: outputs, kl=lambda outputs, batch: outputs**2)
    for part in (torch.tensor([1.0, -2.0, 0.0]), torch.tensor([]), torch.tensor([3.0])):
        metrics.update(None, part, None)
    assert metrics.compute() == pytest.approx({"accuracy": 2.5 / 4, "margin": 0.5, "kl": 14 / 4})
    assert metrics.lower_is_better == ("kl",)


def test_dpos_figures_by_hand(project):
    """Log-probabilities of transformers' own model, the answers' tokens alone, without padding."""
    task, net, layout = open_model(str(project / "dpo"), find, device="cpu", files={"eval": str(project / "eval.jsonl")})
    data = task.examples()["eval"]
    batch = task.collate([data[i] for i in range(len(data))], layout)
    ours = task.margins(net(**batch.inputs), batch)
    models = [AutoModelForCausalLM.from_pretrained(project / name).eval() for name in ("dpo", "model")]
    expected, squares = [], []
    for row in preferences(40, 1):
        ratios = []
        for name in ("chosen", "rejected"):
            prompt = tokenizer().apply_chat_template(row[name][:1], add_generation_prompt=True, return_dict=True)["input_ids"]
            ids = tokenizer().apply_chat_template(row[name], return_dict=True)["input_ids"]
            assert ids[: len(prompt)] == prompt
            own, other = (m(torch.tensor([ids])).logits.log_softmax(-1)[0, :-1].detach() for m in models)
            own, other = (each.gather(1, torch.tensor(ids)[1:, None])[len(prompt) - 1 :] for each in (own, other))
            ratios.append(float((own - other).sum()))
            squares += ((own - other) ** 2 / 2).flatten().tolist()
        expected.append(0.1 * (ratios[0] - ratios[1]))
    np.testing.assert_allclose(ours.detach(), expected, atol=2e-5)
    metrics = task.metrics("eval")
    with torch.inference_mode():
        batch = task.collate([data[i] for i in range(len(data))], layout)
        metrics.update(net, net(**batch.inputs), batch)
    assert metrics.compute() == pytest.approx(
        {"accuracy": np.mean([e > 0 for e in expected]), "margin": np.mean(expected), "kl": np.mean(squares)}, abs=1e-5
    )


# ----------------------------------------------------------------------------------------------------------- training


def steps_of(kind: str, config: TrainConfig) -> np.ndarray:
    """Loss and norm of each step."""
    task = make_task(kind, 30)
    setup = build(task, task.examples()["train"], config, model(kind))
    assert setup.layout.kind == config.batching
    setup.state.model.train()
    records = [train_step(setup.state, task, batches, config, setup.world) for _, batches in setup.data.steps()]
    return np.array([[float(record.loss_sum / record.num_items), float(record.grad_norm)] for record in records])


@pytest.mark.parametrize("kind", ONE)
def test_the_cut_into_micro_batches_and_packing_change_nothing(kind):
    """16 pairs as 1, 2 or 4 micro-batches, the last step short; packed and padded."""
    quiet = {"epochs": 1, "learning_rate": 2e-5, "device": "cpu", "precision": "fp32"}
    whole, *others = [
        steps_of(kind, TrainConfig(batch_size=16 // n, accumulation_steps=n, batching=batching, **quiet))
        for batching in ("padded", "packed")
        for n in (1, 2, 4)
    ]
    for other in others:
        np.testing.assert_allclose(other, whole, rtol=1e-4, atol=1e-6)


def test_the_reference_is_the_start_on_either_side_of_padding_and_in_few_shapes():
    """Untrained, no answer is ahead by more than rounding."""
    task, net = make_task("dpo"), model().eval()
    data = task.examples()["train"]
    from engine.model import packing, target_logits

    target_logits.enable(net, "token")
    for side in ("right", "left"):
        task._tokenizer.padding_side = side
        batch = task.collate([data[i] for i in range(7)], Layout())
        assert batch.num_items == batch.num_examples == 7 and float(batch.targets["reference"].min()) < -1
        if side == "right":
            assert float(task.margins(task.forward(net, batch), batch).abs().max()) < 1e-5
    task._tokenizer.padding_side = "right"
    packing.enable(net, "token")
    batch = task.collate([data[i] for i in range(7)], Layout("packed", max_length=64, round_to=256))
    assert batch.targets["text"].shape == batch.targets["labels"].shape == batch.targets["reference"].shape
    assert float(task.margins(task.forward(net, batch), batch).abs().max()) < 1e-5
    assert float(task.loss(task.forward(net, batch), batch)) == pytest.approx(7 * np.log(2), rel=1e-6)


@pytest.mark.parametrize("kind", ONE)
def test_killed_and_resumed_is_bitwise_the_same(tmp_path, kind):
    """Packed, with dropout; killed between checkpoints in the second epoch."""
    config = TrainConfig(batch_size=4, accumulation_steps=2, epochs=2, learning_rate=1e-3, log_steps=2, save_steps=2,
                         eval_steps=4, device="cpu", batching="packed")  # fmt: skip
    whole = train_to(tmp_path / "whole", make_task(kind), config, model(kind, 0.1))
    train_to(tmp_path / "cut", make_task(kind), config, model(kind, 0.1), until=5)
    assert_same_bits(whole, train_to(tmp_path / "cut", make_task(kind), config, model(kind, 0.1), resume=True))
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sigkill_through_run_py(project, tmp_path, kind):
    """A real one; the model file is bitwise that of the run that was left alone."""
    arguments = [*command(project, kind), "--epochs", "8", "--save-steps", "5", "--log-steps", "1", "--learning-rate", "1e-3"]
    assert_sigkill_changes_nothing(arguments, tmp_path, 32, 80)


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ONE)
def test_two_ranks_are_one(tmp_path, kind):
    def net() -> Any:
        found = model(kind)
        if kind == "reward":  # a difference of rewards does not see it: AdamW makes steps of mere rounding
            found.transformer.ln_f.bias.requires_grad_(False)
        return found

    assert_two_ranks_are_one(tmp_path, lambda: make_task(kind, 36), net)


@pytest.mark.parametrize("kind", ONE)
def test_lora_and_frozen_layers(project, tmp_path, kind):
    """An adapter is as the model that it is merged into; its reference is the base model."""
    arguments = [*command(project, kind), "--max-steps", "3", "--learning-rate", "1e-2", "--precision", "fp32"]
    figures = []
    for name, more in (("adapter", []), ("merged", ["--lora-merge"])):
        assert run.main([*arguments, "--lora", *more, "--output-dir", str(tmp_path / name)]) == 0
        use = ["evaluate", "--model", str(tmp_path / name), "--device", "cpu", "--output", str(tmp_path / "f.json")]
        assert run.main(use) == 0
        found = json.loads((tmp_path / "f.json").read_text())
        figures.append([found[f"eval_{each}"] for each in ("loss", "accuracy", "margin")])
        document = json.loads((tmp_path / name / "run.json").read_text())
        assert document["metrics"]["eval_loss"] == pytest.approx(found["eval_loss"], rel=1e-5)
    assert figures[0] == pytest.approx(figures[1], rel=1e-4, abs=1e-6)
    assert run.main([*arguments, "--freeze", "transformer.wte", "--output-dir", str(tmp_path / "frozen")]) == 0
    start, found = (load_file(folder / "model.safetensors") for folder in (project / "model", tmp_path / "frozen"))
    assert torch.equal(found["transformer.wte.weight"], start["transformer.wte.weight"])
    assert not torch.equal(found["transformer.h.0.mlp.c_fc.weight"], start["transformer.h.0.mlp.c_fc.weight"])


# -------------------------------------------------------------------------------------------- the finished models' use


def test_a_reward_is_the_librarys_own_number(project, tmp_path, capsys):
    net = AutoModelForSequenceClassification.from_pretrained(project / "reward").eval()
    words = AutoTokenizer.from_pretrained(project / "reward")
    chat = preferences(1, 7)[0]["chosen"]
    inputs = [chat, "some text", "another " * 90]
    ids = [
        words.apply_chat_template(chat, return_dict=True)["input_ids"],
        *(words(t + words.eos_token)["input_ids"] for t in inputs[1:]),
    ]
    expected = [float(net(torch.tensor([each[:64]])).logits) for each in ids]
    task, opened, layout = open_model(str(project / "reward"), find, device="cpu")
    found = [each["score"] for each in task.predict(opened, inputs, layout)]
    assert "1 of 3 texts cut to 64 tokens" in capsys.readouterr().err
    np.testing.assert_allclose(found, expected, atol=1e-5)
    use = ["predict", "--model", str(project / "reward"), "--device", "cpu"]
    assert run.main([*use, "some text"]) == 0
    assert float(capsys.readouterr().out.split("\t")[0]) == pytest.approx(expected[1], abs=1e-4)
    save_rows(tmp_path / "in.jsonl", [{"id": 3, "chat": chat}])
    arguments = [*use, "--input", str(tmp_path / "in.jsonl"), "--text-column", "chat", "--output", str(tmp_path / "o.jsonl")]
    assert run.main(arguments) == 0
    assert json.loads((tmp_path / "o.jsonl").read_text())["score"] == pytest.approx(expected[0], abs=1e-5)
    assert list(task.predict(opened, [], layout)) == []
    for item in ([USER], [{"role": "user"}], 7):
        with pytest.raises(DataError, match="the input, row 1"):
            list(task.predict(opened, [item], layout))


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_its_errors_and_a_file_of_another_form(project, tmp_path, capsys, kind):
    use = ["evaluate", "--model", str(project / kind), "--device", "cpu", "--output", str(tmp_path / "f.json")]
    assert run.main([*use, "--errors", str(tmp_path / "e.csv")]) == 0
    shown, found = capsys.readouterr().out, json.loads((tmp_path / "f.json").read_text())
    document = json.loads((project / kind / "run.json").read_text())["metrics"]
    for name in ("eval_loss", "eval_accuracy", "eval_margin"):
        assert found[name] == pytest.approx(document[name], rel=1e-5)
    lines, rows = list(csv.DictReader((tmp_path / "e.csv").open())), preferences(40, 1)
    assert len(lines) == round(40 * (1 - found["eval_accuracy"])) and "margins: a tenth below" in shown
    margins = [float(line["margin"]) for line in lines]
    assert margins == sorted(margins) and all(margin <= 0 for margin in margins)
    for line in lines:
        assert line["chosen"] == "assistant: " + rows[int(line["row"]) - 1]["chosen"][1]["content"]
    with_prompt = [{"q": r["chosen"][:1], "good": r["chosen"][1:], "bad": r["rejected"][1:]} for r in rows]
    save_rows(tmp_path / "other.jsonl", with_prompt)
    names = ["--prompt-column", "q", "--chosen-column", "good", "--rejected-column", "bad"]
    assert run.main([*use, "--file", str(tmp_path / "other.jsonl"), *names]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["eval_loss"] == pytest.approx(found["eval_loss"], rel=1e-6)


def test_the_reference_of_a_finished_model(project, tmp_path, capsys):
    """It is the folder that run.json names, or on the command line; another one gives other figures, and what cannot be one is
    refused. What is pushed, config.json, names no folder."""
    assert json.loads((project / "dpo/config.json").read_text()).get("reference_model") is None
    task, net, _ = open_model(str(project / "dpo"), find, device="cpu")
    assert task.reference_name == str(project / "model")
    net.config.reference_model = "org/model"
    task.adopt(net)
    assert task.reference_name == "org/model"
    moved = shutil.copytree(project / "dpo", tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoints"))
    document = json.loads((moved / "run.json").read_text())
    document["settings"]["model"] = "model"  # as a push has cut it: no name to ask the Hub for
    (moved / "run.json").write_text(json.dumps(document))
    code, line = fails(["evaluate", "--device", "cpu", "--model", str(moved), "--file", str(project / "eval.jsonl")], capsys)
    assert code == 2 and "--reference-model FOLDER" in line
    use = ["evaluate", "--device", "cpu", "--output", str(tmp_path / "f.json"), "--file", str(project / "eval.jsonl")]
    itself = [*use, "--model", str(project / "dpo"), "--reference-model", str(project / "dpo")]
    assert run.main(itself) == 0
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["eval_loss"] == pytest.approx(np.log(2), rel=1e-5) and found["eval_kl"] < 1e-8
    bare = [*use, "--model", str(project / "model"), "--task", "dpo", "--prompt-column", "none"]
    code, line = fails(bare, capsys)
    assert code == 2 and "--reference-model FOLDER" in line
    assert run.main([*bare, "--reference-model", str(project / "model")]) == 0
    other = tmp_path / "other"
    save_model(other)
    words = tokenizer()
    words.add_tokens(["zzz"])
    words.save_pretrained(other)
    code, line = fails([*bare, "--reference-model", str(other)], capsys)
    assert code == 4 and ("another vocabulary" in line or "ids up to" in line)
    trained = [
        *command(project, "dpo"),
        "--reference-model",
        str(project / "dpo"),
        "--max-steps",
        "1",
        "--learning-rate",
        "1e-9",
    ]
    assert run.main([*trained, "--output-dir", str(tmp_path / "r")]) == 0
    assert json.loads((tmp_path / "r/run.json").read_text())["metrics"]["eval_loss"] > np.log(2) + 1e-3
    task, net, _ = open_model(str(project / "dpo"), find, device="cpu")
    net.config.reference_model = 7
    with pytest.raises(ModelError, match="reference_model must be a name, found 7"):
        task.adopt(net)


def test_what_dpo_has_made_writes_as_in_the_librarys_pipeline(project, capsys):
    """Behind a text, and as the answer of a conversation, which with so small a model ends at once."""
    use = ["--model", str(project / "dpo"), "--device", "cpu"]
    asked = "What is the opposite of hot?"
    write = pipeline("text-generation", model=str(project / "dpo"), device="cpu")
    chat, text = ([{"role": "user", "content": asked}], asked)
    [answer], [written] = (write(given, max_new_tokens=8, do_sample=False) for given in (chat, text))
    capsys.readouterr()
    assert run.main(["generate", *use, "--max-new-tokens", "8", asked]) == 0
    assert capsys.readouterr().out == written["generated_text"] + "\n" != asked + "\n"
    assert run.main(["generate", *use, "--chat", "--max-new-tokens", "8", asked]) == 0
    assert capsys.readouterr().out.strip() == answer["generated_text"][-1]["content"].strip()
    assert run.main(["predict", *use, asked]) == 0
    assert asked in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on(project, tmp_path, capsys, kind):
    """From a reward model its head is kept; of dpo the reference is then the model that training goes on from."""
    arguments = command(project, kind)
    arguments[arguments.index("--model") + 1] = str(project / kind)
    assert run.main([*arguments, "--max-steps", "1", "--learning-rate", "1e-9", "--output-dir", str(tmp_path / "r")]) == 0
    assert "new, to be trained" not in capsys.readouterr().err
    before, after = (json.loads((folder / "run.json").read_text())["metrics"] for folder in (project / kind, tmp_path / "r"))
    if kind == "reward":
        assert after["eval_loss"] == pytest.approx(before["eval_loss"], rel=0.05)
    else:
        assert after["eval_loss"] == pytest.approx(np.log(2), rel=1e-2)


def test_an_encoder_scores_texts(project, tmp_path):
    from tests.toys import answers

    answers.save_model(tmp_path / "bert")
    arguments = command(project, "reward", "train-texts.jsonl", "eval-texts.jsonl", "prompt")
    arguments[arguments.index("--model") + 1] = str(tmp_path / "bert")
    assert run.main([*arguments, "--max-steps", "2", "--output-dir", str(tmp_path / "r")]) == 0
    document = json.loads((tmp_path / "r/run.json").read_text())
    assert document["batching"] == "packed" and 0 <= document["metrics"]["eval_accuracy"] <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_no_dropout(project, kind):
    """Of a model that has some; it stays in what is saved."""
    task = make_task(kind)
    task.source.taken_model = None
    with_dropout = model(kind, 0.3)
    task.from_pretrained = lambda path, **more: (with_dropout, {"missing_keys": [], "mismatched_keys": []})
    task.examples()
    built = task.build_model().train()
    ids = torch.arange(9)[None]
    assert torch.equal(built(input_ids=ids).logits, built(input_ids=ids).logits) and built.config.embd_pdrop == 0.3


def test_a_model_of_ones_own_needs_a_reference():
    task = make_task("dpo")
    with pytest.raises(UsageError, match="--reference-model FOLDER"):
        task.reference(None)
    data = type(task).examples(task)["train"]
    with pytest.raises(UsageError, match=r"call task\.refer_to\(model\) behind task\.examples\(\)"):
        task.collate([data[0]], Layout())
    task.refer_to(model())
    assert task.collate([data[0]], Layout()).num_items == 1
