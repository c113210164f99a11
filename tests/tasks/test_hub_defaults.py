"""What a task takes where nothing is said and the Hub answers: its own data set, in the form that it has there, and its own
checkpoint. The server is a local one; the rows are toys in the columns of the real data sets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Picture

from bench.toys.hub_server import HubServer
from tasks import find
from tasks.samples.digits import small_vit
from tasks.samples.preferences import preferences
from tests.toys import answers, preferring, ranking, writing
from tests.toys.hub import run_each


def tagged(number: int, seed: int) -> Dataset:
    names = ["O", "B-person", "I-person"]
    kinds = Features({"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    rows = [{"id": str(i), "tokens": ["zb", "qz", "a"], "ner_tags": [1, 2, 0]} for i in range(seed, seed + number)]
    return Dataset.from_list(rows, features=kinds)


def pictures(number: int, seed: int) -> Dataset:
    rows = []
    for i in range(number):
        content = BytesIO()
        Picture.new("RGB", (8, 8), (i % 3 * 80, 40, seed)).save(content, "png")
        rows.append({"image_file_path": f"{i}.png", "image": {"bytes": content.getvalue(), "path": None}, "labels": i % 3})
    leaves = ClassLabel(names=["angular_leaf_spot", "bean_rust", "healthy"])
    return Dataset.from_list(rows, Features({"image_file_path": Value("string"), "image": Image(), "labels": leaves}))


def triplets(number: int, seed: int) -> Dataset:
    rows = ranking.lists(number, seed, 1)
    return Dataset.from_list([{"query": r["query"], "positive": r["positive"], "negative": r["negatives"][0]} for r in rows])


def compared(number: int, seed: int) -> Dataset:
    return Dataset.from_list([row | {"score_chosen": 9.0, "score_rejected": 1.0} for row in preferences(number, seed)])


def articles(number: int, seed: int) -> Dataset:
    rows = writing.rows(number, seed)
    return Dataset.from_list([{"article": r["source"], "highlights": r["target"], "id": str(i)} for i, r in enumerate(rows)])


def questions(number: int, seed: int) -> Dataset:
    return Dataset.from_list([row | {"title": "t"} for row in answers.rows(number, seed)])


EACH: dict[str, tuple[Callable[[int, int], Dataset], dict[str, int], Callable[[Path], Any]]] = {
    "ner": (tagged, {"train": 20, "validation": 6, "test": 8}, answers.save_model),
    "qa": (questions, {"train": 20, "validation": 8}, answers.save_model),
    "seq2seq": (articles, {"train": 20, "validation": 8, "test": 6}, writing.save_model),
    "image-classification": (pictures, {"train": 20, "validation": 6, "test": 8}, lambda to: shutil.copytree(small_vit()[0], to)),
    "reranker": (triplets, {"train": 1000}, answers.save_model),
    "dpo": (compared, {"train": 20, "test": 8}, preferring.save_model),
    "reward": (compared, {"train": 20, "test": 8}, preferring.save_model),
}  # fmt: skip
HELD_OUT = {"reranker": 4}  # pairs, of two queries of the thousand


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, tuple[int, str, Path]]:
    """Exit code, stderr and output folder of each task's run with nothing said but how short it is to be."""
    root, place = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("place")
    for name, (make, splits, save_model) in EACH.items():
        task = find(name)
        model, data = root / "models" / task.hub_model, root / "datasets" / task.hub_data.path
        if not model.exists():
            save_model(model)
        folder = data / (task.hub_data.config or "data")
        folder.mkdir(parents=True, exist_ok=True)
        for seed, (split, number) in enumerate(splits.items()):
            make(number, seed).to_parquet(folder / f"{split}-00000-of-00001.parquet")
        if config := task.hub_data.config:
            files = "".join(f"  - split: {split}\n    path: {config}/{split}-*\n" for split in splits)
            (data / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")
    short = ["--max-train-examples", "16", "--max-steps", "1", "--device", "cpu", "--batch-size", "8"]
    with HubServer(root) as hub:
        results = run_each(place, hub.url, [["--task", name, *short] for name in EACH])
    return {name: (code, said, place / "runs" / name) for name, (code, said) in zip(EACH, results, strict=True)}


@pytest.mark.parametrize("name", list(EACH))
def test_data_and_checkpoint_of_the_hub(name, found):
    code, said, folder = found[name]
    assert code == 0, said
    task, document = find(name), json.loads((folder / "run.json").read_text())
    data = task.hub_data
    assert data.path in document["data"]["source"] and document["data"]["source"].startswith("Hub data set")
    assert document["model"] == f"Hub model {task.hub_model}"
    assert document["data"]["num_examples"]["eval"] == HELD_OUT.get(name, 8), "of the split that is meant"
    assert "is neither reachable" not in said
