"""A client is told which of its texts were cut, and to how many tokens; others beside it hear nothing of it."""

from __future__ import annotations

import threading
import time

import pytest

from bench.toys import tiny
from engine.data.read import Reads, cuts, kept_reads, read_cut
from engine.data.tokens import Tokens, tokenize_now
from engine.serving.batcher import Job
from tests.toys import writing
from tests.toys.served import served
from tests.toys.served_models import MODELS

LONG = " ".join(f"w{i % 40}" for i in range(100))


def test_each_input_is_told_of_its_own(project):
    with served(project / "run") as (client, service):
        most = service.task.max_length
        found = client.post("/predict", json={"inputs": ["w1", LONG, "w2 w3", LONG]}).json()["predictions"]
        assert [each.get("cut_to_tokens") for each in found] == [None, most, None, most]
        exact = " ".join(["w1"] * (most - 2))
        found = client.post("/predict", json={"inputs": [exact, f"{exact} w1"]}).json()["predictions"]
        assert [each.get("cut_to_tokens") for each in found] == [None, most], "one token too many"
        assert found[1].keys() == {"label", "score", "probabilities", "cut_to_tokens"}


def test_requests_that_are_computed_together_hear_of_their_own_alone(project):
    with served(project / "run") as (_, service):
        began, gate, predict, seen = threading.Event(), threading.Event(), service.task.predict, []

        def waits(model, inputs, layout):
            seen.append(len(inputs))
            began.set()
            assert gate.wait(30)
            return predict(model, inputs, layout)

        service.task.predict = waits
        jobs = [
            Job(service.task.inputs_of({"text": texts}), time.monotonic() + 60)
            for texts in (["w0"], ["w1", "w2"], ["w3", LONG])
        ]
        service.batcher.submit(jobs[0])
        assert began.wait(30)
        for job in jobs[1:]:
            service.batcher.submit(job)
        gate.set()
        _, short, long = (job.answer.result(30) for job in jobs)
    assert seen == [1, 4], "the last two together"
    assert [each.get("cut_to_tokens") for each in short] == [None, None]
    assert [each.get("cut_to_tokens") for each in long] == [None, service.task.max_length]


@pytest.mark.parametrize("task", ["embeddings", "reward", "seq2seq"])
def test_of_other_tasks_that_cut(tmp_path, task):
    with served(MODELS[task](tmp_path / "m"), task=task, settings={"max_length": 8}) as (client, service):
        [column] = service.shapes[0]
        short, long = ("a", " ".join(["the cook praised"] * 20)) if task == "seq2seq" else ("w1", LONG)
        found = client.post("/predict", json={"inputs": [{column: short}, {column: long}]}).json()["predictions"]
        assert [each.get("cut_to_tokens") for each in found] == [None, 8]


def test_of_a_query_with_its_passages(tmp_path):
    """An input is several rows: it is cut where one of them is."""
    with served(MODELS["reranker"](tmp_path / "m"), task="reranker", settings={"max_length": 12}) as (client, service):
        query, passage = service.task.form.query, service.task.form.passage
        inputs = [{query: "a", passage: ["b", "c"]}, {query: "a", passage: ["b", "c " * 40]}, {query: "a", passage: ["c"]}]
        found = client.post("/predict", json={"inputs": inputs}).json()["predictions"]
        assert [each.get("cut_to_tokens") for each in found] == [None, 12, None]


def test_a_stream_ends_with_it(tmp_path):
    with served(MODELS["seq2seq"](tmp_path / "m"), task="seq2seq", settings={"max_length": 6}) as (client, _):
        long = " ".join(row["source"] for row in writing.rows(10))
        answer = client.post("/predict", json={"inputs": long, "stream": True}).text
        assert '"cut_to_tokens": 6' in answer.split("event: end")[1]


def test_with_a_stride_nothing_is_cut(tmp_path):
    with served(tiny.save_model(tmp_path / "m"), settings={"max_length": 16, "stride": 4}) as (client, service):
        found = client.post("/predict", json={"inputs": [LONG, "w1"]}).json()["predictions"]
        assert not any("cut_to_tokens" in each for each in found)
        page = client.get("/openapi.json").text
        assert "cut_to_tokens" not in page and service.task.longest_input is None


def test_it_stands_in_the_document_and_on_the_page(project):
    with served(project / "run") as (client, _):
        document = client.get("/openapi.json").json()
        schema = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        [answer] = schema["properties"]["predictions"]["items"]["anyOf"]
        assert answer["properties"]["cut_to_tokens"]["type"] == "integer" and "required" not in answer
        assert "cut_to_tokens" in client.get("/docs").text
        assert "only ${rest.cut_to_tokens} tokens of it were read" in client.get("/").text


def test_where_rows_cannot_be_told_apart_nobody_is_told():
    """A task of one's own may read in pieces, or not say whose rows are whose."""
    tokens = tokenize_now(["w1", LONG], None, tiny.tokenizer(), 8, "x")
    assert tokens.cut.tolist() == [False, True]
    with kept_reads() as reads:
        read_cut(tokens, 8)
        read_cut(tokenize_now([LONG], None, tiny.tokenizer(), 8, "x"), 8)
    assert cuts(reads, 3) == {1: 8, 2: 8} and cuts(reads, 2) == {} and cuts(Reads(), 3) == {} and cuts(Reads(), 0) == {}
    with kept_reads() as reads:
        read_cut(tokens, 8, of=[0, 0])
    assert cuts(reads, 1) == {0: 8}
    with kept_reads() as reads:
        read_cut(Tokens(tokens.ids, tokens.offsets, None, 1), 8)
    assert cuts(reads, 2) == {}, "tokens that do not say which"
