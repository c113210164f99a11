"""Each path, in this process: the answers are those of predict, and whatever is wrong is its status and one line."""

from __future__ import annotations

import dataclasses
import re
import threading

import pytest
import torch

import tasks
from engine.console import note
from engine.errors import UsageError
from engine.finished import open_model
from engine.serving.app import Access, host_in
from tests.toys.served import served

TEXTS = ["w0 w7 w9", "w3 w1 w44 w50 w6", "w2", "w9 w8 w7 w6 w5 w4 w3 w0"]
TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def toy(project):
    """A client of the project's classifier, with small limits and its service; the tests only ask."""
    with served(project / "run", {"texts": 5, "characters": 200, "body": 3000}) as found:
        yield found


def predicted(folder, inputs):
    task, model, layout = open_model(str(folder), tasks.find, device="cpu")
    return list(task.predict(model, inputs, layout))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one["label"] == other["label"] and one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


@pytest.mark.parametrize(
    "inputs", [TEXTS[0], TEXTS, [{"text": text} for text in TEXTS], {"text": TEXTS[0]}, [TEXTS[0], {"text": TEXTS[1]}]]
)
def test_the_answers_are_those_of_predict(project, toy, inputs):
    answer = toy[0].post("/predict", json={"inputs": inputs})
    items = [inputs] if isinstance(inputs, str | dict) else inputs
    assert answer.status_code == 200
    assert_same(
        answer.json()["predictions"], predicted(project / "run", [i if isinstance(i, str) else i["text"] for i in items])
    )


def send(client, content, **headers):
    headers = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/predict", content=content, headers=headers)


NESTED = b'{"inputs": ' + b"[" * 60 + b"]" * 60 + b"}"
MALFORMED = [  # what is sent, its status, and a part of the line
    (b"", 400, "not valid JSON"),
    (b"{", 400, "not valid JSON"),
    (b'{"inputs": "a"', 400, "not valid JSON"),
    (b'{"inputs": NaN}', 400, "NaN is no JSON"),
    (b'{"inputs": "a", "inputs": "b"}', 400, "inputs is given twice"),
    (b'{"inputs": "\xff\xfe"}', 400, "not UTF-8"),
    (b'{"inputs": "\\ud800"}', 400, "half a character"),
    (NESTED, 400, "more than 50 levels deep"),
    (b"[" * 2000, 400, "not valid JSON"),
    (b'{"inputs": ' + b"1" * 2900 + b"}", 422, "input 1 must be a text"),
    (b'{"inputs": 1e999}', 422, "input 1 must be a text"),
    (b'"a"', 422, "must be an object"),
    (b"null", 422, "must be an object"),
    (b"[]", 422, "must be an object"),
    (b"{}", 422, 'must have "inputs"'),
    (b'{"text": "a"}', 422, "unknown name 'text'"),
    (b'{"inputs": []}', 422, "inputs is empty"),
    (b'{"inputs": null}', 422, "input 1 must be a text"),
    (b'{"inputs": true}', 422, "input 1 must be a text"),
    (b'{"inputs": 1}', 422, "input 1 must be a text"),
    (b'{"inputs": {}}', 422, "input 1 must have text, found nothing"),
    (b'{"inputs": [["a"]]}', 422, "input 1 must be a text"),
    (b'{"inputs": ["a", 2]}', 422, "input 2 must be a text, or an object with text, found 2"),
    (b'{"inputs": {"text": 1}}', 422, "input 1: text must be a text, found 1"),
    (b'{"inputs": {"text": ["a"]}}', 422, "input 1: text must be a text"),
    (b'{"inputs": {"text": "a", "more": "b"}}', 422, "input 1 must have text, found text, more"),
    (b'{"inputs": {"txt": "a"}}', 422, "found txt"),
    (b'{"inputs": "a", "stream": "yes"}', 422, "stream must be true or false"),
    (b'{"inputs": ["a", "b"], "stream": true}', 422, "stream is for one input"),
    (b'{"inputs": "a", "stream": true}', 422, "writes no text"),
    (b'{"inputs": ["a", "a", "a", "a", "a", "a"]}', 413, "at most 5 inputs, found 6"),
    (b'{"inputs": "' + b"a" * 201 + b'"}', 413, "at most 200 characters, found 201"),
    (b'{"inputs": "' + b"a" * 3000 + b'"}', 413, "at most 3000 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "status", "line"), MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_wrong_with_a_body_is_its_status_and_one_line(toy, content, status, line):
    answer = send(toy[0], content)
    assert (answer.status_code, [*answer.json()]) == (status, ["error"])
    assert line in answer.json()["error"] and "\n" not in answer.json()["error"] and len(answer.json()["error"]) < 900


def test_of_thirty_mistakes_in_a_row_the_server_lives(project, toy):
    assert len(MALFORMED) >= 30
    for content, _, _ in MALFORMED:
        send(toy[0], content)
    assert_same(toy[0].post("/predict", json={"inputs": TEXTS}).json()["predictions"], predicted(project / "run", TEXTS))


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Content_Type": "text/plain"}, 415), ({"Content_Type": ""}, 415), ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
     ({"Content_Type": "application/json; charset=utf-8"}, 200), ({"Content_Encoding": "gzip"}, 415), ({"Host": "evil.example"}, 200)],
)  # fmt: skip
def test_a_body_is_json_and_says_so(toy, headers, status):
    """A page of another site may send text without asking, and JSON it may not."""
    assert send(toy[0], b'{"inputs": "w0"}', **headers).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("DELETE", "/predict", 405), ("POST", "/", 405), ("GET", "/nothing", 404), ("GET", "/../run.py", 404),
     ("GET", "/predict/", 404), ("GET", "/%00", 404), ("HEAD", "/health", 200), ("GET", "/health/live", 200), ("GET", "/health/ready", 200)],
)  # fmt: skip
def test_other_paths_and_methods(toy, method, path, status):
    answer = toy[0].request(method, path, follow_redirects=False)
    assert answer.status_code == status and answer.headers["content-type"] == "application/json"
    assert "error" in answer.json() if status >= 400 else answer.text == "" or answer.json()["live"]


def test_a_token_is_asked_for_where_there_is_one(project):
    with served(project / "run", access=Access(TOKEN)) as (client, _):
        for path in ("/predict", "/metrics", "/openapi.json", "/docs", "/nothing"):
            for given in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}, {"Authorization": "Bearer"},
                          {"Authorization": f"Basic {TOKEN}"}, {"Authorization": b"Bearer \xe9\xe9"}):  # fmt: skip
                answer = client.request("POST" if path == "/predict" else "GET", path, headers=given)
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer" and TOKEN not in answer.text
        right = {"Authorization": f"bearer {TOKEN}"}
        assert client.post("/predict", json={"inputs": "w0"}, headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200
        page = client.get("/")
        assert page.status_code == 200 and 'id="token"' in page.text and TOKEN not in page.text
        assert client.get("/health").status_code == 200


def test_a_token_is_compared_in_constant_time(project, monkeypatch):
    import hmac

    seen = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append((a, b)) or compare(a, b))
    with served(project / "run", access=Access(TOKEN)) as (client, _):
        client.get("/metrics", headers={"Authorization": "Bearer x"})
    assert seen == [(b"x", TOKEN.encode())]


def test_on_this_machine_alone_a_page_of_the_internet_cannot_ask_by_a_name_of_its_own(project):
    hosts = frozenset({"localhost", "::1"})
    with served(project / "run", access=Access(hosts=hosts)) as (client, _):
        for host, status in (("localhost:8000", 200), ("LOCALHOST", 200), ("[::1]:80", 200), ("evil.example", 421), ("", 421)):
            assert client.get("/health", headers={"Host": host}).status_code == status, host
    assert [host_in(each) for each in ("a:1", "[::1]:1", "[::1]", "a", "")] == ["a", "::1", "::1", "a", ""]


def test_a_full_queue_is_429_with_the_seconds(project):
    with served(project / "run", max_waiting=2) as (client, service):
        service.batcher.pace = 2.5
        service.batcher.waiting = 2
        answer = client.post("/predict", json={"inputs": "w0"})
        assert answer.status_code == 429 and answer.headers["retry-after"] == "5"
        assert client.get("/health/ready").status_code == 503 and client.get("/health/live").status_code == 200
        service.batcher.waiting = 0
        assert client.post("/predict", json={"inputs": "w0"}).status_code == 200


def test_an_answer_comes_in_time_or_not_at_all(project):
    with served(project / "run", {"seconds": 0.5}) as (client, service):
        predict, may_end = service.task.predict, threading.Event()
        service.task.predict = lambda *given: may_end.wait(60) and predict(*given)
        answer = client.post("/predict", json={"inputs": "w0"})
        assert answer.status_code == 503 and "within 0.5 s" in answer.json()["error"] and answer.headers["retry-after"] == "1"
        may_end.set()
        service.limits = dataclasses.replace(service.limits, seconds=60.0)
        assert client.post("/predict", json={"inputs": "w0"}).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(RuntimeError("secret w5"), 500, "the server's log says where"), (UsageError("not like this"), 422, "not like this"),
     (MemoryError(), 503, "more memory than there is"), (torch.OutOfMemoryError("secret"), 503, "more memory")],
)  # fmt: skip
def test_what_fails_in_the_model_is_a_status_and_quotes_no_text(project, capsys, error, status, line):
    with served(project / "run", logs=True) as (client, service):

        def fails(*given):
            raise error

        service.task.predict = fails
        answer = client.post("/predict", json={"inputs": "w5 secret"})
        assert answer.status_code == status and line in answer.json()["error"] and "secret" not in answer.text
    assert "secret" not in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_no_answer(project):
    with served(project / "run") as (client, service):
        service.task.predict = lambda model, inputs, layout: [{"value": float("nan")} for _ in inputs]
        answer = client.post("/predict", json={"inputs": "w0"})
        assert answer.status_code == 500 and "no finite numbers" in answer.json()["error"]


def test_a_defect_of_the_server_is_one_line_too(project, capsys, monkeypatch):
    with served(project / "run", logs=True) as (client, service):
        monkeypatch.setattr(service.metrics, "page", lambda: 1 / 0)
        answer = client.get("/metrics")
        assert answer.status_code == 500 and "its log says where" in answer.json()["error"]
    said = capsys.readouterr().err
    assert "a request failed: ZeroDivisionError in test_app.py, line" in said and " /metrics 500, " in said


def test_the_log_has_a_line_for_each_request_and_no_text(project, capsys):
    with served(project / "run", logs=True) as (client, service):
        service.task.predict = lambda *given, predict=service.task.predict: (
            note("1 of 1 texts cut to 32 tokens") or predict(*given)
        )
        for _ in range(2):
            client.post("/predict?text=secret", json={"inputs": ["secret w0", "w1"]})
        client.post("/secret", json={"inputs": "secret"}, headers={"User-Agent": "secret", "Cookie": "secret"})
        client.request("SECRET", "/predict")
        send(client, b'{"inputs": secret')
        send(client, b'{"inputs": {"text": "secret", "secret": 1}}')
    said = capsys.readouterr().err.splitlines()
    lines = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d testclient ", "", re.sub(r"[\d.]+ ms", "T", line)) for line in said]
    assert lines == [
        "1 of 1 texts cut to 32 tokens (such remarks are counted in /metrics from now on)", "POST /predict 200, T, 2 inputs",
        "POST /predict 200, T, 2 inputs", "POST (other) 404, T", "(other) /predict 405, T", "POST /predict 400, T", "POST /predict 422, T",
    ]  # fmt: skip


def figures(client):
    """Value by name and labels."""
    lines = (line.rpartition(" ") for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_metrics_count_requests_batches_tokens_and_labels(project):
    with served(project / "run") as (client, service):
        before = figures(client)
        assert {before[f'plainloop_labels_total{{label="{label}"}}'] for label in "abc"} == {0}
        found = client.post("/predict", json={"inputs": TEXTS}).json()["predictions"]
        send(client, b"{")
        now = figures(client)
    expected = sum(len(service.task.tokenizer(text)["input_ids"]) for text in TEXTS)
    assert now["plainloop_tokens_total"] == expected
    assert (
        now['plainloop_requests_total{path="/predict",status="200"}']
        == 1
        == now['plainloop_requests_total{path="/predict",status="400"}']
    )
    assert now["plainloop_request_seconds_count"] == 2
    assert now["plainloop_batch_inputs_sum"] - before["plainloop_batch_inputs_sum"] == 4
    assert now["plainloop_waiting_inputs"] == 0 and now["process_resident_memory_bytes"] > 1e6
    for label in "abc":
        assert now[f'plainloop_labels_total{{label="{label}"}}'] == sum(each["label"] == label for each in found)


def test_the_document_says_what_is_taken_and_given(toy):
    client, service = toy
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1") and "/predict" in document["paths"] and "security" not in document
    post = document["paths"]["/predict"]["post"]
    [example] = [each["value"] for each in post["requestBody"]["content"]["application/json"]["examples"].values()]
    answer = client.post("/predict", json=example)
    assert answer.status_code == 200 and answer.json()["predictions"][0].keys() == {"label", "score", "probabilities"}
    assert {"200", "400", "401", "408", "413", "415", "422", "429", "500", "503"} <= post["responses"].keys()
    items = post["requestBody"]["content"]["application/json"]["schema"]["properties"]["inputs"]["anyOf"][1]
    assert items["maxItems"] == 5 and items["items"]["anyOf"][0] == {"type": "string", "maxLength": 200}
    routes = {route.path for route in service.app.routes}
    assert {*document["paths"]} == routes - {"/", "/docs"}


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_load_nothing_and_show_names_as_text(project, path):
    with served(project / "run", name="<script>alert(1)</script>") as (client, _):
        page = client.get(path)
        assert page.status_code == 200 and "<script>alert" not in page.text and "&lt;script&gt;alert(1)" in page.text
        assert (
            not re.findall(r"""(?:src|href)=["'](?!data:,|docs|openapi\.json|\./)[^"']*""", page.text)
            and "url(" not in page.text
        )
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert page.headers["x-content-type-options"] == "nosniff"


def test_what_the_policy_allows_is_what_stands_in_the_page(toy):
    """Else the browser would run nothing."""
    import base64
    import hashlib

    page = toy[0].get("/")
    parts = re.findall(r"<style>(.*?)</style>|<script>(.*?)</script>", page.text, re.DOTALL)
    assert len(parts) == 2
    for part in ("".join(each) for each in parts):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in page.headers["content-security-policy"]
