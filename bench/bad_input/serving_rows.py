"""Rows F of a model that is to be served."""

from __future__ import annotations

import socket

from bench.bad_input.case import Attempts, Place, row
from bench.bad_input.file_rows import NUMBER
from bench.bad_input.forms import each


def serve(at: Place, *flags: str, model: str = "finished") -> list[str]:
    """A command that must not come as far as to listen."""
    return ["serve", "--model", str(at.home / model), "--device", "cpu", "--port", "0", *flags]


def refused(what: str, words: str, *flags: str, code: int = 2) -> None:
    """A row of flags that are refused, each by itself."""
    each(f"F{next(NUMBER)}", f"serve: {what}", code, words, lambda at: [serve(at, *flag.split(" ")) for flag in flags])


refused("limits of nothing", "must be at least 1", "--max-batch 0", "--max-body 0", "--max-texts=-1", "--max-characters 0",
        "--max-connections 0")  # fmt: skip
refused(
    "a time that never ends", "--timeout must be positive, and at most 86400", "--timeout 0", "--timeout inf", "--timeout nan"
)
refused("a queue without room for a request", "--queue must have room for a request and a batch", "--queue 0", "--queue 100")
refused("a host that there is not", "there is no such address", "--host no.such.host.invalid")
refused("a token on the command line", "unknown argument '--token'", "--token secret-secret-secret")
refused(
    "a token file that is not there", "--token-file nothing cannot be read: No such file or directory", "--token-file nothing"
)
refused("texts behind the model", "serve takes a model and no texts, found 'w1'", "w1")
each(f"F{next(NUMBER)}", "serve: an unfinished run", 2, "finish it with --resume", lambda at: [serve(at, model="unfinished")])
each(f"F{next(NUMBER)}", "serve: a setting of another task", 2, "--n-best is no setting of --task classification",
     lambda at: [serve(at, "--n-best", "3")])  # fmt: skip


@row(f"F{next(NUMBER)}", "serve: a port that is taken", 2, "Address already in use: name another, or --port 0")
def _(at: Place) -> Attempts:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield [*serve(at)[:-1], str(taken.getsockname()[1])]


@row(f"F{next(NUMBER)}", "serve: a token that is short, in pieces, or empty", 2, "must hold a token of at least 16")
def _(at: Place) -> Attempts:
    for content in ("short", "in pieces of several words", ""):
        result = yield serve(at, "--token-file", at.write("token", content))
        assert not content or content not in result.err, "a token is not shown"
