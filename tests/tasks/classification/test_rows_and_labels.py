"""Rows are named by their file and their place in it, whatever part of it is used; labels that look alike are said."""

from __future__ import annotations

import csv
import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

import run
from bench.toys import tiny
from engine.checkpoint.store import steps_in
from engine.data.sources import Source, SourceConfig
from engine.data.tables import Origin, called, chosen, row_name, row_number, with_origin
from engine.data.tokens import tokenize
from engine.errors import DataError, UsageError
from tasks.captioning.task import Captioning
from tasks.classification.column import Rule
from tasks.classification.labels import appearance, read_labels
from tasks.classification.task import Classification, ClassificationOptions
from tasks.embeddings.task import Embeddings
from tasks.image_classification.task import ImageClassification
from tasks.language.causal_lm import CausalLM
from tasks.language.masked_lm import MaskedLM
from tasks.language.sft import SFT
from tasks.options import (
    CaptioningOptions,
    EmbeddingsOptions,
    ImageClassificationOptions,
    QAOptions,
    SFTOptions,
    TaggingOptions,
)
from tasks.qa.task import QuestionAnswering
from tasks.samples.shapes import save_small_captioner
from tasks.tagging.task import Tagging
from tests.toys.cli import fails

NUMBER, BAD = 60, 50  # rows of the file; one of them


@pytest.fixture
def place(tmp_path) -> Path:
    tiny.save_model(tmp_path / "model")
    return tmp_path


def save(path: Path, damage: dict[str, str] | None = None) -> Path:
    """Texts with labels; the cells of row BAD replaced."""
    rows = [{"text": text, "label": label} for text, label in tiny.texts(NUMBER)]
    rows[BAD - 1] |= damage or {}
    if path.suffix == ".csv":
        with open(path, "w", newline="") as stream:
            writer = csv.DictWriter(stream, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        Dataset.from_list(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("settings", [{"eval_fraction": 0.3}, {"max_train_examples": 59}, {"eval_fraction": 0.8, "max_eval_examples": 45}])  # fmt: skip
def test_a_row_is_named_by_its_file_and_its_place_there(place, suffix, settings):
    path = save(place / f"t{suffix}")
    source = Source(SourceConfig(train_file=str(path), model=str(place / "model"), **settings))
    task, texts = Classification(ClassificationOptions(), source), [text for text, _ in tiny.texts(NUMBER)]
    for table in task.splits().values():
        assert [texts[row_number(table, i) - 1] for i in range(len(table))] == table["text"][:]
        assert row_name(table, 3) == f"{path}, row {row_number(table, 3)}"


def where(place: Path, damage: dict[str, str], make=Classification, options=None) -> str:
    for seed in range(20):  # until the row is among those that are kept
        config = SourceConfig(train_file=str(save(place / "t.csv", damage)), model=str(place / "model"), eval_fraction=0.5,
                              max_eval_examples=20, max_train_examples=25, data_seed=seed)  # fmt: skip
        try:
            make(options or ClassificationOptions(), Source(config)).examples()
        except DataError as error:
            return str(error)
    raise AssertionError("never refused")


@pytest.mark.parametrize("damage", [{"label": ""}, {"label": "-1"}, {"label": "1.5"}])
def test_errors_name_the_row_of_the_file(place, damage):
    assert re.match(rf"(train|eval) data, {re.escape(str(place / 't.csv'))}, row {BAD}: ", where(place, damage))


OTHERS = {  # of each other task: what makes it, the settings, a good row, and what is wrong with one
    "qa": (QuestionAnswering, QAOptions(), {"question": "w1", "context": "w2 w3", "answers": {"text": ["w3"], "answer_start": [3]}},
           {"answers": {"text": ["w9"], "answer_start": [3]}}),
    "ner": (Tagging, TaggingOptions(), {"tokens": ["w1", "w2"], "tags": ["O", "B-X"]}, {"tags": ["O"]}),
    "mlm": (MaskedLM, MaskedLM.Options(), {"text": "w1 w2"}, {"text": None}),
    "clm": (CausalLM, CausalLM.Options(documents="apart"), {"text": "w1 w2"}, {"text": None}),
    "sft": (SFT, SFTOptions(prompt_column="prompt"), {"prompt": "w1", "completion": "w2"}, {"completion": None}),
    "embeddings": (Embeddings, EmbeddingsOptions(), {"anchor": "w1", "positive": "w2"}, {"positive": None}),
    "scores": (Embeddings, EmbeddingsOptions(loss="cosine"), {"anchor": "w1", "positive": "w2", "score": 0.5}, {"score": 7.0}),
    "captioning": (Captioning, CaptioningOptions(), {"file_name": "a.png", "text": "w1"}, {"text": " "}),
    "image-classification": (ImageClassification, ImageClassificationOptions(), {"file_name": "a.png", "label": "x"}, {"label": None}),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_errors_of_every_task_name_the_row_of_the_file(place, kind):
    """Of a random half of it."""
    make, options, good, bad = OTHERS[kind]
    Image.new("RGB", (8, 8)).save(place / "a.png")
    if kind == "captioning":
        save_small_captioner(place / "model", ["w1"])
    rows = [good | {"id": str(i)} | ({"label": "xy"[i % 2]} if "label" in good else {}) for i in range(20)]
    rows[12] |= bad
    (place / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(9):  # until the row is among those that are kept
        config = SourceConfig(
            train_file=str(place / "t.jsonl"), model=str(place / "model"), data_seed=seed, max_train_examples=9
        )
        try:
            make(options, Source(config)).examples()
        except DataError as error:
            assert f"{place / 't.jsonl'}, row 13" in str(error)
            return
    raise AssertionError("never refused")


TASK = """
import torch
from tasks.classification.task import Classification

class Mine(Classification):
    def {method}
"""
FAILS = {  # what a task does at the row with label 3, and what is said beside the row
    "prepare": ("prepare(self, row, generator):\n        return row if row['labels'] != 3 else 1 / 0", 3, "cannot be prepared: ZeroDivisionError"),
    "loss": ("loss(self, outputs, batch):\n        bad = (batch.targets['labels'] == 3).any()\n"
             "        return super().loss(outputs, batch) * (float('nan') if bad else 1)", 5, "the loss is not finite at step"),
    "memory": ("loss(self, outputs, batch):\n        if (batch.targets['labels'] == 3).any():\n"
               "            raise torch.OutOfMemoryError('CUDA out of memory.')\n        return super().loss(outputs, batch)", 6,
               "with a single example"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAILS)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_fails_in_training_names_the_row_of_the_file_and_the_way_on(place, kind, workers, capsys):
    """Of a part of the file; what was saved before stands, and --resume ends at the same row."""
    body, code, words = FAILS[kind]
    (place / "mine.py").write_text(TASK.replace("{method}", body))
    path = save(place / "t.csv", {"label": "d"})
    arguments = ["--task", f"{place / 'mine.py'}:Mine", "--model", str(place / "model"), "--train-file", str(path), "--device", "cpu",
                 "--max-train-examples", "58", "--batch-size", "1" if kind == "loss" else "4", "--output-dir", str(place / "run"),
                 "--workers", workers, "--log-steps", "1", "--save-steps", "1", "--batching", "padded", "--seed", "5"]  # fmt: skip
    for more in ([], ["--resume"]):
        got, line = fails([*arguments, *more], capsys)
        assert got == code and words in line and f"{path}, row {BAD}" in line, line
        if kind != "prepare":
            assert "--resume continues from it" in line
        assert steps_in(place / "run/checkpoints"), "the checkpoints stand"


def test_rows_of_a_part_of_a_file_are_called_by_their_places_there():
    table = with_origin(Dataset.from_dict({"x": list(range(9))}), Origin(["t.csv"]))
    rows = tiny.token_rows(9)
    assert (
        called(rows, [2]) == "row 2 of the data, counted from 0"
        and called(rows, [2, 3]) == "rows 2, 3 of the data, counted from 0"
    )
    assert called(rows, range(40)).endswith("30, 31 ... of the data, counted from 0")
    rows.row_name = partial(row_name, chosen(table, np.array([8, 4, 0])))
    assert called(rows, [0]) == "t.csv, row 9" and called(rows, [0, 2]) == "t.csv, rows 9, 1"
    rows.row_name = lambda row: f"{row}.csv, row 1"
    assert called(rows, [0, 2]) == "0.csv, row 1, 2.csv, row 1"


def test_a_row_without_a_token_is_that_of_the_file(place):
    table = chosen(with_origin(Dataset.from_dict({"text": ["a", "b", ""]}), Origin(["t.csv"])), np.array([0, 2]))
    bare = tiny.tokenizer()
    bare.backend_tokenizer.post_processor = type(bare.backend_tokenizer.post_processor)(single="$A", pair="$A $B:1")
    with pytest.raises(DataError, match=r"train data, t\.csv, row 3: there is no token"):
        tokenize(table["text"][:], bare, 8, name="train data", row_name=lambda i: row_name(table, i))


def test_choices_of_choices_keep_their_names():
    table = with_origin(Dataset.from_dict({"n": range(10)}), Origin(["f"]))
    part = chosen(chosen(table, np.array([9, 7, 5, 3])), np.array([1, 2]))
    assert part["n"][:] == [7, 5] and [row_name(part, i) for i in range(2)] == ["f, row 8", "f, row 6"]
    assert row_name(chosen(Dataset.from_dict({"n": range(4)}), np.array([2, 3])), 0) == "row 3", "there is no file"
    assert row_name(table.select([4]), 0) == "row 1", "nobody has said where it comes from"


def test_errors_csv_holds_the_rows_of_the_file(place, capsys):
    """A random subset of it is evaluated."""
    path = save(place / "t.csv")
    common = ["--model", str(place / "model"), "--train-file", str(path), "--eval-fraction", "0.3", "--device", "cpu"]
    assert run.main(["--task", "classification", *common, "--epochs", "1", "--output-dir", str(place / "run")]) == 0
    texts = [text for text, _ in tiny.texts(NUMBER)]
    for more in (["--file", str(path), "--max-eval-examples", "40"], []):
        arguments = ["evaluate", "--model", str(place / "run"), "--device", "cpu", "--errors", str(place / "e.csv"), *more]
        assert run.main(arguments) == 0
        with open(place / "e.csv", newline="") as stream:
            wrong = list(csv.DictReader(stream))
        assert len(wrong) > 3 and all(texts[int(row["row"]) - 1] == row["text"] for row in wrong)
        names = list(wrong[0])
        assert names.count("text") == 1 and {*names} - {"suspected"} == {"row", "text", "label", "prediction", "confidence"}


# ------------------------------------------------------------------------------------------------- the least max_length


@pytest.mark.parametrize("length", [1, 2])
def test_a_length_of_special_tokens_alone_is_refused(place, length):
    """Below their number transformers cuts nothing at all; at it every row is the same."""
    source = Source(SourceConfig(train_file=str(save(place / "t.csv")), model=str(place / "model")))
    task = Classification(ClassificationOptions(max_length=length), source)
    with pytest.raises(UsageError, match=rf"--max-length {length}: 2 tokens of each row are special ones, give more"):
        task.examples()
    assert Classification(ClassificationOptions(max_length=3), source).examples()["train"].lengths.max() == 3


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_model_whose_files_leave_no_room_for_a_text_is_refused(place, length, capsys):
    """Below the special tokens transformers cuts nothing; at their number all texts are one. --max-length is the way in."""
    settings = json.loads((place / "model/tokenizer_config.json").read_text())
    (place / "model/tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": length}))
    model, file = ["--model", str(place / "model"), "--device", "cpu"], str(save(place / "t.csv"))
    training = [
        "--task",
        "classification",
        *model,
        "--train-file",
        file,
        "--max-steps",
        "1",
        "--output-dir",
        str(place / "run"),
    ]
    for arguments in (["predict", *model, "w0 w1"], ["search", "w0", *model, "--sentences", "w1 w2", "w3"], training):
        code, line = fails(arguments, capsys)
        assert code == 4 and f"let a text have {length} tokens, and 2 tokens of each row are special ones" in line
    assert run.main([*training, "--max-length", "8"]) == 0


def test_a_pair_has_more_special_tokens(place):
    source = Source(SourceConfig(train_file=str(save(place / "t.csv")), model=str(place / "model")))
    task = Classification(ClassificationOptions(max_length=3, text_column="a", text_pair_column="b"), source)
    with pytest.raises(UsageError, match="3 tokens of each row are special"):
        assert task.max_length
    assert CausalLM(CausalLM.Options(block_size=4), source).max_length == 4


# --------------------------------------------------------------------------------------------------------------- labels

ALIKE = [("1", "01"), ("a", "A"), ("a b", "a  b"), ("caf\u00e9", "cafe\u0301"), ("no", "n\u200bo"), ("yes", "\ufeffyes"),
         ("soft", "so\u00adft"), ("x", "\uff58"), ("7", "\uff17")]  # fmt: skip


@pytest.mark.parametrize("names", ALIKE)
def test_labels_that_look_alike_are_two_classes_and_it_is_said(names, capsys):
    table = Dataset.from_dict({"label": [*names] * 3})
    labels, _ = read_labels({"train": table}, Rule(("label",), "single_label"))
    said = capsys.readouterr().err
    assert len(labels.names) == 2 and "look alike, and are two classes" in said
    one, other = said.split("the labels ")[1].split(" look alike")[0].split(" and ")
    assert one != other, "the difference is shown"
    read_labels({"train": Dataset.from_dict({"label": [[name] for name in names] * 3})}, Rule(("label",), "multi_label"))
    assert "look alike, and are two classes" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("1", "10"), ("a", "b"), ("e", "\u00e9"), ("0", "-0.5x"), ("a b", "ab"), ("+", "-")])
def test_labels_that_do_not_look_alike_are_no_matter(names, capsys):
    assert len({*map(appearance, names)}) == 2
    read_labels({"train": Dataset.from_dict({"label": [*names] * 3})}, Rule(("label",), "single_label", names=names))
    assert "alike" not in capsys.readouterr().err


def test_what_a_finished_model_was_trained_for_decides_how_labels_are_read(place):
    """A model without a run.json is asked for its problem; the flags' default would read ``a|b`` as one class."""
    task = Classification(ClassificationOptions(label_smoothing=0.1), Source())
    names = {0: "a", 1: "b"}
    task.adopt(SimpleNamespace(config=SimpleNamespace(id2label=names, problem_type="multi_label_classification")))
    assert (task.problem, task.options.problem, task.options.label_smoothing) == ("multi_label", "multi_label", 0.0)
    _, targets = read_labels({"eval": Dataset.from_dict({"text": ["x"], "label": ["a|b"]})}, task.rule({}))
    assert targets["eval"].tolist() == [[1.0, 1.0]]
