"""Odd things beyond the table, each tried once by somebody careless or hostile, and kept: rows X1 and later."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from bench.bad_input.case import Place, edit, reseal
from bench.bad_input.forms import HEADER, ROWS_OF_DATA, each

Lines = Callable[[Place], Sequence[list[str]]]
LONG = "9" * 5000
BOMB = "[" * 100_000


def config(name: str, content: str | bytes) -> Lines:
    return lambda at: [at.train("--config", at.write(name, content))]


def file(name: str, content: str | bytes, *flags: str) -> Lines:
    return lambda at: [at.on(name, content, *flags)]


def labels(values: Sequence[Any], problem: str = "single_label") -> Lines:
    return lambda at: [at.on_labels(values, "--problem", problem)]


def model(**changes: Any) -> Lines:
    """Train from a model whose config.json says something else."""
    return lambda at: [at.train("--model", str(at.model(**changes)))]


def model_file(name: str, content: bytes) -> Lines:
    """Train from a model one of whose files holds something else."""

    def lines(at: Place) -> list[list[str]]:
        folder = at.model()
        (folder / name).write_bytes(content)
        return [at.train("--model", str(folder))]

    return lines


def with_nan(folder: Path) -> Path:
    weights = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    weights["classifier.weight"][0, 0] = float("nan")
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
    return folder


def finished_file(name: str, content: bytes) -> Lines:
    """Draw a finished run one of whose files holds something else."""

    def lines(at: Place) -> list[list[str]]:
        folder = at.finished()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        return [
            ["report", str(folder)],
            ["compare", str(folder), str(at.home / "finished"), "--output", str(at.folder / "c.html")],
        ]

    return lines


def run_json(**settings: Any) -> Lines:
    """Predict with a finished run whose settings were changed."""

    def lines(at: Place) -> list[list[str]]:
        folder = at.finished()
        document = json.loads((folder / "run.json").read_text())
        edit(folder / "run.json", settings=document["settings"] | settings)
        return [at.predict("w1", model=folder)]

    return lines


def finished_config(*command: str, **changes: Any) -> Lines:
    """Use a finished run whose config.json was changed."""

    def lines(at: Place) -> list[list[str]]:
        folder = at.finished()
        edit(folder / "config.json", **changes)
        return [[command[0], "--model", str(folder), *command[1:]]]

    return lines


def state(change: Callable[[dict[str, Any]], Any]) -> Lines:
    """Resume from checkpoints whose state.json was changed, and whose manifest was made to fit."""

    def lines(at: Place) -> list[list[str]]:
        arguments = at.resume()
        for folder in (at.out / "checkpoints").iterdir():
            document = json.loads((folder / "state.json").read_text())
            changed = change(document)
            forge(folder, "state.json", json.dumps(document if changed is None else changed).encode())
        return [arguments]

    return lines


def checkpoint_file(name: str, content: bytes) -> Lines:
    """Resume from checkpoints one of whose files was replaced, and whose manifest was made to fit."""

    def lines(at: Place) -> list[list[str]]:
        arguments = at.resume()
        for folder in (at.out / "checkpoints").iterdir():
            forge(folder, name, content)
        return [arguments]

    return lines


def forge(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    files = json.loads((folder / "MANIFEST.json").read_text())["files"]
    reseal(folder, files=files | {name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}})


def in_out(make: Callable[[Path], Any]) -> Lines:
    """Train where the output directory holds something odd."""

    def lines(at: Place) -> list[list[str]]:
        at.out.mkdir()
        make(at.out)
        return [at.train()]

    return lines


def pipe(at: Place) -> list[list[str]]:
    os.mkfifo(at.folder / "f.csv")
    return [at.train("--train-file", str(at.folder / "f.csv")), at.predict("--input", str(at.folder / "f.csv"))]


def endless(at: Place) -> list[list[str]]:
    (at.folder / "z.csv").symlink_to("/dev/zero")
    return [at.train("--train-file", str(at.folder / "z.csv"))]


def evaluate(at: Place, *flags: str) -> list[str]:
    return ["evaluate", "--model", str(at.home / "finished"), *flags]


def bomb_in_run_json(at: Place) -> list[list[str]]:
    folder = at.finished()
    (folder / "run.json").write_text(BOMB)
    return [at.predict("w1", model=folder)]


def output_is_a_directory(at: Place) -> list[list[str]]:
    (at.folder / "d.csv").mkdir()
    return [at.predict("w1", "--output", str(at.folder / "d.csv")), evaluate(at, "--output", str(at.folder))]


def into_a_link(at: Place) -> list[list[str]]:
    (at.folder / "o.csv").symlink_to(at.write("mine.csv", "mine"))
    return [at.predict_file("i.csv", "text\nw1\n", "--output", str(at.folder / "o.csv"))]


def odd(*flags: str) -> Lines:
    return lambda at: [at.train(*flags)]


ODD: list[tuple[str, int, str, Lines]] = [
    ("a learning rate that is 0 as a float", 2, "found 0.0", odd("--learning-rate", "1e-400")),
    ("a hundred million workers", 2, "on this machine, found 100000000", odd("--workers", "100000000")),
    ("a CPU that is not there", 2, "--device must be", odd("--device", "cpu:7")),
    ("class weights NaN", 2, "--class-weights needs 3 numbers", odd("--class-weights", "nan,1,1")),
    ("two class weights for three classes", 2, "--class-weights needs 3 numbers", odd("--class-weights", "1,2")),
    ("an unknown way of batching", 2, "invalid choice: 'sorted'", odd("--batching", "sorted")),
    ("a label name twice", 2, "two or more different names", odd("--label-names", "a,b,c,c")),
    ("--train-split with a file", 2, "is for data sets of the Hub", odd("--train-split", "train")),
    ("--eval-split with a file", 2, "is for data sets of the Hub", odd("--eval-split", "test")),
    ("--data-config with a file", 2, "is for data sets of the Hub", odd("--data-config", "x")),
    ("--train-split with the sample", 2, "is for data sets of the Hub", lambda at: [
        ["--task", "yelp", "--data", "sample", "--train-split", "x", "--output-dir", str(at.out)]]),
    ("--revision with a folder", 2, "is for models of the Hub", odd("--revision", "main")),
    ("an encoding that is none", 3, "unknown encoding", odd("--encoding", "rot13")),
    ("UTF-16 without its mark", 3, "does not start with BOM", odd("--encoding", "utf-16")),
    ("a config that never ends", 2, "it is not a file", odd("--config", "/dev/zero")),
    ("a task in a config that is no text", 2, "task must be text, found", lambda at: [
        ["--config", at.write("c.toml", "task = 5\n")], ["--config", at.write("c.json", '{"task": ["yelp"]}')]]),
    ("nested brackets in a TOML config", 2, "is not valid TOML", config("c.toml", "a = " + "[" * 5000)),
    ("nested brackets in a JSON config", 2, "is not valid JSON", config("c.json", BOMB)),
    ("a number of 5,000 digits in a config", 2, "is not valid TOML", config("c.toml", f"seed = {LONG}\n")),
    ("terminal escapes in a config's setting", 2, "unknown setting", config("c.toml", '"a\\u001b[2J" = 1\n')),
    ("a dash from a word processor", 2, "did you mean --epochs?", odd("—epochs", "2")),
    ("a command of 10,000 characters", 2, "unknown command", lambda at: [["x" * 10_000], ["\x1b[2Jx"]]),
    ("an output directory below a file", 2, "is a file", odd("--output-dir", "/dev/null/x")),
    ("labels of 5,000 digits in CSV", 0, "saved to", file("t.csv", HEADER + f"w1,{LONG}\nw2,8{LONG}\nw3,{LONG}\n")),
    ("labels of 5,000 digits in JSONL", 3, "line 1 is not JSON", file("t.jsonl", f'{{"text": "a", "label": {LONG}}}\n')),
    ("a lone label of 5,000 digits", 3, "at least two classes", file("t.csv", HEADER + f"w1,{LONG}\n")),
    ("a multi-label list in a list", 3, "", labels([["a", ["b"]], ["a"]], "multi_label")),
    ("lists of lists for multi-label", 3, "is neither a name", labels([[["a"], ["b"]], [["a"]]], "multi_label")),
    ("0.5 among multi-labels", 3, "holds 0.5, which is neither", labels([[0.5, 1], [1, 0]], "multi_label")),
    ("objects for multi-labels", 3, "is neither a name", labels([[{"a": 1}], [{"a": 2}]], "multi_label")),
    ("multi-labels that are all empty", 3, "no training row has a label", labels([[], []], "multi_label")),
    ("1_000 as a number", 3, "'1_000' (column 'label') is not a number", labels(["1_000", "2"], "regression")),
    ("objects as numbers", 3, "is not a number", labels([{"a": 1}, {"a": 2}], "regression")),
    ("labels that differ by a space", 0, "warning: the labels 'a' and 'a ' look alike", labels(["a", "a "] * 4)),
    ("a column of ids as label", 0, "is that the right column?", labels([f"id{i}" for i in range(24)])),
    ("a pipe for a file", 3, "is not a regular file", pipe),
    ("a file that never ends", 3, "is not a regular file", endless),
    ("a packed file called .csv", 3, "is not UTF-8", file("t.csv", b"\x1f\x8b\x08\x00abc")),
    ("a JSON array called .jsonl", 3, "must be an object", file("t.jsonl", '[{"text": "a", "label": 1}]')),
    ("a JSON key twice in a line", 3, "text is given twice", file("t.jsonl", '{"text": "a", "text": "b", "label": 1}\n')),
    ("a quote as delimiter", 3, "", file("t.csv", ROWS_OF_DATA, "--delimiter", '"')),
    ("a newline as delimiter", 3, "", file("t.csv", ROWS_OF_DATA, "--delimiter", "\n")),
    ("spaces in the header", 3, "(it has: ' text', ' label')", file("t.csv", " text, label\nw1,a\n")),
    ("texts that are numbers in JSONL", 3, "a text is needed, found 1", file("t.jsonl", '{"text": 1, "label": 1}\n{"text": 2, "label": 0}\n')),
    ("nested brackets in JSONL", 3, "line 1 is not JSON", file("t.jsonl", BOMB)),
    ("a model with dropout 1.5", 4, "dropout probability", model(hidden_dropout_prob=1.5)),
    ("a model of width 0", 4, "", model(hidden_size=0)),
    ("a model whose width is text", 4, "hidden_size", model(hidden_size="big")),
    ("a model with fewer layers than weights", 0, "have no place in the model", model(num_hidden_layers=1)),
    ("a model with a smaller vocabulary", 4, "word_embeddings", model(vocab_size=50)),
    ("a model whose kind is a list", 4, "damaged", model(model_type=["bert"])),
    ("a folder without config.json", 4, "holds no config.json", odd("--model", "/")),
    ("a config.json that is a list", 4, "config.json is damaged (it holds no object)", model_file("config.json", b"[]")),
    ("an empty config.json", 4, "config.json is damaged", model_file("config.json", b"")),
    ("an empty tokenizer.json", 4, "damaged", model_file("tokenizer.json", b"{}")),
    ("an adapter that names another model", 4, "", model_file("adapter_config.json", b'{"base_model_name_or_path": "e/e", "peft_type": "LORA"}')),
    ("NaN in a model's weights", 4, "classifier.weight holds NaN or infinity", lambda at: [
        at.predict("w1", model=with_nan(at.finished())), at.train("--model", str(at.folder / "finished")),
        ["evaluate", "--model", str(at.folder / "finished")]]),
    ("an unfinished run as a model", 2, "holds an unfinished run", lambda at: [
        at.train("--model", str(at.home / "unfinished")), at.predict("w1", model=at.home / "unfinished")]),
    ("run.json with a length that is text", 4, "max_length cannot be 'abc'", run_json(max_length="abc")),
    ("run.json with a task that is a number", 4, "task cannot be 5", run_json(task=5)),
    ("run.json with an unknown problem", 4, "problem cannot be 'x'", run_json(problem="x")),
    ("nested brackets in run.json", 2, "is not a run's", bomb_in_run_json),
    ("label names with a gap", 4, "must name labels 0 to 2", finished_config("predict", "w1", id2label={"0": "a", "2": "b", "5": "c"})),
    ("two labels of one name", 4, "must name labels 0 to 2", finished_config("predict", "w1", id2label={"0": "a", "1": "a", "2": "c"})),
    ("class weights that are text", 4, "a class weight for each of the 3", finished_config("evaluate", class_weights="x")),
    ("a state that is a list", 4, "does not hold what a run saves", state(lambda d: [1])),
    ("a state whose step is text", 4, "does not hold what a run saves", state(lambda d: d.update(step="x"))),
    ("a state whose step is huge", 4, "does not hold what a run saves", state(lambda d: d.update(step=10**30))),
    ("a state whose step is negative", 4, "does not hold what a run saves", state(lambda d: d.update(step=-5))),
    ("a state without progress", 4, "does not hold what a run saves", state(lambda d: d.update(progress=[]))),
    ("a state whose loss is text", 4, "does not hold what a run saves", state(lambda d: d["progress"]["window"].update(loss_sum="x"))),
    ("a state whose log ends before its start", 4, "does not hold what a run saves", state(lambda d: d["progress"].update(metrics_bytes=-1))),
    ("a state whose best is a list", 4, "does not hold what a run saves", state(lambda d: d["progress"].update(best=[1]))),
    ("a state whose learning rate is text", 4, "does not hold what a run saves", state(lambda d: d["optimizer"][0].update(lr="x"))),
    ("a state without random numbers", 4, "does not hold what a run saves", state(lambda d: d.update(rng={}))),
    ("nested brackets in a state", 4, "does not hold what a run saves", checkpoint_file("state.json", BOMB.encode())),
    ("a checkpoint header of 2**63 bytes", 4, "does not hold what a run saves", checkpoint_file("model.safetensors", struct.pack("<Q", 2**63) + b"{}")),
    ("an optimizer that is garbage", 4, "does not hold what a run saves", checkpoint_file("optimizer.safetensors", b"xx")),
    ("what a killed save has left", 0, "saved to", in_out(lambda out: (out / ".tmp-model-x").mkdir())),
    ("a lock that is a directory", 2, "is no regular file", in_out(lambda out: (out / ".lock").mkdir())),
    ("a log that is a directory", 2, "is no regular file", in_out(lambda out: (out / "metrics.jsonl").mkdir())),
    ("an output directory with a line break", 0, "saved to", lambda at: [at.train("--output-dir", str(at.folder / "a\nb"))]),
    ("--id-column that is not there", 3, "has no column 'key'", lambda at: [
        at.predict_file("i.csv", "id,text\n1,w1\n", "--id-column", "key")]),
    ("ids that repeat where another column is named", 0, "w1", lambda at: [
        at.predict_file("i.csv", "id,key,text\n1,a,w1\n1,b,w1\n", "--id-column", "key")]),
    ("--output in a directory that is not there", 2, "there is no such directory", lambda at: [
        at.predict("w1", "--output", str(at.folder / "no/x.csv")), evaluate(at, "--output", str(at.folder / "no/x.json"))]),
    ("--output that is a directory", 2, "is a directory", output_is_a_directory),
    ("--excel-safe for JSONL", 2, "--excel-safe is for CSV files", lambda at: [
        at.predict("w1", "--excel-safe", "--output", str(at.folder / "o.jsonl")), at.predict("w1", "--excel-safe"),
        evaluate(at, "--excel-safe"), ["search", "--corpus", "t.csv", "--excel-safe", "w1"], ["caption", "--excel-safe", "a.png"]]),
    ("predict on a file with another delimiter", 3, "say --delimiter ';'", lambda at: [at.predict_file("i.csv", "text;label\nw1;a\n")]),
    ("predict on a lone column of another name", 3, "has no column 'text'", lambda at: [at.predict_file("i.csv", "body\nw1\n")]),
    ("predict on a lone column beside --text-column", 3, "has no column 'body'", lambda at: [
        at.predict_file("i.csv", "text\nw1\n", "--text-column", "body")]),
    ("--text-column without a file", 2, "can only be named with --input FILE", lambda at: [at.predict("w1", "--text-column", "body")]),
    ("predict on half a character", 3, "half a character", lambda at: [at.predict("a\udcff")]),
    ("names of 5,000 characters", 2, "File name too long", lambda at: [
        at.predict("w", model=Path("./" + "a" * 5000)), at.predict("--input", "a" * 5000 + ".csv"),
        at.train("--output-dir", "a" * 5000)]),
    ("evaluate without labels", 3, "has no column 'label'", lambda at: [evaluate(at, "--file", at.write("e.csv", "text\nw1\n"))]),
    ("evaluate on data that have gone", 3, "does not exist", lambda at: [
        ["evaluate", "--model", str(gone(at))]]),
    ("a flag of Trainer's", 2, "of Trainer's; here: --batch-size (16), over all devices", odd("--per-device-train-batch-size", "8")),
    ("YAML that is none", 2, "line 2, column 8", lambda at: [at.train("--config", at.write("c.yaml", "seed: 1\nmodel: @x\n"))]),
    ("YAML that would run code", 2, "python/object/apply:os.system", lambda at: [
        at.train("--config", at.write("c.yml", "model: !!python/object/apply:os.system [touch hacked]\n"))]),
    ("YAML that grows without end", 2, "cannot refer to another", lambda at: [
        at.train("--config", at.write("c.yaml", "a: &a [x,x]\n" + "".join(f"b{n}: &b{n} [*a,*a]\n" for n in range(99))))]),
    ("a run.json with a task of a stranger's as --config", 2, "give it by hand, --task FILE.py:CLASS", lambda at: [
        ["--config", at.write("run.json", json.dumps({"status": "finished", "data": {}, "settings": {"task": at.task("x = 1")}}))]]),
    ("a run.json as --config of predict", 2, "this command takes the run as --model", lambda at: [
        at.predict("w1", "--config", str(at.finished() / "run.json"))]),
    ("--save-config over a file", 2, "is there already", lambda at: [at.train("--save-config", at.write("mine.toml", "mine"))]),
    ("--save-config without a format", 2, "must end in .toml, .json, .yaml, .yml", odd("--save-config", "settings")),
    ("a writer that is not there", 2, "there is no file", odd("--write-to", "no_such.py:Mine")),
    ("a writer with nothing to call", 2, "the class has nothing to call", lambda at: [
        at.train("--write-to", at.write("w.py", "class Mine: pass") + ":Mine")]),
    ("a writer whose method is a slip", 2, "on_evaluation would never be called", lambda at: [
        at.train("--write-to", at.write("w.py", "class Mine:\n def on_evaluation(self, step, line): pass") + ":Mine")]),
    ("a folder named README.md in the run's directory", 2, "is no regular file, and the run writes a file", lambda at: in_the_way(at, "README.md")),
    ("a folder named model.safetensors there", 2, "is no regular file, and the run writes a file", lambda at: in_the_way(at, "model.safetensors")),
    ("a folder of another program with a log", 2, "holds no run", lambda at: of_another(at, "metrics.jsonl")),
    ("a folder of another program with a run.json", 2, "holds no run", lambda at: of_another(at, "run.json")),
    ("an output directory whose name is not UTF-8", 2, "is not UTF-8", lambda at: [at.train("--output-dir", str(at.folder / "a\udcff"))]),
    ("evaluate --errors into the file it reads", 2, "is the input", lambda at: [
        evaluate(at, "--file", at.write("e.csv", "text,label\nw1,a\n"), "--errors", str(at.folder / "e.csv"))]),
    ("evaluate --errors into the run's own data", 2, "is the input", lambda at: [evaluate(at, "--errors", str(at.home / "eval.csv"))]),
    ("evaluate --slice without --errors", 2, "give --errors FILE.csv, too", lambda at: [evaluate(at, "--slice", "label")]),
    ("evaluate --slice by a column that is not there", 3, "has no column 'city'", lambda at: [
        evaluate(at, "--slice", "city", "--errors", str(at.folder / "e.csv"))]),
    ("evaluate --calibrate on a handful of rows", 3, "held-out rows are needed to learn from, found", lambda at: [
        evaluate(at, "--calibrate", "--file", at.write("e.csv", "text,label\nw1,a\nw2,b\n"))]),
    ("evaluate --calibrate beside --errors", 2, "give it first, and then evaluate --errors", lambda at: [
        evaluate(at, "--calibrate", "--errors", str(at.folder / "e.csv"))]),
    ("evaluate --threshold with a number", 2, "--threshold", lambda at: [evaluate(at, "--threshold", "0.3")]),
    ("a temperature that is none", 4, "must have a positive temperature", lambda at: [
        ["predict", "--model", str(at.model(calibration={"temperature": -1})), "w1"]]),
    ("thresholds that are none", 4, "the thresholds of calibration must be", lambda at: [
        ["predict", "--model", str(at.model(calibration={"thresholds": ["x"]})), "w1"]]),
    ("findings that evaluate does not write", 3, "is not what evaluate writes", finished_file(
        "findings.json", b'{"curves": {"x": [[1, 2]]}}')),
    ("findings that are no JSON", 3, "is not what evaluate writes", finished_file("findings.json", b"\xff{")),
    ("inspect of numbers for --near", 2, "--near must lie between 0.3 and 1, or be 0", lambda at: [
        ["inspect", "--train-file", str(at.home / "train.csv"), "--near", value] for value in ("2", "-1", "0.1", "nan")]),
    ("inspect of data without labels", 3, "has no column 'label'", lambda at: [
        ["inspect", "--train-file", at.write("t.csv", "text\nw1\nw2\n")]]),
    ("inspect --output over its input", 2, "is the input", lambda at: [
        ["inspect", "--train-file", at.write("t.csv", "text,label\nw1,a\nw2,b\n"), "--output", str(at.folder / "t.csv")]]),
    ("report into the weights", 2, "must end in .html", lambda at: [
        ["report", "--model", str(at.finished()), "--output", str(at.folder / "finished/model.safetensors")]]),
    ("compare into a data file", 2, "must end in .html", lambda at: [
        ["compare", str(at.finished()), str(at.home / "finished"), "--output", at.write("t.csv", "text\nw1\n")]]),
    ("predict into a link", 2, "is a link", into_a_link),
    ("half a character in a column that nobody reads", 3, "holds half a character", lambda at: [
        at.predict_file("i.jsonl", '{"text": "w1", "note": "\\ud800"}\n', "--output", str(at.folder / "o.csv"))]),
    ("a NUL on its way to a CSV file", 3, "holds a NUL", lambda at: [
        at.predict_file("i.jsonl", '{"text": "w1", "note": "\\u0000"}\n', "--output", str(at.folder / "o.csv"))]),
    ("evaluate in batches of a billion", 0, "eval_accuracy", lambda at: [evaluate(at, "--eval-batch-size", "1000000000")]),
    ("a log with text for a number", 3, "metrics.jsonl line 1: no run logs this", finished_file(
        "metrics.jsonl", b'{"kind": "train", "step": "x", "epoch": 1}\n')),
    ("a log that is no text", 3, "metrics.jsonl line 1: no run logs this", finished_file("metrics.jsonl", b"\xff\n")),
    ("a profile with text for steps", 3, "is not what --profile writes", finished_file(
        "profile/profile.json", b'{"device": "cpu", "steps": "x", "operations": []}')),
    ("a model of 1e9 layers", 4, "num_hidden_layers is 1000000000", lambda at: [
        at.train("--model", str(at.model(num_hidden_layers=10**9)))]),
    ("a model of 1e7 labels", 4, "num_labels is 10000000", lambda at: [at.train("--model", str(at.model(num_labels=10**7)))]),
    ("a model with far more than its weights", 4, "parameters, and its files have", lambda at: [
        at.train("--model", str(at.model(hidden_size=20_000)))]),
    ("a model that names a kernel of the Hub", 4, "_attn_implementation is 'evil/kernel'", lambda at: [
        at.train("--model", str(at.model(_attn_implementation="evil/kernel")))]),
]  # fmt: skip


def in_the_way(at: Place, name: str) -> list[list[str]]:
    shutil.copytree(at.home / "finished", at.out)
    (at.out / name).unlink()
    (at.out / name).mkdir()
    return [at.train("--overwrite"), at.train("--resume"), at.train()]


def of_another(at: Place, name: str) -> list[list[str]]:
    at.write(f"out/{name}", '{"mine": 1}')
    at.write("out/model.safetensors", "mine")
    return [at.train(), at.train("--overwrite"), at.train("--resume")]


def gone(at: Place) -> Path:
    folder = at.finished()
    document = json.loads((folder / "run.json").read_text())
    edit(folder / "run.json", settings=document["settings"] | {"eval_file": str(at.folder / "gone.csv")})
    return folder


for _number, (_what, _code, _words, _lines) in enumerate(ODD, start=1):
    each(f"X{_number}", _what, _code, _words, _lines)
