"""The rows of the table of bad inputs: flags, data, models, directories, the run itself, and attacks.

``each`` is for rows that are only command lines, ``@row`` for those that prepare or check more. Next: bad_case.py.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import errno
import json
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch

from bench.bad_input.case import ROOT, Attempts, Place, Result, as_nobody, call, edit, files_in, reseal, row, spawn
from bench.toys import ranks, tiny
from engine.checkpoint.store import steps_in

TORCHS = "torch's store listens on all addresses: docs/scaling.md"
HEADER = "text,label\n"
ROWS_OF_DATA = HEADER + "".join(f"w{i} w{i % 7},{'ab'[i % 2]}\n" for i in range(16))


def each(
    number: int | str, what: str, code: int, words: str, lines: Callable[[Place], Sequence[list[str]]], **marks: Any
) -> None:
    """A row of command lines, all of which must get the same."""

    def attempts(at: Place) -> Attempts:
        for line in lines(at):
            yield line

    row(number, what, code, words, **marks)(attempts)


def flags(number: int | str, what: str, words: str, *values: str) -> None:
    """A row of flags that are refused."""
    each(number, what, 2, words, lambda at: [at.train(*value.split(" ")) for value in values])


def labels(number: int | str, what: str, words: str, *columns: Sequence[Any], more: Sequence[str] = ()) -> None:
    """A row of label columns that are refused."""
    each(number, what, 3, words, lambda at: [at.on_labels(column, *more) for column in columns])


def data(number: int | str, what: str, words: str, name: str, *contents: str | bytes, code: int = 3) -> None:
    """A row of files that are refused."""
    each(number, what, code, words, lambda at: [at.on(name, content) for content in contents])


# --------------------------------------------------------------------------------------------------------- 1-25: flags

flags(1, "unknown flag", "did you mean --learning-rate?", "--lerning-rate 1")
flags(2, "unknown task", "there are: yelp, imdb, classification", "--task yepl")
flags(3, "epochs 0 or negative", "--epochs must be at least 1", "--epochs 0", "--epochs -1", "--epochs=-1")
flags(4, "max_steps 0", "--max-steps must be at least 1, found 0", "--max-steps 0")
flags(
    5, "learning rate negative", "--learning-rate must be a positive finite number", "--learning-rate=-1", "--learning-rate 0"
)
flags(6, "learning rate NaN", "--learning-rate must be a positive finite number, found nan", "--learning-rate nan")
flags(7, "learning rate infinite", "--learning-rate must be a positive finite number, found inf", "--learning-rate inf")
flags(8, "learning rate text", "--learning-rate: invalid float value: 'high'", "--learning-rate high")
flags(9, "weight decay NaN", "--weight-decay must be a finite number of at least 0, found nan", "--weight-decay nan")
flags(
    10,
    "warm-up longer than the run",
    "--warmup-ratio must be at least 0 and less than 1",
    "--warmup-ratio 1",
    "--warmup-ratio 2",
)
flags(11, "batch size 0, negative, 1.5", "--batch-size", "--batch-size 0", "--batch-size=-4", "--batch-size 1.5")
flags(12, "accumulation 0", "--accumulation-steps must be at least 1, found 0", "--accumulation-steps 0")


@row(13, "accumulation that does not divide the batches", 0, "plan       2 steps")
def _(at: Place) -> Attempts:
    yield at.train("--accumulation-steps", "2")
    lines = [json.loads(line) for line in (at.out / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 2, "three micro-batches, two steps"


each(14, "batch larger than the data", 0, "warning: a step of 4096 examples is more than the 24 there are",
     lambda at: [at.train("--batch-size", "4096")])  # fmt: skip
flags(15, "dropout outside 0-1 (the model's own: no flag)", "unknown argument '--dropout'", "--dropout 1.5")
flags(16, "max_length 0", "--max-length must be at least 1, found 0", "--max-length 0")
flags(17, "max_length beyond the model's positions", "--max-length 33: this model takes at most 32 tokens", "--max-length 33")
flags(
    18,
    "best metric that is not computed",
    "--best-metric bleu is not computed; there are: loss, accuracy",
    "--best-metric bleu",
)
flags(19, "save_steps negative", "--save-steps must not be negative, found -5", "--save-steps=-5")
flags(20, "a flag twice", "--epochs is given twice", "--epochs 2 --epochs 3", "--epochs 2 --epochs=2")


@row(21, "malformed config file", 2, "line 2")
def _(at: Place) -> Attempts:
    yield at.train("--config", at.write("c.toml", "seed = 1\nepochs = = 2\n"))
    yield at.train("--config", at.write("c.json", '{"seed": 1,\n"epochs": }'))


flags(22, "flags that contradict each other", "contradict", "--resume --overwrite")
flags(23, "seed out of range", "--seed must be at least 0 and less than 2**32", "--seed=-1", "--seed 4294967296")
each(24, "evaluation without evaluation data", 2, "there is no evaluation data: give --eval-file",
     lambda at: [at.on("t.csv", ROWS_OF_DATA, "--eval-steps", "1"), at.on("t.csv", ROWS_OF_DATA, "--patience", "2"),
                 at.on("t.csv", ROWS_OF_DATA, "--best-metric", "accuracy")])  # fmt: skip
flags(25, "a bool given as text", "--compile", "--compile perhaps")

# --------------------------------------------------------------------------------------------------------- 26-66: data

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


@row(45, "empty token sequence", 3, "has no token (its text is empty)")
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
each(54, "an evaluation label not seen in training", 3, "eval data, row 1: label 'z' is none of the 3 labels (a, b, c)",
     lambda at: [at.train("--eval-file", at.write("e.csv", HEADER + "w1,z\n"))])  # fmt: skip
labels(55, "regression with text labels", "row 2: 'good' (column 'label') is not a number", ["1", "good"],
       more=("--problem", "regression"))  # fmt: skip
labels(56, "multi-label of the wrong length", "row 3: 2 values of 0 or 1 are needed", [[0, 1], [1, 0], [1, 0, 1], [1, 1]],
       more=("--problem", "multi_label"))  # fmt: skip
row(57, "NER tags that do not match the words", 3, needs="no such task")(lambda at: iter(()))  # type: ignore[arg-type,return-value]
row(58, "QA answer not in the context", 3, needs="no such task")(lambda at: iter(()))  # type: ignore[arg-type,return-value]
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
    with patch("engine.fit.finish", side_effect=KeyboardInterrupt):
        assert call(at.train("--train-file", file)).code == 130
    at.write("train.csv", (at.home / "train.csv").read_text().rstrip("\r\n").rpartition("\n")[0] + "\n")
    yield at.train("--train-file", file, "--resume")


# ------------------------------------------------------------------------------------------------------- 67-76: models

each(67, "model directory missing", 4, "there is no such directory", lambda at: [
    at.train("--model", str(at.folder / "none")), at.predict("w1", model=at.folder / "none")])  # fmt: skip


@row(68, "Hub out of reach", 4, "is not reachable and the cache holds no copy. Give --model FOLDER")
def _(at: Place) -> Attempts:
    with hub_away():
        yield at.train("--model", "someone/something")
        yield at.predict("w1", model=Path("someone/something"))


@row(69, "gated repository, or no valid token", 4, "hf auth login", slow=True)
def _(at: Place) -> Attempts:
    from bench.toys.hub_server import HubServer

    tiny.save_model(at.folder / "hub/models/org/locked")
    (at.folder / "hub/models/org/locked/.gated").touch()
    with HubServer(at.folder / "hub") as hub:
        yield spawn(at.train("--model", "org/locked"), env=with_hub(at, hub.url))


@row(70, "no padding token", 0, "saved to")
def _(at: Place) -> Attempts:
    folder = at.model()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "[SEP]"}))
    yield at.train("--model", str(folder))


@row(71, "tokenizer larger than the embeddings", 4, "its tokenizer has more tokens than the model has embeddings")
def _(at: Place) -> Attempts:
    folder = at.model()
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(folder)
    yield at.train("--model", str(folder))


@row(72, "number of labels differs from the weights", 4, "classifier.weight is [3, 32] in the file, but [5, 32] by config.json")
def _(at: Place) -> Attempts:
    folder = at.finished()
    names = {str(i): name for i, name in enumerate("abcde")}
    edit(folder / "config.json", id2label=names, label2id={name: int(i) for i, name in names.items()})
    yield at.predict("w1", model=folder)


@row(73, "weights cut short", 4, "its weights file is damaged")
def _(at: Place) -> Attempts:
    folder = at.model()
    weights = (folder / "model.safetensors").read_bytes()
    for size in (len(weights) // 2, 7, 0):
        (folder / "model.safetensors").write_bytes(weights[:size])
        yield at.train("--model", str(folder))


@row(74, "a weight missing in the file", 4, "the checkpoint lacks 1 weights of the model, such as bert.encoder.layer.1")
def _(at: Place) -> Attempts:
    folder = at.model()
    weights = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    del weights["bert.encoder.layer.1.output.dense.weight"]
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
    yield at.train("--model", str(folder))


@row(75, "a model with code of its own", 4, "code of its own, which is never run")
def _(at: Place) -> Attempts:
    folder = with_code(at)
    yield at.train("--model", str(folder))
    yield at.predict("w1", model=folder)
    assert not (at.folder / "marker").exists(), "the code was run"


@row(76, "a model of the wrong architecture", 4, "model")
def _(at: Place) -> Attempts:
    folder = at.model()
    edit(folder / "config.json", model_type="vit", architectures=["ViTModel"])
    yield at.train("--model", str(folder))
    edit(folder / "config.json", model_type="no-such-kind")
    yield at.train("--model", str(folder))


# ------------------------------------------------------------------------------------------- 77-90: output and resuming


@row(77, "output directory not empty", 2, "is not empty and holds no run: choose another")
def _(at: Place) -> Attempts:
    at.write("out/thesis.tex", "nine years of work")
    yield at.train()
    yield at.train("--overwrite")
    yield at.train("--resume")


@row(78, "output directory not writable", 2, "--output-dir /tmp/")
def _(at: Place) -> Attempts:
    with as_nobody() as folder:
        usual = ("--model", "/none")  # what nobody may read
        results = [call(at.train("--output-dir", str(path), *usual)) for path in (folder, folder / "below")]
    for result in results:
        yield result


@row(79, "output directory is a file", 2, "is a file")
def _(at: Place) -> Attempts:
    yield at.train("--output-dir", at.write("out", "mine"))
    yield at.train("--output-dir", str(at.out / "below"))


@row(80, "output directory in use by a live run", 2, "is in use by another run")
def _(at: Place) -> Attempts:
    at.write("out/.lock", "")
    path = str(at.out / ".lock")
    hold = f"import fcntl, sys; f = open({path!r}, 'w'); fcntl.lockf(f, 2); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        yield at.train()


@row(81, "resume with other settings", 2, "learning_rate: 2e-05 -> 0.001")
def _(at: Place) -> Attempts:
    yield at.resume("--learning-rate", "1e-3")
    shutil.rmtree(at.out)
    shutil.copytree(at.home / "finished", at.out)
    yield at.train("--learning-rate", "1e-3")


each(82, "resume with other data", 2, "train_file: ", lambda at: [at.resume("--train-file", str(at.home / "eval.csv"))])
each(83, "resume with another model", 2, "model: ", lambda at: [at.resume("--model", str(at.home / "finished"))])


@row(84, "resume on another device (ranks: with DDP)", 0, "resume: same data order, not bitwise")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    edit(at.out / "run.json", device="cuda:0 (another)")
    yield arguments


@row(85, "newest checkpoint half written", 0, "is damaged; trying an older checkpoint")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    weights = newest(at) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    result = yield arguments
    assert "from step 4 of 6" in result.out, result.out


@row(86, "all checkpoints damaged", 4, "is whole: give --overwrite to start from the beginning")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    for step in steps_in(at.out / "checkpoints"):
        (at.out / f"checkpoints/step-{step:08d}/state.json").write_text("{}")
    (at.out / "run.json").read_text()
    yield arguments


@row(87, "checkpoint of a newer version", 4, "has format 99, this version reads up to 2: update")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    reseal(newest(at), format=99)
    yield arguments


@row(88, "already finished", 0, "training skipped")
def _(at: Place) -> Attempts:
    shutil.copytree(at.home / "finished", at.out)
    before = files_in(at.out)
    yield at.train()
    assert before == files_in(at.out), "a finished run was touched"


@row(89, "disk full", 6, "", begun=True)
def _(at: Place) -> Attempts:
    small = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)  # type: ignore[attr-defined]
    with patch("shutil.disk_usage", return_value=small):
        before = files_in(at.folder)
        result = yield at.train()
        assert "are free" in result.err and before == files_in(at.folder), "known before the start"
    shutil.rmtree(at.out)
    with failing_disk(errno.ENOSPC):
        yield at.resume_earlier()
    assert steps_in(at.out / "checkpoints"), "the older checkpoint is gone"
    assert call(at.resume()).code == 0, "and the run cannot go on"


@row(90, "quota reached, or the disk fails", 6, "", begun=True)
def _(at: Place) -> Attempts:
    for number in (errno.EDQUOT, errno.EIO):
        shutil.rmtree(at.out, ignore_errors=True)
        with failing_disk(number):
            yield at.resume_earlier()
        assert steps_in(at.out / "checkpoints"), "the older checkpoint is gone"


# ------------------------------------------------------------------------------------------------ 91-110: device and run


@row(91, "--device cuda without CUDA", 2, "sees no CUDA device; use --device cpu")
def _(at: Place) -> Attempts:
    with patch("torch.cuda.device_count", return_value=0):
        yield at.train("--device", "cuda")
        yield at.predict("w1", "--device", "cuda")


flags(92, "a device that is not there", "--device", "--device cuda:99", "--device toaster", "--device cuda:-1", "--device meta")
flags(93, "fp16 on a CPU", "--precision fp16 is not for CPUs", "--precision fp16")


@row(94, "bf16 on a GPU without it", 2, "does not compute in it; use fp16")
def _(at: Place) -> Attempts:
    with (
        patch("engine.distributed.device.choose_device", return_value=torch.device("cuda", 0)),
        patch("torch.cuda.is_bf16_supported", return_value=False),
        patch("torch.cuda.get_device_name", return_value="Tesla T4"),
    ):
        yield at.train("--precision", "bf16")


@row(95, "out of memory", 6, "out of memory", begun=True)
def _(at: Place) -> Attempts:
    with patch("tasks.classification.task.Classification.loss", side_effect=torch.OutOfMemoryError("CUDA out of memory.")):
        yield at.train()


@row(96, "a worker is killed", 6, "memory", begun=True)
def _(at: Place) -> Attempts:
    body = "def prepare(self, row, generator):\n    os.kill(os.getpid(), signal.SIGKILL)"
    yield at.train("--task", at.task(body), "--workers", "1")


@row(97, "a worker raises", 3, "ZeroDivisionError: division by zero", begun=True)
def _(at: Place) -> Attempts:
    body = "def prepare(self, row, generator):\n    return row if row['labels'] else 1 / 0"
    for workers in ("0", "1"):
        result = yield at.train("--task", at.task(body), "--workers", workers)
        assert "row " in result.err, result.err
    body = "def collate(self, rows, layout):\n    return 1 / 0"
    result = yield at.train("--task", at.task(body), "--workers", "1", "--batching", "padded")
    assert "rows " in result.err, result.err


@row(98, "a worker hangs", 6, "no batch within 1 seconds", begun=True, slow=True)
def _(at: Place) -> Attempts:
    body = "def prepare(self, row, generator):\n    time.sleep(999)"
    with patch("engine.loader.WORKER_SECONDS", 1):
        yield at.train("--task", at.task(body), "--workers", "1")


@row(99, "torchrun's variables missing", 7, "RANK LOCAL_RANK are set and WORLD_SIZE", slow=True)
def _(at: Place) -> Attempts:
    yield spawn(at.train(), env=os.environ | {"RANK": "0", "LOCAL_RANK": "0"})


@row(100, "port in use", 7, "is in use: give another MASTER_PORT", slow=True)
def _(at: Place) -> Attempts:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield spawn(at.train(), env=os.environ | ranks.environment(0, 2, taken.getsockname()[1]))


@row(101, "ranks with different configs", 7, "rank 1 has other settings than rank 0 (learning_rate: 0.5, and ", slow=True)
def _(at: Place) -> Attempts:
    first, second = two_ranks(at.train(), at.train("--learning-rate", "0.5"))
    yield first
    assert second.code == 7 and not second.raised, second


@row(102, "a rank dies or hangs", 7, "rank 1 does not answer: it was killed, or it hangs", slow=True, begun=True)
def _(at: Place) -> Attempts:
    mine = at.task(
        "def loss(self, outputs, batch):\n    if os.environ['RANK'] == '1':\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return super().loss(outputs, batch)"
    )
    first, second = two_ranks(*[at.train("--task", mine, "--rank-timeout", "5")] * 2)
    yield first
    assert second.code == -signal.SIGKILL, second


@row(103, "loss or gradient not finite", 5, "is not finite at step", begun=True)
def _(at: Place) -> Attempts:
    result = yield at.train("--learning-rate", "1e30", "--epochs", "9", "--log-steps", "1")
    assert ", rows " in result.err, result.err


@row(104, "fp16 loss scale collapses", 5, "the fp16 loss scale has collapsed", begun=True)
def _(at: Place) -> Attempts:
    task = at.task(
        "def loss(self, outputs, batch):\n    return super().loss(outputs, batch) + 0 * (outputs.logits.sum() * 0).sqrt()"
    )
    with patch("engine.fit.choose_precision", return_value="fp16"), patch("engine.build.choose_precision", return_value="fp16"):
        yield at.train("--task", task, "--epochs", "20", "--batching", "padded")


@row(105, "the loss jumps", 0, "warning: the loss has jumped to")
def _(at: Place) -> Attempts:
    body = (
        "calls = 0\n"
        "def loss(self, outputs, batch):\n"
        "    if outputs.logits.requires_grad:\n        Mine.calls += 1\n"
        "    return super().loss(outputs, batch) * (50 if Mine.calls == 9 else 1)"
    )
    yield at.train("--task", at.task(body), "--epochs", "4", "--log-steps", "1")


@row(106, "Ctrl-C once, and twice", 130, "", slow=True, begun=True)
def _(at: Place) -> Attempts:
    result = yield signalled(at, signal.SIGINT)
    assert "and saved: --resume continues" in result.err and steps_in(at.out / "checkpoints"), result.err
    shutil.rmtree(at.out)
    yield signalled(at, signal.SIGINT, again=True)


@row(107, "SIGTERM", 143, "and saved: --resume continues", slow=True, begun=True)
def _(at: Place) -> Attempts:
    yield signalled(at, signal.SIGTERM)


@row(108, "stdout closed (| head)", 141, "")
def _(at: Place) -> Attempts:
    command = [sys.executable, "run.py", *at.predict_file("i.csv", "text\n" + "w1 w2\n" * 3000)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None and process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert said == "", said
    yield Result(process.returncode, "", said)


@row(109, "no terminal", 0, "saved to", slow=True)
def _(at: Place) -> Attempts:
    environment = {name: value for name, value in os.environ.items() if name not in ("TERM", "COLUMNS", "LINES")}
    result = yield spawn(at.train(), stdin=subprocess.DEVNULL, start_new_session=True, env=environment)
    assert "step 3/3" in result.out and "\r" not in result.out + result.err, "lines take the bar's place"


@row(110, "the clock jumps", 0, "from step 6 of 6")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    for path in sorted((at.out / "checkpoints").rglob("*")):
        os.utime(path, (2e9, 2e9) if "00004" in str(path) else (1e9, 1e9))  # the older one looks newer
    with patch("time.time", side_effect=lambda: next(backwards)):
        yield arguments
    lines = [json.loads(line) for line in (at.out / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps) and all(line.get("steps_per_second", 1) > 0 for line in lines)


backwards = iter(range(2_000_000_000, 0, -1000))

# ------------------------------------------------------------------------------------------------------------ attacks


@row("S1", "weights as a pickle", 4, "model")
def _(at: Place) -> Attempts:
    folder = at.model()
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pt", "model.ckpt"):
        (folder / name).write_bytes(pickle.dumps(Payload(at.folder / "marker")))
    yield at.train("--model", str(folder))
    yield at.predict("w1", model=folder)
    assert not (at.folder / "marker").exists(), "the pickle was loaded"


@row("S2", "a pickle beside a checkpoint", 0, "resume: exact, from step 6")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    for name in ("optimizer.pt", "rng.pkl", ".metadata"):
        (newest(at) / name).write_bytes(pickle.dumps(Payload(at.folder / "marker")))
    yield arguments
    assert not (at.folder / "marker").exists(), "the pickle was loaded"


@row("S3", "code in a model directory, or named by it", 4, "never run", slow=True)
def _(at: Place) -> Attempts:
    folder = with_code(at)
    yield spawn(at.train("--model", str(folder)), stdin=subprocess.DEVNULL)
    finished = at.finished()
    (finished / "evil.py").write_text(EVIL.format(marker=str(at.folder / "marker")))
    document = json.loads((finished / "run.json").read_text())
    document["settings"]["task"] = f"{finished / 'evil.py'}:Evil"
    (finished / "run.json").write_text(json.dumps(document))
    (finished / "link.py").symlink_to(at.folder / "evil.py")
    yield at.predict("w1", model=finished)
    evil = at.write("evil.py", EVIL.format(marker=str(at.folder / "marker")))
    for task in (f"{evil}:Evil", f"{finished / 'link.py'}:Evil"):  # outside the directory, or behind a link in it
        document["settings"]["task"] = task
        (finished / "run.json").write_text(json.dumps(document))
        yield at.predict("w1", model=finished)
    assert not (at.folder / "marker").exists(), "the code was run"


@row("S4", "paths in manifests and label names", 4, "is not a plain file name")
def _(at: Place) -> Attempts:
    lines = HEADER + "".join(f"w{i},{('../../x', '/etc/x')[i % 2]}\n" for i in range(8))
    assert call(at.on("t.csv", lines, "--output-dir", str(at.folder / "labels"))).code == 0
    assert not (at.folder.parent / "x").exists()
    arguments = at.resume()
    secret = at.write("secret", "mine")
    for step in steps_in(at.out / "checkpoints"):
        entry = {"bytes": 4, "sha256": "0" * 64}
        reseal(at.out / f"checkpoints/step-{step:08d}", files={"../../../secret": entry, secret: entry})
    result = call(arguments)
    yield Result(result.code, result.out, result.err.replace("warning: ", "error: ", 1).split("\n")[0], result.raised)


@row("S5", "a chat template that reaches for Python", 0, "saved to")
def _(at: Place) -> Attempts:
    folder = at.model()
    payload = "{{ cycler.__init__.__globals__.os.system('touch " + str(at.folder / "marker") + "') }}"
    edit(folder / "tokenizer_config.json", chat_template=payload)
    (folder / "chat_template.jinja").write_text(payload)
    yield at.train("--model", str(folder))
    assert not (at.folder / "marker").exists(), "the template was run"


@row("S6", "a safetensors header of 2**63 bytes, nested JSON", 4, "")
def _(at: Place) -> Attempts:
    folder = at.model()
    bombs = {"config.json": b"[" * 100_000, "tokenizer.json": b"[" * 100_000, "tokenizer_config.json": b'{"a":' * 100_000,
             "model.safetensors": struct.pack("<Q", 2**63) + b"{}"}  # fmt: skip
    for name, bomb in bombs.items():
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(bomb)
        yield at.train("--model", str(folder))
        (folder / name).write_bytes(good)
    shutil.rmtree(at.out)
    arguments = at.resume()
    for step in steps_in(at.out / "checkpoints"):
        (at.out / f"checkpoints/step-{step:08d}/MANIFEST.json").write_bytes(b"[" * 100_000)
    yield arguments


@row("S7", "the Hub token", 0, "saved to", slow=True)
def _(at: Place) -> Attempts:
    token = "hf_" + "SecretSecret" * 3
    result = yield spawn(at.train(), env=os.environ | {"HF_TOKEN": token, "HUGGING_FACE_HUB_TOKEN": token})
    assert token not in result.out + result.err, "printed"
    assert not any(token.encode() in path.read_bytes() for path in at.folder.rglob("*") if path.is_file()), "written"


@row(
    "S8",
    "HTML in texts and label names",
    0,
    "saved to",
    needs="" if (ROOT / "engine/artifacts/report.py").exists() else "no report yet",
)
def _(at: Place) -> Attempts:
    evil = "<script>alert(1)</script>", '" onerror="alert(1)'
    lines = "".join(json.dumps({"text": f"w{i} {evil[i % 2]} </script>", "label": evil[i % 2]}) + "\n" for i in range(16))
    yield at.on("t.jsonl", lines, "--eval-fraction", "0.5")
    for path in at.out.glob("*.html"):
        page = path.read_text()
        assert "<script>alert" not in page and 'onerror="alert' not in page and "default-src 'none'" in page, path.name


@row("S9", "formulas in CSV cells", 0, "predictions written")
def _(at: Place) -> Attempts:
    texts = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tw1", "w1 =1"]
    with open(at.folder / "i.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in texts)])
    arguments = at.predict("--input", str(at.folder / "i.csv"), "--output", str(at.folder / "o.csv"))
    for more, expected in (([], texts), (["--excel-safe"], ["'" + text for text in texts[:-1]] + texts[-1:])):
        yield [*arguments, *more]
        with open(at.folder / "o.csv", newline="") as stream:
            assert [line["text"] for line in csv.DictReader(stream)] == expected, more


@row("S10", "terminal escapes in texts, labels and file names", 0, "")
def _(at: Place) -> Attempts:
    evil = "\x1b]0;owned\x07\x1b[2J"
    out = str(at.folder / f"o{evil}")
    lines = "".join(json.dumps({"text": f"w{i} {evil}", "label": f"{i % 2}{evil}"}) + "\n" for i in range(8))
    yield at.on(f"t{evil}.jsonl", lines, "--output-dir", out)
    yield at.predict(f"w1 {evil}", model=Path(out))
    yield at.predict("--input", str(at.folder / f"t{evil}.jsonl"), model=Path(out))
    refused = call(at.train("--train-file", str(at.folder / f"none{evil}.csv")))
    assert refused.code == 3 and "\x1b" not in refused.err, refused.err


@row("S11", "shell, eval and exec in the source", 0, "")
def _(at: Place) -> Attempts:
    for path in [*ROOT.glob("engine/**/*.py"), *ROOT.glob("tasks/**/*.py"), ROOT / "run.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
            assert not (isinstance(called, ast.Name) and name in ("eval", "exec", "compile", "__import__")), f"{path}: {name}"
            assert name not in ("system", "popen", "spawnl", "spawnv"), f"{path}: {name}"
            is_shell = isinstance(node, ast.keyword) and node.arg == "shell"
            assert not is_shell, f"{path}: shell="
    yield Result(0, "", "")


row("S12", "the rendezvous listens on 127.0.0.1 only", 0, needs=TORCHS)(lambda at: iter(()))  # type: ignore[arg-type,return-value]

# ------------------------------------------------------------------------------------------------------------- helpers


def two_ranks(first: list[str], second: list[str]) -> list[Result]:
    """Two command lines as the ranks of one run."""
    port = ranks.free_port()
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(spawn, argv, env=os.environ | ranks.environment(rank, 2, port))
            for rank, argv in enumerate((first, second))
        ]
    return [each.result() for each in waiting]


EVIL = "open({marker!r}, 'w').close()\nfrom tasks.classification import Classification as Evil\nEvilConfig = EvilModel = Evil\n"


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def with_code(at: Place) -> Path:
    """A model directory whose config asks for code that lies beside it."""
    code = {"AutoConfig": "evil.EvilConfig", "AutoModelForSequenceClassification": "evil.EvilModel"}
    folder = at.model(model_type="evil", auto_map=code)
    (folder / "evil.py").write_text(EVIL.format(marker=str(at.folder / "marker")))
    return folder


def newest(at: Place) -> Path:
    """The newest checkpoint of the row's run."""
    return at.out / f"checkpoints/step-{steps_in(at.out / 'checkpoints')[-1]:08d}"


@contextlib.contextmanager
def hub_away() -> Iterator[None]:
    """No Hub, and an empty cache."""
    with (
        patch("engine.data.hub.reachable", return_value=False),
        patch("engine.data.hub.go_offline"),
        patch("huggingface_hub.try_to_load_from_cache", return_value=None),
    ):
        yield


def with_hub(at: Place, url: str) -> dict[str, str]:
    """The environment of a user whose Hub is at ``url``, with an empty cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    return kept | {"HF_ENDPOINT": url, "HF_HOME": str(at.folder / "hf"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@contextlib.contextmanager
def failing_disk(number: int) -> Iterator[None]:
    """What is written below a checkpoints folder does not reach the disk."""
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if "/checkpoints/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    with patch("os.fsync", failing):
        yield


def signalled(at: Place, number: int, again: bool = False) -> Result:
    """A run in a new process that gets a signal after some steps."""
    command = [sys.executable, "run.py", *at.train("--epochs", "400", "--log-steps", "1", "--save-steps", "5")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        until = time.monotonic() + 120
        while not steps_in(at.out / "checkpoints") and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        if again:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return Result(process.returncode, out, err)
