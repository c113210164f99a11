"""The Hub code is real: it talks to a local server that speaks the Hub's calls, through run.py and the real libraries."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard

from bench.toys import tiny
from bench.toys.hub_server import HubServer
from tests.toys.hub import ROOT, run, run_each

SMALL = ["--epochs", "1", "--max-train-examples", "24", "--max-eval-examples", "16", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory):
    """distilbert-base-uncased (a toy) in two revisions; Yelp polarity with two rows in three about restaurants."""
    root = tmp_path_factory.mktemp("hub")
    tiny.save_model(root / "models/distilbert-base-uncased", tiny.distilbert())
    (root / "models/distilbert-base-uncased/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    tiny.save_model(root / "models/org/other", tiny.distilbert())
    tiny.save_model(root / "models/org/other@v2", tiny.distilbert(seed=9))
    tiny.save_model(root / "models/org/locked")
    (root / "models/org/locked/.gated").touch()
    for folder, sizes in (("fancyzhx/yelp_polarity", (60, 30)), ("fancyzhx/yelp_polarity@v2", (30, 30))):
        data = root / "datasets" / folder / "data"
        data.mkdir(parents=True)
        for split, number in zip(("train", "test"), sizes, strict=True):
            rows = [
                (f"{text} {'restaurant' if i % 3 else 'shop'} {split}", i % 2) for i, (text, _) in enumerate(tiny.texts(number))
            ]
            texts, labels = zip(*rows, strict=True)
            Dataset.from_dict({"text": texts, "label": labels}).to_parquet(data / f"{split}-00000-of-00001.parquet")
    return root


def test_yelp_from_the_hub_then_from_its_cache(hub_root, tmp_path):
    with HubServer(hub_root) as hub:
        first = run(tmp_path, hub.url, "--task", "yelp", *SMALL)
        asked = [line for line in hub.requests if "resolve" in line]
    assert first.returncode == 0, first.stderr
    document = json.loads((tmp_path / "runs/yelp/run.json").read_text())
    assert document["data"]["source"] == "Hub data set fancyzhx/yelp_polarity"
    assert document["data"]["num_examples"] == {"train": 24, "eval": 16}
    assert document["model"] == "Hub model distilbert-base-uncased"
    card = ModelCard.load(tmp_path / "runs/yelp/README.md").data
    assert (card.base_model, card.license, card.datasets) == (
        "distilbert-base-uncased", "apache-2.0", ["fancyzhx/yelp_polarity"]
    )  # fmt: skip
    assert {result.dataset_type for result in card.eval_results} == {"fancyzhx/yelp_polarity"}
    assert any("model.safetensors" in line for line in asked) and not any(".bin" in line for line in asked)

    offline = run(tmp_path, hub.url, "--task", "yelp", *SMALL, "--output-dir", "runs/again")
    assert offline.returncode == 0, offline.stderr
    again = json.loads((tmp_path / "runs/again/run.json").read_text())
    assert again["data"]["fingerprints"] == document["data"]["fingerprints"], "filter and subset are the same"
    assert again["model"] == "Hub model distilbert-base-uncased (from the cache)"
    assert (tmp_path / "runs/again/model.safetensors").read_bytes() == (tmp_path / "runs/yelp/model.safetensors").read_bytes()


@pytest.mark.slow
def test_only_rows_about_restaurants_and_only_test_rows_to_evaluate(hub_root, tmp_path):
    with HubServer(hub_root) as hub:
        arguments = ["--epochs", "1", "--max-train-examples", "0", "--max-eval-examples", "0", "--device", "cpu"]
        result = run(tmp_path, hub.url, "--task", "yelp", *arguments)
    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "runs/yelp/run.json").read_text())
    assert document["data"]["num_examples"] == {"train": 40, "eval": 20}
    assert "stand in the training data" not in result.stderr


@pytest.mark.slow
def test_revisions(hub_root, tmp_path):
    with HubServer(hub_root) as hub:
        arguments = ["--task", "classification", "--data", "fancyzhx/yelp_polarity", *SMALL, "--model", "org/other"]
        other = [*arguments, "--revision", "v2", "--data-revision", "v2", "--output-dir", "b"]
        found = run_each(tmp_path, hub.url, [[*arguments, "--output-dir", "a"], other])
    assert [code for code, _ in found] == [0, 0], found
    assert "fancyzhx/yelp_polarity@v2" in (tmp_path / "b/run.json").read_text()
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "b/model.safetensors").read_bytes()
    offline = run(tmp_path, hub.url, *arguments, "--data-revision", "v2", "--output-dir", "c")
    assert offline.returncode == 3 and "cannot be checked" in offline.stderr


MISSING = [
    (["--data", "org/nothing", "--model", "org/other"], 3, "org/nothing"),
    (["--data", "fancyzhx/yelp_polarity", "--model", "org/nothing"], 4, "org/nothing"),
    (["--data", "fancyzhx/yelp_polarity", "--model", "org/locked"], 4, "gated"),
    (["--data", "fancyzhx/yelp_polarity", "--model", "org/other", "--revision", "v9"], 4, "v9"),
    (["--data", "fancyzhx/yelp_polarity", "--data-config", "large", "--model", "org/other"], 3, "large"),
    (["--data", "fancyzhx/yelp_polarity", "--eval-split", "dev", "--model", "org/other"], 3, "'dev' (it has: train, test)"),
    (["--data", "fancyzhx/yelp_polarity", "--text-column", "body", "--model", "org/other"], 3, "it has: text, label"),
]


@pytest.fixture(scope="module")
def answers(hub_root, tmp_path_factory):
    """(exit code, stderr) of each command above."""
    commands = [
        ["--task", "classification", *arguments, "--output-dir", f"runs/{i}"] for i, (arguments, _, _) in enumerate(MISSING)
    ]
    with HubServer(hub_root) as hub:
        return run_each(tmp_path_factory.mktemp("missing"), hub.url, commands)


@pytest.mark.parametrize("number", range(len(MISSING)))
def test_what_the_hub_does_not_have_is_one_line(number, answers):
    _, code, words = MISSING[number]
    returned, said = answers[number]
    last = said.strip().splitlines()[-1]
    assert returned == code and last.startswith("error: ") and words in last, said
    assert "Traceback" not in said


@pytest.fixture
def silent():
    """A server that takes connections and never answers: the worst kind of unreachable."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_an_unreachable_hub_is_found_by_one_attempt(silent, tmp_path):
    code = "import time, engine.data.hub as h; t = time.monotonic(); r = h.reachable(); print(r, time.monotonic() - t)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"HF_ENDPOINT": silent, "NO_PROXY": "*"}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert answer[0] == "False" and float(answer[1]) < 15, "the libraries' own attempts take more than twenty seconds"


@pytest.mark.slow
def test_data_hub_without_a_hub_is_an_error_not_a_sample(silent, tmp_path):
    began = time.monotonic()
    result = run(tmp_path, silent, "--task", "yelp", "--data", "hub", "--model", str(tiny.save_model(tmp_path / "m")))
    assert result.returncode == 3 and "is not reachable and the cache holds no copy" in result.stderr
    assert "--data sample" in result.stderr and time.monotonic() - began < 60, (
        "no attempt after attempt; a busy machine has taken 32 s"
    )


@pytest.mark.slow
def test_auto_without_a_hub_says_what_it_takes_instead(tmp_path):
    with HubServer(tmp_path, status=503) as hub:
        result = run(tmp_path, hub.url, "--task", "yelp", *SMALL, "--model", str(tiny.save_model(tmp_path / "m")))
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("data: ")]
    assert len(said) == 1 and "synthetic" in said[0] and "fancyzhx/yelp_polarity" in said[0]
    assert "synthetic" in json.loads((tmp_path / "runs/yelp/run.json").read_text())["data"]["source"]
