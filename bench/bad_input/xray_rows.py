"""Rows T: arguments of Trainer in a script or JSON file that xray cannot read, and flags of it that do not go together."""

from __future__ import annotations

from collections.abc import Sequence

from bench.bad_input.case import Place
from bench.bad_input.forms import each


def scripts(at: Place, *texts: str, more: Sequence[str] = ()) -> list[list[str]]:
    """A command line for each of these scripts."""
    return [["xray", at.write(f"train{i}.py", text), *more] for i, text in enumerate(texts)]


def on_json(at: Place, *texts: str) -> list[list[str]]:
    return [["xray", at.write(f"args{i}.json", text)] for i, text in enumerate(texts)]


TWO = "a = TrainingArguments('a')\nb = TrainingArguments('b', seed=1)\n"
GOOD = "args = TrainingArguments('out', seed=1)\n"

each("T1", "xray: a script without TrainingArguments", 2, "no TrainingArguments(...) is called in it; if a parser fills them, give what",
     lambda at: scripts(at, "x = 1\n", "def TrainingArgument(): pass\nTrainingArgument()\n"))  # fmt: skip
each("T2", "xray: a script with several", 2, "are called, at lines 1, 2: say which with --number 2 or --line 2",
     lambda at: scripts(at, TWO))  # fmt: skip
each("T3", "xray: the way in, one of several by number or line", 0, "seed=1 is set when Trainer is made",
     lambda at: scripts(at, TWO, more=["--number", "2"]) + scripts(at, TWO, more=["--line", "2"]))  # fmt: skip
each("T4", "xray: a number or line that is none", 2, "lines 1, 2", lambda at: scripts(at, TWO, more=["--number", "3"]))
each("T5", "xray: arguments with a star", 2, "are handed on with a star, so that the file does not say them: write them out, or give",
     lambda at: scripts(at, "TrainingArguments(**values)\n", "TrainingArguments(*values)\n"))  # fmt: skip
each("T6", "xray: arguments without a name", 2, "write name=value (the first alone, output_dir, may stand bare)",
     lambda at: scripts(at, "TrainingArguments('out', True)\n"))  # fmt: skip
each("T7", "xray: an argument that does not exist", 2, "has no argument 'learning_rat' (did you mean learning_rate?)",
     lambda at: scripts(at, "TrainingArguments('out', learning_rat=1)\n") + on_json(at, '{"learning_rat": 1}'))  # fmt: skip
each("T8", "xray: no Python", 3, "this is no Python that can be read",
     lambda at: scripts(at, "TrainingArguments(\n", "print 'old'\n", "a\0b\n"))  # fmt: skip
each("T9", "xray: no JSON, no arguments in it", 3, "", lambda at: on_json(at, "{", "[1]", '{"a": 1, "a": NaN', "3"))
each("T10", "xray: a value of another kind", 3, "must be",
     lambda at: on_json(at, '{"num_train_epochs": "3"}', '{"fp16": "yes"}', '{"per_device_train_batch_size": 0}',
                        '{"save_total_limit": [1]}', '{"eval_strategy": 1}'))  # fmt: skip
each("T11", "xray: a file of another kind, or none", 2, "", lambda at: [
    ["xray", at.write("train.txt", GOOD)], ["xray", str(at.folder / "no.py")], ["xray"], ["xray", "a.py", "b.py"]])  # fmt: skip
each("T12", "xray: a script that is no text", 3, "is not UTF-8", lambda at: [["xray", at.write("t.py", b"\xff\xfe")]])
each("T13", "xray: data without a tokenizer; rows told twice", 2, "give", lambda at: scripts(
    at, GOOD, more=["--data", str(at.home / "train.csv")]) + scripts(at, GOOD, more=[
        "--data", str(at.home / "train.csv"), "--num-rows", "3", "--model", str(at.home / "model")]))  # fmt: skip
each("T14", "xray: a directory that holds no model, a class that does not exist", 4, "--model",
     lambda at: scripts(at, GOOD, more=["--model", str(at.folder)]))  # fmt: skip
each("T15", "xray: a class that does not exist, or is of another kind", 2, "--model-class", lambda at: scripts(
    at, GOOD, more=["--model", str(at.home / "model"), "--model-class", "BertForNothing"]) + scripts(
        at, GOOD, more=["--model", str(at.home / "model"), "--model-class", "AutoModelForImageClassification"]))  # fmt: skip
