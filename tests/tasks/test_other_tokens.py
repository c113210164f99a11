"""--add-tokens and --tokenizer, through the command line: in training, in what is saved, and in everything afterwards."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import run
from bench.reliability.lab import differences
from bench.toys import tiny
from tests.toys.as_typed import library, predictions, training
from tests.toys.cli import fails
from tests.toys.killed import killed_after

NEW = ["qubit", "flux-7"]


@pytest.fixture
def folder(tmp_path):
    tiny.save_model(tmp_path / "model")
    (tmp_path / "tokens.txt").write_text("".join(f"{token}\n" for token in [*NEW, "w1", "", NEW[0]]))
    return tmp_path


def test_added_tokens_are_whole_and_stay_with_the_model(folder, capsys):
    flags = ("--add-tokens", str(folder / "tokens.txt"))
    assert run.main(training(folder, folder / "model", *flags)) == 0
    assert "tokenizer: 2 tokens added, such as 'qubit'; 1 of 3 were known" in capsys.readouterr().err
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    assert tokenizer.tokenize("w1 qubit flux-7") == ["w1", *NEW]
    rows = AutoModelForSequenceClassification.from_pretrained(folder / "out").get_input_embeddings().num_embeddings
    assert rows == len(tokenizer) == len(AutoTokenizer.from_pretrained(folder / "model")) + 2
    [found] = predictions(folder, ["w1 qubit w2"])
    assert {name: found["probabilities"][name] for name in found["probabilities"]} == pytest.approx(
        library(folder / "out", "w1 qubit w2"), abs=1e-5
    )
    assert run.main(["evaluate", str(folder / "out"), "--device", "cpu", "--output", str(folder / "e.json")]) == 0
    figures = json.loads((folder / "out/run.json").read_text())["metrics"]
    assert json.loads((folder / "e.json").read_text())["eval_loss"] == pytest.approx(figures["eval_loss"], rel=1e-5)


def test_a_run_with_added_tokens_is_resumed_to_the_same_bits(folder):
    flags = ("--add-tokens", str(folder / "tokens.txt"), "--save-steps", "1")
    assert run.main(training(folder, folder / "model", *flags)) == 0
    whole = (folder / "out").rename(folder / "whole")
    half = training(folder, folder / "model", *flags)
    with killed_after(2):
        run.main(half)
    assert [path.name for path in (folder / "out/checkpoints").iterdir()] == ["step-00000001"]
    assert run.main([*half, "--resume"]) == 0
    assert differences(whole, folder / "out") == []


def test_another_tokenizer_is_used_and_saved(folder):
    other = AutoTokenizer.from_pretrained(folder / "model")
    other.model_max_length = 7
    other.save_pretrained(folder / "other")
    assert run.main(training(folder, folder / "model", "--tokenizer", str(folder / "other"))) == 0
    assert json.loads((folder / "out/tokenizer_config.json").read_text())["model_max_length"] == 7
    assert predictions(folder, ["w1"])


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--add-tokens", "known.txt"], 3, "none of its 1 lines is a token that the tokenizer lacks"),
        (["--add-tokens", "no.txt"], 3, "no.txt"),
        (["--add-tokens", "tokens.txt", "--lora"], 2, "--add-tokens changes what --lora leaves frozen"),
        (["--tokenizer", "empty"], 4, "has no tokenizer files"),
    ],
)
def test_what_cannot_be_is_one_line(folder, monkeypatch, capsys, flags, code, words):
    monkeypatch.chdir(folder)
    (folder / "known.txt").write_text("w1\n")
    (folder / "empty").mkdir()
    got, line = fails(training(folder, folder / "model", *flags), capsys)
    assert got == code and words in line


@pytest.mark.parametrize("flag", ["--tokenizer", "--add-tokens"])
def test_a_task_on_pictures_refuses_them(capsys, flag):
    code, line = fails(["--task", "captioning", flag, "x"], capsys)
    assert code == 2 and f"{flag} has no effect on a model that describes pictures: leave it out" in line
