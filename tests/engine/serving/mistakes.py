"""What is no request, and what else strangers send."""

from __future__ import annotations

import random
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from bench.serving.load import request

GOOD = request({"inputs": "w0 w1"})


def without(line: bytes) -> bytes:
    """A good request without one line of its head."""
    return re.sub(rb"(?mi)^" + line + rb":.*\r\n", b"", GOOD)


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


MISTAKES = {  # what is sent, and the status of the answer
    "no HTTP": (b"GARBAGE\r\n\r\n", 400),
    "zeros": (bytes(200), 400),
    "TLS": (bytes.fromhex("16030100a5010000a10303") + bytes(range(150)), 400),
    "another protocol": (b"PRI * HTTP/2.0\r\nHost: localhost\r\n\r\nSM\r\n\r\n", 404),
    "no host": (without(b"Host"), 400),
    "a line without a name": (head("POST /predict HTTP/1.1", "Host: a", ": x"), 400),
    "a blank before the colon": (head("POST /predict HTTP/1.1", "Host: a", "Content-Length : 3"), 400),
    "a length that is no number": (head("POST /predict HTTP/1.1", "Host: a", "Content-Length: ten"), 400),
    "a negative length": (head("POST /predict HTTP/1.1", "Host: a", "Content-Length: -1"), 400),
    "two lengths": (head("POST /predict HTTP/1.1", "Host: a", "Content-Length: 1", "Content-Length: 2"), 400),
    "an unknown coding": (head("POST /predict HTTP/1.1", "Host: a", "Transfer-Encoding: gzip"), 400),
    "a head without an end": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000, 400),
    "many lines": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 8000, 400),
    "an odd method": (head("GE(T / HTTP/1.1", "Host: a"), 400),
    "a bad chunk": (head("POST /predict HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Transfer-Encoding: chunked") + b"zz\r\n", 400),
    "an empty body": (request("")[: -2].replace(b"Content-Length: 2", b"Content-Length: 0"), 400),
    "no type": (without(b"Content-Type"), 415),
    "another type": (GOOD.replace(b"application/json", b"text/plain"), 415),
    "another path": (request({"inputs": "a"}, path="/nothing"), 404),
    "a path upwards": (request({"inputs": "a"}, path="/../../etc/passwd"), 404),
    "another method": (b"GET /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
    "no inputs": (request({}), 422),
    "numbers": (request({"inputs": [1, 2]}), 422),
    "too many": (request({"inputs": ["a"] * 6}), 413),
    "too long": (request({"inputs": "a" * 300}), 413),
    "too large": (request({"inputs": "a" * 8000}), 413),
    "chunks without end": (
        head("POST /predict HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Transfer-Encoding: chunked")
        + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 20, 413),
    "a body that is no JSON": (GOOD[:-1] + b"]", 400),
    "deep": (head("POST /predict HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Content-Length: 2000") + b"[" * 2000, 400),
    "a token nobody asked for, and no JSON": (GOOD.replace(b"Host", b"Authorization: Bearer x\r\nHost")[:-1] + b"!", 400),
}  # fmt: skip


def status_of(said: bytes) -> int:
    """Of an answer; 0: there is none."""
    return int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/1.1 ") else 0


def sent(port: int, parts: list[bytes], pause: float, reads: bool) -> int:
    """The status of what is answered to bytes that come in parts; 0 where nobody waits for it, or nothing comes."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(10)
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            return status_of(connection.recv(200)) if reads else 0
        except (ConnectionError, TimeoutError):
            return 0


def abuse(port: int, number: int, rng: random.Random) -> list[tuple[str, set[int], int]]:
    """So many requests, 16 at a time: what each was, the statuses that it may have, and the one it had."""
    kinds = [*MISTAKES, "cut off", "left", "letter by letter", "good in pieces", "a hundred MB"]
    jobs = []
    for turn in range(number):
        kind = kinds[turn % len(kinds)]
        if kind in MISTAKES:
            jobs.append((kind, {MISTAKES[kind][1]}, [MISTAKES[kind][0]], 0.0, True))
        elif kind == "cut off":  # and never goes on
            jobs.append((kind, {408}, [GOOD[: rng.randrange(1, len(GOOD))]], 0.0, True))
        elif kind == "left":
            jobs.append((kind, {0}, [GOOD[: rng.randrange(1, len(GOOD) + 1)]], 0.0, False))
        elif kind == "letter by letter":  # who still sends when the connection is closed may not hear why
            jobs.append((kind, {408, 0}, [GOOD[i : i + 1] for i in range(60)], 0.1, True))
        elif kind == "good in pieces":
            jobs.append((kind, {200}, [GOOD[i : i + 20] for i in range(0, len(GOOD), 20)], 0.01, True))
        else:  # the answer may be lost on the way, if the server closes while much is still sent
            large = GOOD.replace(b"Content-Length: ", b"Content-Length: 1000000")
            jobs.append((kind, {413, 0}, [large, *[b"x" * (1 << 20)] * 100], 0.0, True))
    with ThreadPoolExecutor(16) as pool:
        statuses = pool.map(lambda job: sent(port, *job[2:]), jobs)
        return [(kind, expected, status) for (kind, expected, *_), status in zip(jobs, statuses, strict=True)]
