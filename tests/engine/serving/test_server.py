"""The server itself, over real connections: what is no HTTP, what is slow, and the end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager

import pytest

import run as program
from bench.serving.load import Client, request
from bench.toys import tiny
from engine.serving import server as server_module
from engine.serving.server import bound, made
from tests.engine.serving.mistakes import MISTAKES, abuse, status_of
from tests.toys.cli import fails
from tests.toys.served import ended, served, server, until

LAST = request({"inputs": "w0"}, headers="Connection: close\r\n")  # behind its answer the server closes the connection


@contextmanager
def listening(folder, *, max_connections=50, **changes):
    """The port of a server in a thread of this process."""
    with served(folder, changes) as (_, service):
        listener = bound("127.0.0.1", 0)
        port = listener.getsockname()[1]
        found = made(service, seconds=service.limits.seconds, max_connections=max_connections)
        thread = threading.Thread(target=lambda: asyncio.run(found.serve(sockets=[listener])))
        thread.start()
        try:
            yield port, found
        finally:
            found.should_exit = True
            thread.join(20)
            listener.close()
            assert not thread.is_alive()


def exchanged(port, content):
    """What the server says to these bytes until it closes the connection. Raises TimeoutError where it does not."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(20)
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def first_answer(port, content):
    """Head and body of the first answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(10)
        connection.sendall(content)
        with connection.makefile("rb") as stream:
            head = b"".join(iter(stream.readline, b"\r\n"))
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
            return head, stream.read(length)


@pytest.fixture(scope="module")
def port(project):
    with listening(project / "run", seconds=0.6, body=3000, characters=200, texts=5) as (found, _):
        yield found


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_request_is_a_status_and_one_line_of_json(port, name, capsys):
    content, status = MISTAKES[name]
    head, body = first_answer(port, content)
    assert status_of(head) == status, head + body
    assert [*json.loads(body)] == ["error"] and b"application/json" in head.lower()
    ok = Client("127.0.0.1", port, [request({"inputs": "w0"})], 1)
    ok.run()
    assert ok.replies[0].status == 200


def test_a_head_and_a_body_that_do_not_come_are_408_and_hold_no_connection(port):
    for part in (b"", b"POST /pre", b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"):
        said = exchanged(port, part)
        assert status_of(said) == 408 and b"did not arrive" in said
    said = exchanged(port, request({"inputs": "w0"})[:-3])
    assert status_of(said) == 408 and b"the body did not arrive within 0.6 s" in said


def test_the_head_of_a_second_request_on_a_connection_must_come_too(port):
    said = exchanged(port, request({"inputs": "w0"}) + b"POST /pre")
    assert said.count(b"HTTP/1.1 200") == 1 and said.count(b"HTTP/1.1 408") == 1


def test_two_requests_at_once_on_a_connection_are_both_answered(port):
    assert exchanged(port, request({"inputs": "w0"}) + LAST).count(b"HTTP/1.1 200") == 2


def test_a_body_that_is_too_large_is_refused_and_the_answer_is_heard(port):
    body = request({"inputs": "a" * 9000})
    said = exchanged(port, body)
    assert status_of(said) == 413 and b"at most 3000 bytes" in said
    asks = body.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n", 1).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert exchanged(port, asks).startswith(b"HTTP/1.1 413"), "before it is sent"


def test_who_does_not_read_the_answer_does_not_hold_the_connection(project):
    with listening(project / "run", seconds=0.6) as (port, found):
        found.service.task.predict = lambda model, inputs, layout: [{"text": "x" * 30_000_000} for _ in inputs]
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request({"inputs": "w0"}))
        until(lambda: len(found.server_state.connections) == 1)
        until(lambda: not found.server_state.connections)
        connection.close()


def test_more_connections_than_asked_for_are_503(project):
    with listening(project / "run", max_connections=3) as (port, _):
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        said = exchanged(port, request({"inputs": "w0"}))
        assert status_of(said) == 503 and json.loads(said.partition(b"\r\n\r\n")[2])["error"]
        for each in held:
            each.close()
        until(lambda: status_of(exchanged(port, LAST)) == 200)


def test_who_leaves_is_not_waited_for(project):
    """Its request leaves the queue, and the next is answered."""
    with listening(project / "run") as (port, found):
        batcher, begun, gate = found.service.batcher, threading.Event(), threading.Event()
        predict = found.service.task.predict
        found.service.task.predict = lambda *given: begun.set() or (gate.wait(10) and predict(*given))
        held = socket.create_connection(("127.0.0.1", port))
        held.sendall(request({"inputs": "w0"}))
        assert begun.wait(10)
        gone = socket.create_connection(("127.0.0.1", port))
        gone.sendall(request({"inputs": ["w1", "w2"]}))
        until(lambda: batcher.waiting == 2)
        gone.close()
        until(lambda: batcher._jobs and batcher._jobs[-1].answer.cancelled())
        gate.set()
        assert held.recv(100).startswith(b"HTTP/1.1 200")
        held.close()


def assert_all_answered(client, said):
    """Each line of the log is an answer that a client has heard: nothing was read and not answered."""
    answered = [reply for reply in client.replies if reply is not None and reply.status]
    assert 300 <= len(answered) < len(client.requests) and {reply.status for reply in answered} == {200}
    assert said.count("POST /predict 200, ") == len(answered), "accepted, and answered"
    lost = [reply for reply in client.replies if reply is not None and not reply.status]
    assert len(lost) + client.refused == client.connections, "each ends once: refused, or closed before a request was read"


def test_a_signal_under_load_ends_the_command_with_all_answers(project, capsys, monkeypatch):
    """The whole of it through run.main in this process; the handlers of signals are as they were."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    monkeypatch.setenv("PLAINLOOP_TOKEN", "a-token-of-enough-letters")
    requests = [
        request({"inputs": f"w{i % 50} w7"}, headers="Authorization: Bearer a-token-of-enough-letters\r\n")
        for i in range(20_000)
    ]
    clients = []
    startup = server_module.Server.startup

    async def started(self, sockets=None):
        await startup(self, sockets)
        client = Client(
            "127.0.0.1", sockets[0].getsockname()[1], requests, 8, lambda i: i == 300 and os.kill(os.getpid(), signal.SIGTERM)
        )
        clients.append((client, threading.Thread(target=client.run)))
        clients[0][1].start()

    monkeypatch.setattr(server_module.Server, "startup", started)
    assert program.main(["serve", str(project / "run"), "--device", "cpu", "--port", "0", "--host", "0.0.0.0"]) == 0
    [(client, thread)] = clients
    thread.join(20)
    said = capsys.readouterr()
    assert said.out.startswith("serving at http://0.0.0.0:") and said.err.endswith("ended: all that was accepted is answered\n")
    assert "warning" not in said.err and "a-token" not in said.out + said.err
    assert_all_answered(client, said.err)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_all_that_was_accepted_is_answered(project, number):
    """Under load, from 8 connections; the exit code is 0. Each line of the log is an answer that a client has heard."""
    with server(project / "run") as (process, port):
        requests = [request({"inputs": f"w{i % 50} w7"}) for i in range(20_000)]
        client = Client("127.0.0.1", port, requests, 8, on_reply=lambda i: i == 300 and process.send_signal(number))
        client.run()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and said.splitlines()[-1] == "ended: all that was accepted is answered"
    assert_all_answered(client, said)


@pytest.mark.slow
def test_a_request_that_is_being_computed_is_answered_after_the_signal(project, tmp_path):
    """A task of one's own that takes a second a text."""
    (tmp_path / "slow.py").write_text(
        "import time\nfrom tasks.classification.task import Classification\n\n"
        "class Slow(Classification):\n    def predict(self, model, inputs, layout):\n"
        "        inputs = list(inputs)\n        time.sleep(0.0 if 'food' in inputs[0] else 1.0)\n"
        "        yield from super().predict(model, inputs, layout)\n"
    )
    with server(project / "run", "--task", f"{tmp_path / 'slow.py'}:Slow") as (process, port):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request({"inputs": "w0"}))
        time.sleep(0.3)
        code, said = ended(process)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200") and code == 0
        assert re.search(r" 200, \d{4,}\.\d ms", said), "it took its second"
        connection.close()


def test_the_command_line(project, tmp_path, capsys, monkeypatch):
    model = ["serve", str(project / "run"), "--device", "cpu"]
    assert fails(["serve", "--port", "1"], capsys)[1] == "error: name a model: python run.py serve runs/mine"
    assert "takes a model and no texts, found 'w0'" in fails([*model, "w0"], capsys)[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, line = fails([*model, "--port", str(taken.getsockname()[1])], capsys)
    assert code == 2 and "Address already in use: name another, or --port 0" in line
    assert "there is no such address" in fails([*model, "--host", "no.such.host.invalid"], capsys)[1]
    assert "--queue must have room for a request and a batch" in fails([*model, "--queue", "3"], capsys)[1]
    for flags, part in (
        (["--port", "70000"], "must be 0 to 65535"), (["--timeout", "0"], "must be positive"), (["--timeout", "nan"], "must be positive"),
        (["--max-texts", "0"], "--max-texts must be at least 1"), (["--token", "x"], "unknown argument '--token'"),
    ):  # fmt: skip
        code, line = fails([*model, *flags], capsys)
        assert code == 2 and part in line


@pytest.mark.parametrize("content", ["short", "has a blank in the middle of it", "", "\u00e4" * 20, "x" * 20 + "\n" + "y" * 20])
def test_a_token_that_is_none_is_refused_and_not_shown(project, tmp_path, capsys, monkeypatch, content):
    (tmp_path / "token").write_text(content)
    model = ["serve", str(project / "run"), "--device", "cpu", "--port", "0"]
    code, line = fails([*model, "--token-file", str(tmp_path / "token")], capsys)
    assert code == 2 and "a token of at least 16" in line and (not content or content[:8] not in line)
    monkeypatch.setenv("PLAINLOOP_TOKEN", content)
    code, line = fails(model, capsys)
    assert code == 2 and "PLAINLOOP_TOKEN must hold a token" in line


def test_a_token_file_that_is_a_folder_a_link_elsewhere_or_not_there(project, tmp_path, capsys):
    (tmp_path / "link").symlink_to("/etc/hostname")
    model = ["serve", str(project / "run"), "--device", "cpu", "--port", "0", "--token-file"]
    for name, part in (("", "no regular file"), ("none", "No such file"), ("link", "leads out of its folder")):
        code, line = fails([*model, str(tmp_path / name)], capsys)
        assert code == 2 and part in line and "--token-file" in line


def test_without_its_packages_it_says_how_to_get_them(project, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, line = fails(["serve", str(project / "run")], capsys)
    assert code == 2 and line.endswith(
        "serve needs the package uvicorn, which is not installed: pip install -c constraints.txt '.[serve]'"
    )


@pytest.mark.slow
def test_ten_thousand_requests_from_32_connections(tmp_path):
    """No error, the probabilities of predict, and memory that stays."""
    from bench.serving.measure import SERVE, difference, memory, predicted, started

    model = str(tiny.save_model(tmp_path / "model", tiny.distilbert(num_labels=3)))
    texts = [text for text, _ in tiny.texts(10_000)]
    with started(SERVE, model) as port:
        Client("127.0.0.1", port, [request({"inputs": text}) for text in texts[:1000]], 32).run()
        before = memory(port)
        client = Client("127.0.0.1", port, [request({"inputs": text}) for text in texts], 32)
        client.run()
        after = memory(port)
    assert max(map(difference, client.replies, predicted(model, texts))) < 1e-5
    assert after < before + 20, (before, after)


@pytest.mark.slow
def test_two_hundred_abusive_requests(project):
    """Malformed, huge, slow and cut off, many at a time: the status of each where it has one, and the server lives."""
    rng = random.Random(0)
    with server(project / "run", "--timeout", "2", "--max-body", "3000", "--max-characters", "200", "--max-texts", "5", "--quiet") as (
        process, port,
    ):  # fmt: skip
        found = abuse(port, 200, rng)
        assert len(found) == 200 and {name for name, _, _ in found} >= {*MISTAKES}
        for name, expected, status in found:
            assert status in expected, (name, expected, status)
        ok = Client("127.0.0.1", port, [request({"inputs": "w0"})] * 50, 8)
        ok.run()
        assert {reply.status for reply in ok.replies} == {200}
        assert ended(process)[0] == 0
