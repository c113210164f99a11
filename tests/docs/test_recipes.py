"""docs/recipes.md, followed: the page's own code in a copy of the product, the files that change counted, and all of it run."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bench.toys import tiny

ROOT = Path(__file__).parent.parent.parent
PAGES = ("recipes", "architecture", "your-own-task")
PAGE, MAP, OWN_TASK = ((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in PAGES)
TABLE = {name: int(files) for name, files in re.findall(r"^\| \[([\w -]+)\]\(recipes\.md#.*\| (\d)[^|]*\|$", MAP, re.MULTILINE)}
NEW = {"tasks/lengths.py", "tasks/word_tags.py"}  # files that the recipes make


def blocks(page: str, heading: str) -> list[str]:
    """The Python under a heading."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ", maxsplit=1)[0]
    return [token.content for token in MarkdownIt().parse(section) if token.type == "fence" and token.info == "python"]


class Copy:
    """A copy of the product in which recipes are followed; ``changed`` and ``new`` since the last one."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("engine", "tasks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "run.py", folder)
        self.changed: set[str] = set()

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
        (self.folder / path).write_text(text.replace(old, new))
        self.changed.add(path)

    def append(self, path: str, table: str, entry: str) -> None:
        """An entry at the end of a dictionary that stands at the left margin."""
        inside = re.search(rf"^{table}\b.*?^}}", (self.folder / path).read_text(), re.DOTALL | re.MULTILINE)[0]
        self.edit(path, inside, f"{inside[:-1]}{entry}}}")


def schedule(copy: Copy) -> None:
    copy.append("engine/schedule.py", "SCHEDULES", *blocks(PAGE, "A learning-rate schedule"))


def optimizer(copy: Copy) -> None:
    copy.append("engine/optimizer.py", "OPTIMIZERS", *blocks(PAGE, "An optimizer"))
    copy.edit("engine/config.py", '"adafactor", "muon"] = ', '"adafactor", "muon", "nadam"] = ')


def metric(copy: Copy) -> None:
    [entry] = blocks(PAGE, "A metric of a task")
    copy.edit("tasks/classification/metrics.py", '"single_label": lambda: {\n', '"single_label": lambda: {\n' + entry)


def command(copy: Copy) -> None:
    code, entry = blocks(PAGE, "A command")
    (copy.folder / "tasks/lengths.py").write_text(code)
    copy.append("tasks/__init__.py", "COMMANDS", entry)


def task(copy: Copy) -> None:
    [code] = blocks(OWN_TASK, "A label for each token")
    assert len(code.splitlines()) <= 110
    (copy.folder / "tasks/word_tags.py").write_text(code)
    copy.append("tasks/__init__.py", "TASKS", *blocks(PAGE, "A task"))


def loss(copy: Copy) -> None:
    [code] = blocks(PAGE, "Another loss")
    [method] = re.findall(r"    def loss.*", code, re.DOTALL)
    copy.edit("tasks/classification/labelled.py", "    def loss(self,", f"{method}\n    def plain_loss(self,")


def order(copy: Copy) -> None:
    field, argument, first = blocks(PAGE, "Another order of batches")[0].split("\n\n")
    copy.edit("engine/data/plan.py", "    packed: bool = False\n\n", f"    packed: bool = False\n{field}\n\n")
    copy.edit("engine/data/plan.py", "tokens_per_batch, packed,\n", f"tokens_per_batch, packed,\n{argument}\n")
    copy.edit("engine/data/plan.py", "        generator = torch.Generator()", f"{first}        generator = torch.Generator()")
    copy.edit("engine/config.py", '"padded", "max_length"] = ', '"padded", "max_length", "short_first"] = ')


def store(copy: Copy) -> None:
    [code] = blocks(PAGE, "Another checkpoint store")
    second, path = copy.folder.parent / "second", "engine/checkpoint/store.py"
    copying, removing = re.findall(r"`(shutil\.[^`]+)`", PAGE)
    copy.edit(path, "def open_checkpoint(", "def open_copy(")
    copy.edit(path, "\n\ndef sha256(", f"\n\n{code.replace('/mnt/second', str(second))}\n\ndef sha256(")
    copy.edit(path, "  # the commit point\n", f"\n            {copying}\n")
    copy.edit(path, 'is never taken for one."""\n', f'is never taken for one."""\n    {removing}\n')


FOLLOWED: dict[str, Callable[[Copy], None]] = {
    "a learning-rate schedule": schedule,
    "an optimizer": optimizer,
    "a metric of a task": metric,
    "a log writer": lambda copy: None,  # tests/engine/record/test_own_writers.py runs it
    "a command": command,
    "a task": task,
    "another loss": loss,
    "another order of batches": order,
    "another checkpoint store": store,
    "a logged loss explained": lambda copy: None,
}


def test_each_recipe_changes_as_many_files_as_the_table_says(tmp_path):
    assert TABLE.keys() == FOLLOWED.keys()
    assert all(f"\n## {name[0].upper()}{name[1:]}\n" in PAGE for name in TABLE)
    copy, found = Copy(tmp_path), {}
    for name, follow in FOLLOWED.items():
        copy.changed.clear()
        follow(copy)
        found[name] = len(copy.changed)
    assert found == TABLE
    assert {name for name in NEW if (tmp_path / name).exists()} == NEW


def test_what_the_recipes_name_is_there():
    text = PAGE + MAP.split("\n## Where to add what\n")[1]
    for path in set(re.findall(r"`((?:engine|tasks|tests)/[\w/]+\.py)`", text)) - NEW:
        assert (ROOT / path).exists(), path
    pairs = re.findall(r"`(?:TrainConfig\.)?([A-Za-z_]\w+)(?:\.\w+)?(?:\(\))?`(?: and `(\w+)`)? (?:in|of) `([\w/]+\.py)`", text)
    assert len(pairs) >= 12
    for *names, path in pairs:
        for name in filter(None, names):
            assert re.search(rf"^ *(def |class )?{name}\b", (ROOT / path).read_text(), re.MULTILINE), f"{name} in {path}"


def words(folder: Path) -> None:
    """tags.csv: the words w0, w1 and w2 have the tag KEY, all others O."""
    rows = [
        (text, " ".join("KEY" if word in ("w0", "w1", "w2") else "O" for word in text.split())) for text, _ in tiny.texts(48)
    ]
    with open(folder / "tags.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])


DRIVER = """
import json, runpy, sys
from pathlib import Path
import run
from engine.checkpoint.store import open_checkpoint
for argv in json.loads(sys.argv[1]):
    print("$", *argv)
    if argv[0].endswith(".py"):
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")
    elif argv[0] == "damage":
        path = Path(argv[1])
        (path / "model.safetensors").write_bytes(b"damaged")
        print(open_checkpoint(path).directory)
    else:
        assert run.main(argv) == 0
"""


def run_in(folder: Path, *calls: list[str]) -> dict[str, str]:
    """Run them one after the other in one process; what each printed, by its first word that says something."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    told = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(calls)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    names = [call[1] if call[0] == "--task" else call[0] for call in calls]
    return dict(zip(names, told.stdout.removeprefix("$ ").split("\n$ "), strict=True))


@pytest.mark.slow
def test_they_work_together(tmp_path):
    """All in one copy but the other loss, which is a file beside it; checked by what each of them leaves."""
    folder = tmp_path / "product"
    folder.mkdir()
    copy = Copy(folder)
    for name, follow in FOLLOWED.items():
        if name != "another loss":
            follow(copy)
    for name, heading in (("focal.py", "Another loss"), ("by_hand.py", "A logged loss explained")):
        (folder / name).write_text(blocks(PAGE, heading)[0])
    tiny.save_texts(folder, train=40, eval=20)
    words(folder)
    tiny.save_model(folder / "model")
    common = ["--model", "model", "--log-steps", "1", "--device", "cpu"]
    files = ["--train-file", "train.csv", "--eval-file", "eval.csv", "--batch-size", "8", "--max-steps", "5"]
    every = ["--schedule", "one_minus_root", "--schedule-options", "power=0.8", "--warmup-steps", "1", "--optimizer", "nadam",
             "--batching", "short_first", "--best-metric", "kappa", "--save-steps", "2", "--learning-rate", "1e-3"]  # fmt: skip
    tags = ["--train-file", "tags.csv", "--eval-fraction", "0.25", "--max-steps", "40", "--learning-rate", "1e-2"]
    said = run_in(
        folder,
        ["--task", "classification", *common, *files, *every, "--output-dir", "all"],
        ["by_hand.py", "all", "classification", "step-00000004"],
        ["damage", "all/checkpoints/step-00000004"],
        ["lengths", "--model", "all", "w0 w1"],
        ["--task", "focal.py:Focal", *common, *files, "--output-dir", "focal"],
        ["--task", "word-tags", *common, *tags, "--output-dir", "tags"],
        ["predict", "--model", "tags", "w0 w9", "w1"],
        ["evaluate", "--model", "tags"],
    )
    lines = [json.loads(line) for line in (folder / "all/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["learning_rate"] for line in steps] == pytest.approx([0, *(1e-3 * (1 - (i / 4) ** 0.8) for i in range(4))])
    tokens = [line["num_tokens"] for line in steps]
    per_step = [after - before for before, after in zip([0, *tokens], tokens, strict=False)]
    assert per_step == sorted(per_step) and per_step[0] < per_step[-1], "short texts come first"
    assert "kappa" in next(line for line in lines if line["kind"] == "eval")
    document = json.loads((folder / "all/run.json").read_text())
    assert document["settings"]["optimizer"] == "nadam" and "NAdam" in (folder / "all/README.md").read_text()
    assert f"step 5: loss {steps[4]['loss']:.6f} = " in said["by_hand.py"]
    assert str(tmp_path / "second") in said["damage"]
    assert said["lengths"].endswith("4\tw0 w1")
    focal = json.loads((folder / "focal/metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert 0 < focal < 0.75 * steps[0]["loss"], "at equal odds of three classes (1 - 1/3)^2 = 0.44 of the plain one"
    assert "w0/KEY w9/O" in said["predict"] and "w1/KEY" in said["predict"]
    assert re.search(r"^ +KEY .*\n +O ", said["evaluate"], flags=re.MULTILINE), "classes by name"


def test_a_schedule_added_in_the_one_file_is_listed_without_torch(tmp_path):
    copy = Copy(tmp_path)
    schedule(copy)
    code = "import sys, run; run.main(['--help']); assert 'torch' not in sys.modules"
    text = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "warmup_stable_decay, one_minus_root" in " ".join(text.split())
