"""Models as they come, through the command line: what they lack is said or done without, and the way in that an error names works."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, ByT5Tokenizer, pipeline

import run
from bench.toys import tiny
from engine.data.tokens import tokenize_now
from tests.toys.architectures import BART, OPT, T5
from tests.toys.as_typed import library, predictions, save, training
from tests.toys.cli import fails
from tests.toys.language import gpt2

TYPED = ["input_ids", "token_type_ids", "attention_mask"]


# ------------------------------------------------------------------------------------------------------- token types


def test_a_model_without_token_types_is_given_none(tmp_path):
    """GPT-2 would look them up among its tokens. What is saved gives none, either, so a pipeline has the same answer."""
    torch.manual_seed(0)
    config = gpt2().config
    save(tmp_path / "model", AutoModelForSequenceClassification.from_config(copy.deepcopy(config)), model_input_names=TYPED)
    assert "token_type_ids" in AutoTokenizer.from_pretrained(tmp_path / "model")("w1")
    assert run.main(training(tmp_path, tmp_path / "model")) == 0
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(tmp_path / "out")("w1")
    [found] = predictions(tmp_path, ["w1 w2 w3"])
    assert found["probabilities"] == pytest.approx(library(tmp_path / "out", "w1 w2 w3"), abs=1e-6)
    [theirs] = pipeline("text-classification", str(tmp_path / "out"), top_k=None)(["w1 w2 w3"])
    assert {each["label"]: each["score"] for each in theirs} == pytest.approx(found["probabilities"], abs=1e-6)


def test_a_pair_for_a_model_of_one_token_type(tmp_path):
    """RoBERTa has one: the type 1 of the second text would lie beyond its table."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.RobertaConfig(vocab_size=100, type_vocab_size=1, max_position_embeddings=40, pad_token_id=0, **sizes)
    save(tmp_path / "model", AutoModelForSequenceClassification.from_config(copy.deepcopy(config)), model_input_names=TYPED)
    (tmp_path / "train.csv").write_text("text,other,label\n" + "w1 w2,w3,a\nw4,w5 w6,b\n" * 6)
    (tmp_path / "eval.csv").write_text("text,other,label\nw1 w2,w3,a\nw4,w5,b\n")
    assert run.main(training(tmp_path, tmp_path / "model", "--text-pair-column", "other")) == 0


# -------------------------------------------------------------------------------------------------------- end tokens


@pytest.mark.parametrize("config", [BART, T5], ids=["bart", "t5"])
def test_an_end_token_in_a_text_of_a_model_that_counts_them(config, tmp_path, capsys):
    torch.manual_seed(0)
    save(tmp_path / "model", AutoModelForSequenceClassification.from_config(copy.deepcopy(config)))
    tiny.save_texts(tmp_path, train=24, eval=12)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([*lines[:5], "w1 [SEP] w2,a", *lines[5:]]) + "\n")
    code, line = fails(training(tmp_path, tmp_path / "model"), capsys)
    assert code == 3 and "row 5: the text holds '[SEP]', the model's end token" in line
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    assert run.main(training(tmp_path, tmp_path / "model")) == 0
    texts = ["w1 w2", "w3 [SEP] w4 [SEP]", "w5 w6 w7", "w8 [SEP] w9"]
    for text, found in zip(texts, predictions(tmp_path, texts), strict=True):
        assert found["probabilities"] == pytest.approx(library(tmp_path / "out", text), abs=1e-5)


def test_a_tokenizer_that_gives_no_end_token_to_a_model_that_reads_it(tmp_path, capsys):
    model = AutoModelForSequenceClassification.from_config(copy.deepcopy(BART))
    model.config.eos_token_id = 60
    code, line = fails(training(tmp_path, save(tmp_path / "model", model)), capsys)
    assert code == 4 and "its tokenizer puts none behind a text" in line


# ------------------------------------------------------------------------------------------------ tokenizers in Python


def test_texts_cut_by_a_tokenizer_in_python_are_counted(tmp_path, capsys):
    """As many as a tokenizer that says so counts; whole ones of full length are not among them."""
    tokenizer = ByT5Tokenizer()
    texts = ["a" * length for length in (3, 8, 9, 10, 30)]  # with the end token 4, 9, 10, 11, 31
    assert not tokenizer.is_fast
    assert [tokenize_now(texts, None, tokenizer, limit, "x").num_truncated for limit in (9, 10, 31)] == [3, 2, 0]
    assert tokenize_now(texts, ["b"] * 5, tokenizer, 12, "x").num_truncated == 2  # the pair and its end are two more
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(
        T5.__class__(**T5.to_dict() | {"vocab_size": 384, "eos_token_id": 1})
    ).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert run.main(training(tmp_path, tmp_path / "model", "--max-length", "16")) == 0
    long = sum(len(text.encode()) >= 16 for text, _ in tiny.texts(24))
    assert f"train data: {long} of 24 texts cut to 16 tokens" in capsys.readouterr().err and long > 5


def test_answers_need_a_tokenizer_that_knows_where_its_tokens_stand(tmp_path, capsys):
    gpt2(vocab_size=384).save_pretrained(tmp_path / "model")
    ByT5Tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 8)
    arguments = ["--task", "sft", "--prompt-column", "prompt", "--train-file", str(tmp_path / "t.jsonl"), "--device", "cpu",
                 "--model", str(tmp_path / "model"), "--output-dir", str(tmp_path / "out")]  # fmt: skip
    code, line = fails(arguments, capsys)
    assert code == 4 and "its tokenizer (ByT5Tokenizer) is written in Python" in line


# --------------------------------------------------------------------------------------- weights, adapters, more tokens


def command_in(line: str) -> str:
    """The command line that an error names, for this Python."""
    return line[line.index("cd ") :].replace("&& python ", f"&& {shlex.quote(sys.executable)} ")


@pytest.mark.slow
def test_a_pickle_is_not_opened_and_the_command_that_is_named_converts_it(tmp_path, capsys):
    folder = tiny.save_model(tmp_path / "it's a model")
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    code, line = fails(training(tmp_path, folder), capsys)
    assert code == 4 and "has no model.safetensors: a pickle can run code and is never opened" in line
    subprocess.run(command_in(line), shell=True, check=True)
    assert all(torch.equal(load_file(folder / "model.safetensors")[name], value) for name, value in weights.items())
    assert run.main(training(tmp_path, folder)) == 0


def peft_adapter(folder: Path, base: Path):
    """As peft saves one: without the model's config.json and tokenizer."""
    peft = pytest.importorskip("peft")
    model = AutoModelForSequenceClassification.from_pretrained(base)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False))
    wrapped.save_pretrained(folder)
    return wrapped.eval()


def test_an_adapter_that_peft_saved_names_what_it_lacks_and_then_is_read(tmp_path, capsys):
    base = tiny.save_model(tmp_path / "base")
    wrapped = peft_adapter(tmp_path / "adapter", base)
    predict = ["predict", str(tmp_path / "adapter"), "w1 w2", "--device", "cpu"]
    code, line = fails(predict, capsys)
    assert code == 4 and "holds an adapter, and peft leaves the rest out" in line
    wrapped.base_model.model.config.save_pretrained(tmp_path / "adapter")  # the way in
    tiny.tokenizer().save_pretrained(tmp_path / "adapter")
    [found] = predictions(tmp_path, ["w1 w2"], "adapter")
    with torch.inference_mode():
        theirs = wrapped(**tiny.tokenizer()("w1 w2", return_tensors="pt")).logits[0].softmax(-1)
    assert list(found["probabilities"].values()) == pytest.approx(theirs.tolist(), abs=1e-5)
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    for name, words in ((None, "names no base model"), ("/gone/base", "is no longer in /gone/base: put it back, or write")):
        (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": name}))
        code, line = fails(predict, capsys)
        assert code == 4 and words in line and "base_model_name_or_path" in line
    (tmp_path / "adapter/adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": str(base)})
    )  # the way in
    assert run.main(predict) == 0


def test_added_tokens_need_embeddings_and_what_is_named_makes_them(tmp_path, capsys):
    folder = tiny.save_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(folder)
    code, line = fails(training(tmp_path, folder), capsys)
    assert code == 4 and "its tokenizer has ids up to 100, and the model 100 embeddings" in line
    way_in = re.search(r"model\.resize_token_embeddings\(len\(tokenizer\)\)", line)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    eval(way_in[0])
    model.save_pretrained(folder)
    assert run.main(training(tmp_path, folder)) == 0


# -------------------------------------------------------------------------------------------------- causal models, lengths


@pytest.mark.parametrize("config", [OPT, BART], ids=["opt", "bart"])
def test_decoders_that_call_a_part_of_their_body(config, tmp_path):
    """Their base model is not called itself, so logits are picked behind the head."""
    torch.manual_seed(0)
    save(tmp_path / "model", AutoModelForCausalLM.from_config(copy.deepcopy(config)))
    assert run.main(training(tmp_path, tmp_path / "model", "--documents", "packed", task="clm")) == 0
    figures = tmp_path / "figures.json"
    assert run.main(["evaluate", str(tmp_path / "out"), "--device", "cpu", "--output", str(figures)]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    nats = number = 0.0
    for text, _ in tiny.texts(12, 1):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1].float()
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        number += ids.shape[1] - 1
    assert json.loads(figures.read_text())["eval_loss"] == pytest.approx(nats / number, abs=1e-4)


def test_a_prompt_that_leaves_little_room_is_tried_and_one_that_fails_is_a_note(tmp_path, capsys, monkeypatch):
    save(tmp_path / "model", gpt2(n_positions=16))
    assert run.main(training(tmp_path, tmp_path / "model", "--block-size", "8", task="clm")) == 0
    assert "The" in capsys.readouterr().out.splitlines()[-1]
    monkeypatch.setattr("tasks.language.causal_lm.CausalLM.try_it", ("w1 " * 40,))
    assert run.main(training(tmp_path, tmp_path / "model", "--block-size", "8", "--overwrite", task="clm")) == 0
    assert "the model is saved; its examples could not be tried: DataError" in capsys.readouterr().err


def test_what_is_saved_cuts_texts_as_training_did(tmp_path):
    """A pipeline cuts by the tokenizer's own limit; a longer --max-length may be asked for again."""
    folder = tiny.save_model(tmp_path / "model")
    assert run.main(training(tmp_path, folder, "--max-length", "8")) == 0
    long = " ".join(tiny.WORDS[3:25])
    [found] = predictions(tmp_path, [long])
    [theirs] = pipeline("text-classification", str(tmp_path / "out"), top_k=None)([long], truncation=True)
    assert {each["label"]: each["score"] for each in theirs} == pytest.approx(found["probabilities"], abs=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 8
    (tmp_path / "out/run.json").rename(tmp_path / "run.json")  # as anybody's model: its tokenizer says how long a text may be
    assert predictions(tmp_path, [long]) == [found]
    (tmp_path / "run.json").rename(tmp_path / "out/run.json")
    again = training(tmp_path, tmp_path / "out", "--max-length", "32")
    assert run.main([*again[:-4], "--output-dir", str(tmp_path / "again"), "--max-length", "32"]) == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "again").model_max_length == 32
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 32, "the start model is as it was"
