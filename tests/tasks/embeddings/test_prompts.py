"""What sentence-transformers keeps beside a model: prompts, lower case, older files; applied as it does, and written back."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import run
from bench.toys import tiny
from engine.finished import open_model
from tasks import find
from tasks.embeddings.embedder import DOCUMENT, QUERY
from tasks.embeddings.pooling import Pooling
from tests.toys.cli import fails
from tests.toys.pairs import make_task


def with_settings(folder: Path, pooling: Pooling) -> Path:
    """A model directory as sentence-transformers saves it, with strong weights."""
    torch.manual_seed(0)
    model = tiny.bert().bert
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    tiny.save_model(folder, model)
    pooling.write(folder, 32, pooling.max_length or 32)
    return folder


PROMPTS = {"query": "w5 w6 ", "document": "w8 "}


@pytest.mark.parametrize(
    "pooling",
    [
        Pooling("mean", 24, PROMPTS, "query", True),
        Pooling("cls", 24, PROMPTS),
        Pooling("mean", 24),
        Pooling("mean", 24, lower_case=True),
    ],
    ids=["default prompt, lower case", "prompts without a default", "neither", "lower case"],
)
def test_prompts_and_lower_case_are_applied_as_sentence_transformers_does_and_written_back(pooling, tmp_path, capsys):
    start = with_settings(tmp_path / "start", pooling)
    (tmp_path / "pairs.csv").write_text("anchor,positive\n" + "".join(f"w{i} W{i + 1},w{i} w{i + 2}\n" for i in range(1, 21)))
    arguments = ["--task", "embeddings", "--model", str(start), "--train-file", str(tmp_path / "pairs.csv"), "--device", "cpu",
                 "--precision", "fp32", "--max-steps", "1", "--output-dir", str(tmp_path / "out")]  # fmt: skip
    assert run.main(arguments) == 0
    err = capsys.readouterr().err
    assert ("prompts query, document" in err) == bool(pooling.prompts)
    assert ("none of them is the default" in err) == (bool(pooling.prompts) and not pooling.default_prompt)
    texts = ["w1 w2 W3", "w9", "w4 " * 40]
    for folder in (start, tmp_path / "out"):
        theirs = SentenceTransformer(str(folder), device="cpu")
        task, model, layout = open_model(str(folder), find, device="cpu", task="embeddings")
        for kinds, encode in (((), theirs.encode), (QUERY, theirs.encode_query), (DOCUMENT, theirs.encode_document)):
            expected = torch.from_numpy(encode(texts, normalize_embeddings=True))
            torch.testing.assert_close(task.vectors(model, texts, layout, kinds), expected, rtol=1e-5, atol=1e-6)
        assert task.pooling == pooling, "written back"
    if pooling.default_prompt or pooling.lower_case:
        plain = SentenceTransformer(str(start), device="cpu").encode(["w1 W2"], prompt="", normalize_embeddings=True)
        task, model, layout = open_model(str(start), find, device="cpu", task="embeddings")
        assert (pooling.lower_case and not pooling.prompts) or not np.allclose(
            task.vectors(model, ["w1 W2"], layout), plain, atol=1e-2
        )


def test_what_is_learned_from_has_the_default_prompt(tmp_path):
    start = with_settings(tmp_path / "start", Pooling("mean", 24, PROMPTS, "query"))
    with_prompt = make_task(start).examples()["train"][0]["texts"][0]["input_ids"]
    assert with_prompt[1:3].tolist() == tiny.tokenizer()("w5 w6", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "xlnet"])
def test_the_length_may_stand_in_a_file_of_an_older_name(kind, tmp_path):
    start = with_settings(tmp_path / "start", Pooling("mean", 24))
    (start / "sentence_bert_config.json").rename(start / f"sentence_{kind}_config.json")
    task, *_ = open_model(str(start), find, device="cpu", task="embeddings")
    assert task.pooling.max_length == 24


@pytest.mark.slow
def test_the_way_in_that_an_old_layout_is_told(tmp_path, capsys):
    """Its transformer lies in a folder of its own; sentence-transformers saves it anew."""
    start = with_settings(tmp_path / "start", Pooling("mean", 24))
    old = tmp_path / "old"
    (old / "0_Transformer").mkdir(parents=True)
    for path in [path for path in start.iterdir() if path.is_file()]:
        path.rename((old if path.name == "modules.json" else old / "0_Transformer") / path.name)
    (start / "1_Pooling").rename(old / "1_Pooling")
    modules = json.loads((old / "modules.json").read_text())
    (old / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, modules[1]]))
    code, line = fails(["predict", str(old), "w1", "--task", "embeddings", "--device", "cpu"], capsys)
    assert code == 4 and "an old layout of sentence-transformers" in line
    command = re.search(r'python -c "(.*)"$', line)[1].replace("'NEW'", repr(str(tmp_path / "NEW")))
    subprocess.run(shlex.join([sys.executable, "-c", command]), shell=True, check=True)
    assert run.main(["predict", str(tmp_path / "NEW"), "w1", "--task", "embeddings", "--device", "cpu"]) == 0


def test_search_has_a_prompt_for_queries_and_one_for_documents(tmp_path):
    start = with_settings(tmp_path / "start", Pooling("mean", 24, PROMPTS))
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": f"w{i} w{i + 1}"}) + "\n" for i in range(5)))
    arguments = ["search", "--model", str(start), "--corpus", str(tmp_path / "corpus.jsonl"), "w3 w9", "--device", "cpu",
                 "--output", str(tmp_path / "found.jsonl")]  # fmt: skip
    assert run.main(arguments) == 0
    theirs = SentenceTransformer(str(start), device="cpu")
    texts = [f"w{i} w{i + 1}" for i in range(5)]
    scores = (
        theirs.encode_query(["w3 w9"], normalize_embeddings=True) @ theirs.encode_document(texts, normalize_embeddings=True).T
    )
    found = {row["row"]: row["score"] for row in map(json.loads, (tmp_path / "found.jsonl").read_text().splitlines())}
    assert [found[i + 1] for i in range(5)] == pytest.approx(scores[0].tolist(), abs=1e-5)
