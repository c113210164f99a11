"""Rows 26 to 66: files, texts and labels."""

from __future__ import annotations

import csv
import json
from typing import Any
from unittest.mock import patch

from bench.bad_input.case import Attempts, Place, as_nobody, call, edit, row
from bench.bad_input.forms import HEADER, ROWS_OF_DATA, data, each, labels

each(26, "file missing", 3, "does not exist", lambda at: [
    at.train("--train-file", str(at.folder / "none.csv")), at.predict("--input", str(at.folder / "none.csv"))])  # fmt: skip


@row(27, "a directory for a file", 3, "is a directory: give a file")
def _(at: Place) -> Attempts:
    (at.folder / "d.csv").mkdir()
    yield at.train("--train-file", str(at.folder / "d.csv"))
    yield at.predict("--input", str(at.folder / "d.csv"))


@row(28, "no permission", 3, "cannot be read: Permission denied")
def _(at: Place) -> Attempts:
    with as_nobody() as folder:
        result = call(at.predict("--input", str(folder / "t.csv")))
    yield result


data(29, "empty file", "is empty", "t.csv", "", b"\xef\xbb\xbf")
data(30, "header only", "has no rows", "t.csv", HEADER, "text,label")
each(31, "missing column", 3, "(it has: 'text', 'label')", lambda at: [
    at.train("--text-column", "body"), at.train("--label-column", "stars")])  # fmt: skip
data(32, "wrong delimiter", "say --delimiter ';'", "t.csv", ROWS_OF_DATA.replace(",", ";"))
data(33, "duplicate column", "column 'text' stands 2 times in the header", "t.csv", "text,label,text\na,b,c\n")
data(34, "ragged row", "row 2 (line 3) has 3 cells, the header has 2", "t.csv", HEADER + "w1,a\nw2,b,c\nw3,a\n")
data(35, "short row", "row 2 (line 3) has 1 cells, the header has 2", "t.csv", HEADER + "w1,a\nw2\nw3,a\n")
data(36, "unclosed quote", "a quote is not closed", "t.csv", HEADER + 'w1,a\n"w2,b\nw3,a\n')


def survives(number: int, what: str, *texts: str, **marks: Any) -> None:
    """A row of texts that must come out of predict exactly as they went in, and that can be trained on."""

    @row(number, what, 0, **marks)
    def _(at: Place) -> Attempts:
        with open(at.folder / "i.csv", "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["text", "label"], *([text, "ab"[i % 2]] for i, text in enumerate([*texts, *texts]))])
        yield at.predict("--input", str(at.folder / "i.csv"), "--output", str(at.folder / "o.csv"))
        with open(at.folder / "o.csv", newline="", encoding="utf-8") as stream:
            assert [line["text"] for line in csv.DictReader(stream)] == [*texts, *texts], "a text was changed"
        if len("".join(texts)) < 10_000:
            yield at.train("--train-file", str(at.folder / "i.csv"), "--eval-file", str(at.folder / "i.csv"))


survives(37, "quoted newline, comma and quote", "w1\nw2", "w1, w2", 'w1 "w2" w3', "w1\r\nw2")
data(38, "not UTF-8", "is not UTF-8 (byte 14): name its encoding, for instance --encoding latin-1", "t.csv",
     HEADER.encode() + b"w1 \xe9,a\n", HEADER.encode() + b"w1 \xe9,a\nw2,b\n")  # fmt: skip
each(39, "BOM, CRLF, no final newline", 0, "saved to", lambda at: [
    at.on("t.csv", b"\xef\xbb\xbf" + ROWS_OF_DATA.replace("\n", "\r\n").rstrip().encode())])  # fmt: skip
data(40, "NUL byte", "line 2 holds a NUL byte", "t.csv", HEADER + "w1\0,a\nw2,b\n")
survives(41, "a line of 3 MB", "w1 " * 1_000_000, slow=True)  # test_files.py has one, too
survives(42, 'texts "NA", "null", "nan"', "NA", "null", "nan", "None", "N/A", "NULL", "#N/A", "NaN", "true", "-")
survives(43, 'text "007"', "007", "1e5", "0.10", "1,000", "+5", "0x10", "2024-01-01")
each(44, "empty or blank text", 0, "2 of 16 texts are blank", lambda at: [
    at.on("t.csv", ROWS_OF_DATA.replace("w3 w3", "").replace("w5 w5", "   "))])  # fmt: skip


@row(45, "empty token sequence", 3, "there is no token (its text is empty)")
def _(at: Place) -> Attempts:
    folder = at.model()
    edit(folder / "tokenizer.json", post_processor=None)
    yield at.on("t.csv", HEADER + "w1,a\n,b\nw2,a\n", "--model", str(folder))


labels(46, "label missing", "row 2: the label is missing", [0, None, 1], ["a", "", "b"], ["a", "  ", "b"])
labels(47, "NaN label", "row 2: the label is missing", [0.0, float("nan"), 1.0])
labels(48, "label out of range", "row 3: label 5 is none of the 2 labels (a, b)", [0, 1, 5], more=("--label-names", "a,b"))
labels(49, "label -1", "row 3: label -1 is negative; -1 often marks rows without a label", [0, 1, -1])
labels(50, "all labels -100", "row 1: label -100 is negative", [-100] * 4)
labels(51, "labels of two kinds", "mix", [0, 1, "a"], ["0", "1", "a"])
labels(52, "float labels for classification", "is not a class", [0.5, 1.5], ["0.5", "1.5"])
labels(53, "one class only", "at least two classes are needed", [1, 1, 1], ["a", "a"])
each(54, "an evaluation label not seen in training", 3, "row 1: label 'z' is none of the 3 labels (a, b, c)",
     lambda at: [at.train("--eval-file", at.write("e.csv", HEADER + "w1,z\n"))])  # fmt: skip
labels(55, "regression with text labels", "row 2: 'good' (column 'label') is not a number", ["1", "good"],
       more=("--problem", "regression"))  # fmt: skip
labels(56, "multi-label of the wrong length", "row 3: 2 values of 0 or 1 are needed", [[0, 1], [1, 0], [1, 0, 1], [1, 1]],
       more=("--problem", "multi_label"))  # fmt: skip
each(57, "NER tags that do not match the words", 3, "row 2: 2 words and ", lambda at: [
    at.on("n.jsonl", "".join(json.dumps({"tokens": ["w1", "w2"], "tags": tags}) + "\n" for tags in (["O", "B-x"], wrong)),
          "--task", "ner") for wrong in (["O"], ["O", "O", "B-x"], [])])  # fmt: skip
data(59, "broken JSONL line", "line 2 is not JSON", "t.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 0\n')
data(60, "JSONL type change or missing key", "", "t.jsonl", '{"text": "a", "label": 1}\n{"text": 5, "label": 0}\n',
     '{"text": "a", "label": 1}\n{"label": 0}\n')  # fmt: skip
data(
    61,
    "lone surrogate",
    "half a character",
    "t.jsonl",
    r'{"text": "a\ud800", "label": 1}' + "\n" + r'{"text": "b", "label": 0}',
)
each(62, "duplicate ids in predict", 3, "row 3: id '7' stands in row 1, too", lambda at: [
    at.predict_file("i.csv", "id,text\n7,w1\n8,w2\n7,w3\n"),
    at.predict_file("j.jsonl", '{"id": 7, "text": "w1"}\n{"id": 8, "text": "w1"}\n{"id": 7, "text": "w1"}\n')])  # fmt: skip
each(63, "train and eval overlap", 0, "warning: 12 of 12 evaluation texts stand in the training data, too", lambda at: [
    at.train("--train-file", str(at.home / "eval.csv"), "--batch-size", "4")])  # fmt: skip
each(64, "everything truncated", 0, "16 of 16 texts cut to 3 tokens", lambda at: [
    at.on("t.csv", ROWS_OF_DATA, "--max-length", "3")])  # fmt: skip


@row(65, "all rows filtered out", 3, "no row")
def _(at: Place) -> Attempts:
    body = "def tables(self):\n    return {n: t.filter(lambda row: False) for n, t in super().tables().items()}"
    yield at.train("--task", at.task(body))
    yield at.on("t.jsonl", "\n\n\n")


@row(66, "the file changes before a resume", 3, "train: other rows (24 then, 23 now)")
def _(at: Place) -> Attempts:
    file = at.write("train.csv", (at.home / "train.csv").read_bytes())
    with patch("engine.fit.write_model", side_effect=KeyboardInterrupt):
        assert call(at.train("--train-file", file)).code == 130
    at.write("train.csv", (at.home / "train.csv").read_text().rstrip("\r\n").rpartition("\n")[0] + "\n")
    yield at.train("--train-file", file, "--resume")
