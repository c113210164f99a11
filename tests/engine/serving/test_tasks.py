"""What each task takes and gives over HTTP is what its ``predict`` does; what writes a text hands it on while it writes."""

from __future__ import annotations

import json

import pytest

import run
from bench.toys import tiny
from tests.toys import writing
from tests.toys.served import served
from tests.toys.served_models import MODELS, close

WRITE = {"clm": "text", "sft": "text", "dpo": "text", "seq2seq": "generated"}


@pytest.mark.parametrize("task", MODELS)
def test_a_task_takes_its_own_inputs_and_gives_its_own_answers(tmp_path, task):
    with served(MODELS[task](tmp_path / "m"), task=task) as (client, service):
        for shape in service.shapes:
            inputs = service.task.inputs_of({name: [value] * 2 for name, value in shape.items()})
            expected = list(service.task.predict(service.batcher.model, inputs, service.batcher.layout))
            answer = client.post("/predict", json={"inputs": [shape, shape]})
            assert answer.status_code == 200 and close(answer.json()["predictions"], expected)
        if len(service.shapes[0]) == 1:
            [text] = service.shapes[0].values()
            assert close(client.post("/predict", json={"inputs": [text, text]}).json()["predictions"],
                         client.post("/predict", json={"inputs": [service.shapes[0]] * 2}).json()["predictions"])  # fmt: skip
        wrong = client.post("/predict", json={"inputs": dict.fromkeys(service.shapes[0], 7)})
        assert wrong.status_code == 422 and "must be a" in wrong.json()["error"]
        assert "plainloop_tokens_total 0.0" not in client.get("/metrics").text
        page = client.get("/").text
        assert page.count("<textarea") == len(service.shapes[0])


def test_every_task_says_what_it_takes_or_that_it_is_not_served():
    """A new one is to stand in MODELS."""
    from tasks import TASKS

    assert {*TASKS} - {*MODELS} == {"yelp", "imdb", "captioning", "image-classification"}


def events(answer):
    """Name and data of each."""
    blocks = [block.split("\n") for block in answer.text.split("\n\n")[:-1]]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


@pytest.mark.parametrize("task", WRITE)
def test_a_text_comes_in_parts_that_make_up_the_prediction(tmp_path, task):
    with served(MODELS[task](tmp_path / "m"), task=task) as (client, _):
        texts = [row["source"] for row in writing.rows(40)] if task == "seq2seq" else ["What is the opposite"]
        found = client.post("/predict", json={"inputs": texts}).json()["predictions"]
        text, expected = max(zip(texts, found, strict=True), key=lambda pair: len(pair[1][WRITE[task]].split()))
        answer = client.post("/predict", json={"inputs": text, "stream": True})
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        *parts, last = events(answer)
        assert last == ("end", {"prediction": expected})
        assert {name for name, _ in parts} <= {"part"} and "".join(part["text"] for _, part in parts) == expected[WRITE[task]]
        if task in ("clm", "seq2seq"):
            assert len(parts) > 3, "while it is written"


def test_a_stream_is_ended_by_its_time(tmp_path):
    import time

    with served(MODELS["clm"](tmp_path / "m"), {"seconds": 2.0}, task="clm") as (client, service):
        model = service.batcher.model
        model.register_forward_pre_hook(lambda *_: time.sleep(0.2))
        *parts, last = events(client.post("/predict", json={"inputs": "What is the opposite", "stream": True}))
        assert 1 <= len(parts) < 15 and last == ("error", {"error": "there is no answer within 2 s: ask again, or for less"})


def test_a_stream_that_does_not_begin_in_time_is_503(tmp_path):
    import time

    with served(MODELS["clm"](tmp_path / "m"), {"seconds": 1.0}, task="clm") as (client, service):
        service.batcher.model.register_forward_pre_hook(lambda *_: time.sleep(2.0))
        answer = client.post("/predict", json={"inputs": "What is the opposite", "stream": True})
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"


def test_what_cannot_be_streamed_is_refused_before_it_begins(tmp_path):
    with served(MODELS["seq2seq"](tmp_path / "m"), task="seq2seq", settings={"num_beams": 3}) as (client, service):
        answer = client.post("/predict", json={"inputs": service.shapes[0], "stream": True})
        assert answer.status_code == 422 and "follows 3 beams" in answer.json()["error"]
        assert client.post("/predict", json={"inputs": service.shapes[0]}).status_code == 200
    with served(MODELS["clm"](tmp_path / "c"), task="clm") as (client, _):
        answer = client.post("/predict", json={"inputs": "", "stream": True})
        assert answer.status_code == 422 and "a prompt is empty" in answer.json()["error"]


def test_what_the_task_refuses_is_said_of_this_request_alone(tmp_path):
    with served(MODELS["mlm"](tmp_path / "m"), task="mlm") as (client, _):
        answer = client.post("/predict", json={"inputs": ["w1 [MASK]", "w2"]})
        assert answer.status_code == 422 and answer.json()["error"].startswith("text 2 has no [MASK]")


def test_the_rank_is_among_the_passages_of_one_request(tmp_path):
    """Else another's passages of the same query would count."""
    with served(MODELS["reranker"](tmp_path / "m"), task="reranker") as (client, service):
        one, other = service.task.form.query, service.task.form.passage
        pairs = [{one: "a b", other: each} for each in ("a c", "b d", "c")]
        together = client.post("/predict", json={"inputs": pairs}).json()["predictions"]
        assert sorted(each["rank"] for each in together) == [1, 2, 3] and not service.task.predicts_apart
        mixed = client.post("/predict", json={"inputs": [pairs[0], {one: "a b", other: ["a c", "c"]}]}).json()["predictions"]
        assert mixed[0]["rank"] == 1 and len(mixed[1]["passages"]) == 2
        many = client.post("/predict", json={"inputs": {one: "a", other: ["b"] * 1025}})
        assert many.status_code == 413 and "at most 1024 entries" in many.json()["error"]


def test_two_texts_are_two_columns_of_their_own_names(tmp_path):
    columns = {"text_column": "premise", "text_pair_column": "claim"}
    with served(tiny.save_model(tmp_path / "m"), settings=columns) as (client, _):
        assert client.post("/predict", json={"inputs": {"premise": "w1", "claim": "w2"}}).status_code == 200
        for wrong in ("w1", {"premise": "w1"}, ["w1", "w2"], {"text": "w1", "claim": "w2"}):
            answer = client.post("/predict", json={"inputs": wrong})
            assert answer.status_code == 422 and "premise and claim" in answer.json()["error"]


def test_a_model_that_does_not_work_is_told_before_anybody_asks(tmp_path, capsys, monkeypatch):
    from tasks.classification.task import Classification

    def fails_always(*given):
        raise RuntimeError("of the model")

    monkeypatch.setattr(Classification, "predict", fails_always)
    with pytest.raises(RuntimeError, match="of the model"):
        run.main(["serve", str(tiny.save_model(tmp_path / "m")), "--device", "cpu", "--port", "0"])
