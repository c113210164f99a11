"""What a server logs of its inputs: no text, bounded, whole after a kill; and what is no such log is refused and left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.data.read import Read, Reads
from engine.data.tokens import Tokens
from engine.errors import DataError, UsageError
from engine.findings import input_log
from engine.findings.input_log import InputLog, before, head_of, read_log
from engine.findings.profile import Vocabulary
from engine.task import Observed

ROOT = Path(__file__).parents[3]
IDS = [np.array([2, 5, 1, 3]), np.array([2, 6, 3])]
KNOWN = Vocabulary.of([np.array([2, 5, 3]), np.array([2, 7, 3])])


def reads(ids=IDS):
    found = Reads()
    tokens = Tokens(np.concatenate(ids), np.concatenate([[0], np.cumsum([len(row) for row in ids])]), None, 0)
    found.append(Read(tokens, None))
    found.projected = {row: [0.5 * row, 1.0] for row in range(len(ids))}
    return found


def observed(number=2):
    return Observed([9] * number, ["a", "b|c"][:number], "confidence", [0.75, 0.25][:number], 1)


def add(log, number=1):
    for _ in range(number):
        log.add(["secret w1", "secret w2"], reads(), observed)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_for_each_input_and_no_text(tmp_path):
    path = tmp_path / "log.jsonl"
    log = InputLog(path, "hash", KNOWN)
    add(log)
    log.close()
    head, one, other = lines(path)
    assert head["profile_log"] == 1 and head["weights"] == "hash" and "secret" not in path.read_text()
    surprise = KNOWN.surprise(IDS, within=False)
    assert one.pop("time").endswith("Z") and one == {
        "tokens": 4, "characters": 9, "unknown tokens": 0.25, "vocabulary": pytest.approx(surprise[0], rel=1e-6),
        "predicted label": "a", "confidence": 0.75, "projected": [0.0, 1.0],
    }  # fmt: skip
    assert (other["tokens"], other["predicted label"], other["projected"]) == (3, "b|c", [0.5, 1.0])
    kept = InputLog(tmp_path / "texts.jsonl", "hash", None, keeps_inputs=True)
    add(kept)
    kept.close()
    assert [line["input"] for line in lines(kept.path)[1:]] == ["secret w1", "secret w2"] and "vocabulary" not in lines(
        kept.path
    )[1]


def test_it_is_read_as_a_profile(tmp_path):
    path = tmp_path / "log.jsonl"
    log = InputLog(path, "hash", KNOWN)
    add(log, 30)
    found, number = read_log(path, "hash")
    assert number == 60 and found.weights == "hash" and dict(found.shares["predicted label"].counts) == {"a": 30, "b|c": 30}
    assert found.numbers["tokens"].mean == 3.5 and found.numbers["tokens"].of == "log.jsonl"
    assert sorted(found.numbers["confidence"].sample) == [0.25] * 30 + [0.75] * 30
    assert found.embedding.rows == 60 and found.embedding.mean == [0.25, 1.0]
    assert len(read_log(path, "hash", most=7)[0].numbers["tokens"].sample) == 7
    log.close()


def test_it_grows_no_further_than_two_files(tmp_path, monkeypatch):
    monkeypatch.setattr(input_log, "LARGEST", 2000)
    path = tmp_path / "log.jsonl"
    log = InputLog(path, "hash", KNOWN)
    for batch in range(60):
        log.add(["x", "y"], reads(), lambda batch=batch: Observed([batch, batch], ["a", "a"], "confidence", [0.5, 0.5], 1))
    log.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log.before.jsonl", "log.jsonl"]
    assert path.stat().st_size <= 2000 and 1500 < before(path).stat().st_size <= 2000
    kept = [line["characters"] for file in (before(path), path) for line in lines(file)[1:]]
    assert kept == sorted(kept) and kept[-1] == 59 and kept[0] > 30, "the newest, all of them"
    assert read_log(path, "hash")[1] == len(kept)


def test_half_a_line_is_left_out_and_cut_off_when_it_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    log = InputLog(path, "hash", KNOWN)
    add(log)
    log.close()
    whole = path.read_bytes()
    for length in range(len(whole) - 40, len(whole)):
        path.write_bytes(whole[:length])
        assert read_log(path, "hash")[1] == 1
    log = InputLog(path, "hash", KNOWN)
    add(log)
    log.close()
    assert read_log(path, "hash")[1] == 3 and len(lines(path)) == 4
    path.write_bytes(whole[:10])  # not even its head
    InputLog(path, "hash", KNOWN).close()
    assert len(lines(path)) == 1


KILLED = """
import pathlib, numpy
from engine.data.read import Read, Reads
from engine.data.tokens import Tokens
from engine.findings.input_log import InputLog
from engine.task import Observed

reads = Reads()
reads.append(Read(Tokens(numpy.array([2, 5, 2, 6]), numpy.array([0, 2, 4]), None, 0), None))
log = InputLog(pathlib.Path({path!r}), "hash", None)
print("ready", flush=True)
while True:
    log.add(["a", "b"], reads, lambda: Observed([9, 9], ["a", "b"], "confidence", [0.5, 0.5], 1))
    print("added", flush=True)
"""


def test_a_kill_loses_no_line_that_was_written(tmp_path):
    path = tmp_path / "log.jsonl"
    total = 0
    for kills in range(1, 4):
        script = KILLED.format(path=str(path))
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        said = [process.stdout.readline() for _ in range(1 + 50 * kills)]
        assert said[0] == "ready\n", said
        process.send_signal(signal.SIGKILL)
        more = process.stdout.read().count("added")
        process.wait()
        process.stdout.close()
        added = 50 * kills + more
        found = read_log(path, "hash")[1]
        assert 2 * added <= found - total <= 2 * added + 2
        total = found


def test_what_is_no_such_log_is_refused_and_left_as_it_is(tmp_path):
    mine, other = tmp_path / "mine.jsonl", tmp_path / "other.jsonl"
    InputLog(other, "another", KNOWN).close()
    for content in (b'{"text": "mine"}\n', b"mine", b'{"profile_log": 2, "weights": "hash"}\n', b'{"profile_log": 1}\n'):
        mine.write_bytes(content)
        with pytest.raises(UsageError, match="is there, and not such a log"):
            InputLog(mine, "hash", KNOWN)
        assert mine.read_bytes() == content
        with pytest.raises(DataError, match=r"line 1: this is not what serve --profile-log writes"):
            read_log(mine, "hash")
    content = other.read_bytes()
    with pytest.raises(UsageError, match="of another model"):
        InputLog(other, "hash", KNOWN)
    with pytest.raises(DataError, match="by a server of another model"):
        read_log(other, "hash")
    assert other.read_bytes() == content
    (tmp_path / "link.jsonl").symlink_to(other)
    with pytest.raises(ValueError, match="cannot be written"):
        InputLog(tmp_path / "link.jsonl", "another", KNOWN)
    log = InputLog(other, "another", KNOWN)
    with pytest.raises(UsageError, match="is written by another server"):
        InputLog(other, "another", KNOWN)
    log.close()
    with pytest.raises(DataError, match="has no inputs yet"):
        read_log(other, "another")


@pytest.mark.parametrize(
    ("line", "words"),
    [('{"tokens": "many"}', "tokens cannot be 'many'"), ('{"predicted label": 3}', "predicted label cannot be 3"),
     ('{"projected": ["x"]}', "projected are no numbers"), ("[1]", "it holds no object"), ('{"tokens": NaN}', "NaN is no JSON"), ("{", "JSON")],
)  # fmt: skip
def test_a_damaged_line_is_told_with_its_number(tmp_path, line, words):
    path = tmp_path / "log.jsonl"
    log = InputLog(path, "hash", KNOWN)
    add(log)
    log.close()
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DataError, match=r"log\.jsonl, line 4: this is not what serve --profile-log writes") as found:
        read_log(path, "hash")
    assert words in str(found.value) or words == "JSON"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("of a task of one's own: secret")])
def test_where_it_cannot_be_written_the_server_goes_on(tmp_path, capsys, error):
    log = InputLog(tmp_path / "log.jsonl", "hash", KNOWN)

    def fails():
        raise error

    for _ in range(3):
        log.add(["secret"], reads(IDS[:1]), fails)
    said = capsys.readouterr().err
    assert said.count("ends here, and the server goes on") == 1 and "secret" not in said
    assert ("No space left" in said) == isinstance(error, OSError) and log.stream is None


def test_only_the_first_line_is_read_to_know_it(tmp_path):
    path = tmp_path / "log.jsonl"
    InputLog(path, "hash", KNOWN).close()
    os.truncate(path, path.stat().st_size + (1 << 20))
    assert head_of(path)["weights"] == "hash"
    path.write_text("x" * 10_000)
    assert head_of(path) is None
