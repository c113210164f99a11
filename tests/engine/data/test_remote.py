"""Data files at an address: fetched into the cache once for each state, read as any other file, asked for only when typed."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Any

import fsspec
import pytest

import run
from engine.artifacts.card import without_folders
from engine.artifacts.document import RunDocument
from engine.data import remote
from engine.data.cache import cache_folder
from engine.data.files import read_named
from engine.data.places import named_files, parts_of
from engine.data.sources import SourceConfig, refuse_missing
from engine.errors import DataError, ResourceError, UsageError
from tests.toys.cli import command, fails

ROWS = "text,label\ngood,1\nbad,0\n"


class Site(http.server.BaseHTTPRequestHandler):
    """Answers with what ``files`` holds: a path to (status, headers, content)."""

    files: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        status, headers, content = self.files.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch):
    """A server of this machine, and its address."""
    remote.fetched.cache_clear()
    monkeypatch.setattr(remote, "_addresses", {})
    kind = type("This", (Site,), {"files": {}, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield kind, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
    remote.fetched.cache_clear()


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    remote.fetched.cache_clear()
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()
    remote.fetched.cache_clear()


def anew() -> None:
    """As another process begins."""
    remote.fetched.cache_clear()


def test_a_file_is_fetched_once_for_each_state(site, capsys):
    kind, address = site
    kind.files["/a.csv"] = 200, {"ETag": '"one"'}, ROWS.encode()
    name = f"{address}/a.csv"
    assert read_named(name, "--input") == {"text": ["good", "bad"], "label": ["1", "0"]}
    assert read_named(name, "--input")["text"] == ["good", "bad"]
    assert kind.asked == ["HEAD /a.csv", "GET /a.csv"] and f"fetching {name}" in capsys.readouterr().err
    anew()
    read_named(name, "--input")
    assert kind.asked[2:] == ["HEAD /a.csv"]  # the same state: from the cache
    kind.files["/a.csv"] = 200, {"ETag": '"two"'}, b"text,label\nnew1,1\nnew,0\n"
    assert len(kind.files["/a.csv"][2]) == len(ROWS)
    anew()
    assert read_named(name, "--input")["text"] == ["new1", "new"]


def test_without_a_state_it_is_fetched_by_each_process(site):
    """As many bytes, and others: a copy that cannot be checked is not believed."""
    kind, address = site
    for content in (b"text\na\n", b"text\nb\n"):
        kind.files["/a.csv"] = 200, {}, content
        anew()
        assert read_named(f"{address}/a.csv", "--input")["text"] == [content.decode()[5]]


def test_a_damaged_copy_is_fetched_again(site):
    kind, address = site
    kind.files["/a.csv"] = 200, {"ETag": '"one"'}, ROWS.encode()
    [file] = parts_of(f"{address}/a.csv")[0].files
    file.write_text(ROWS.replace("good", "goof"))
    anew()
    assert read_named(f"{address}/a.csv", "--input")["text"] == ["good", "bad"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "cannot be read: ClientResponseError: 404"),
        ((200, {"Content-Type": "text/html"}, b"<html>sign in</html>"), "is a web page (text/html) and no file of data"),
        ((200, {"ETag": '"x"', "Content-Length": "9999"}, b"text\na\n"), "cannot be read: "),
    ],
)
def test_what_cannot_be_fetched(site, answer, said):
    kind, address = site
    if answer is not None:
        kind.files["/a.txt"] = answer
    with pytest.raises(DataError) as error:
        parts_of(f"{address}/a.txt")
    assert str(error.value).startswith(f"{address}/a.txt ") and said in str(error.value)
    assert not list((cache_folder() / "remote").glob("*/a.txt"))


def test_a_redirect_out_of_the_internet_into_this_network(site, monkeypatch):
    """This machine may be named by who types it; no one else leads there."""
    kind, address = site
    kind.files["/a.csv"] = 302, {"Location": "/b.csv"}, b""
    kind.files["/b.csv"] = 200, {"ETag": '"b"'}, ROWS.encode()
    assert read_named(f"{address}/a.csv", "--input")["text"] == ["good", "bad"]  # within what was named
    kind.files["/c.csv"] = 302, {"Location": f"{address}/b.csv"}, b""
    named = address.replace("127.0.0.1", "localhost")
    monkeypatch.setattr(remote, "is_public_host", lambda host: host == "localhost")  # as if that were a public name
    with pytest.raises(DataError, match=r"leads to 127\.0\.0\.1, which is this machine or its network"):
        parts_of(f"{named}/c.csv")


def test_what_belongs_to_the_internet(monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [(0, 0, 0, "", ("93.184.215.14", 0)), (0, 0, 0, "", ("10.0.0.7", 0))])
    assert not remote.is_public_host("both.example.org")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [(0, 0, 0, "", ("93.184.215.14", 0))])
    assert remote.is_public_host("example.org")


def test_any_kind_that_fsspec_opens(memory):
    memory.pipe({"/b/part-1.csv": ROWS.encode(), "/b/part-0.csv": b"text,label\nfirst,1\n", "/b/deep/x.csv": b""})
    assert read_named("memory://b/part-*.csv", "--input")["text"] == ["first", "good", "bad"]
    for name, said in {
        "memory://b/none-*.csv": "no file matches memory://b/none-*.csv",
        "memory://b/none.csv": "there is no such file",
        "memory://b": "is a folder: name its files, as in memory://b/*.parquet",
    }.items():
        with pytest.raises(DataError) as error:
            parts_of(name)
        assert said in str(error.value)


def test_errors_name_the_address_and_the_row(memory):
    memory.pipe("/a.csv", b"text,label\ngood,1\nbad,0,7\n")
    with pytest.raises(DataError) as error:
        read_named("memory://a.csv", "--input")
    assert str(error.value).startswith("memory://a.csv row 2") and str(cache_folder()) not in str(error.value)


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, package in {"s3://b/a.csv": "s3fs", "gs://b/a.csv": "gcsfs", "az://b/a.csv": "adlfs"}.items():
        with pytest.raises(UsageError, match=f"needs the package {package}, which is missing: pip install -c constraints.txt"):
            refuse_missing(SourceConfig(train_file=name))
    with pytest.raises(UsageError, match="there is no kind of address called nowhere://"):
        parts_of("nowhere://b/a.csv")


def test_nothing_is_asked_before_it_is_read(site):
    """Neither by the check of the settings, nor for a file that a command might write over."""
    kind, address = site
    refuse_missing(SourceConfig(train_file=f"{address}/a.csv", eval_file=f"dev={address}/b.csv"))
    assert named_files(f"{address}/a.csv") == [] and kind.asked == []


def test_the_cache_is_bounded(memory, monkeypatch):
    memory.pipe({f"/{name}.csv": ROWS.encode() * 50 for name in "abc"})
    files = [parts_of(f"memory://{name}.csv")[0].files[0] for name in "ab"]
    monkeypatch.setattr(remote, "MOST_BYTES", 2 * files[0].stat().st_size)
    monkeypatch.setattr(remote, "_addresses", {})  # of processes that have ended
    files += parts_of("memory://c.csv")[0].files
    assert [file.exists() for file in files] == [False, False, True] or sum(file.exists() for file in files) == 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    memory.pipe("/d.csv", ROWS.encode() * 51)
    with pytest.raises(ResourceError, match=r"memory://d\.csv has 0 MiB, and .* has 0 MiB left: make room"):
        parts_of("memory://d.csv")


def test_trained_on_and_evaluated(project, memory, tmp_path, capsys):
    """The run is that of the same file on this machine; what run.json names is asked for only when it is typed again."""
    for name in ("train", "eval"):
        memory.pipe(f"/{name}.csv", (project / f"{name}.csv").read_bytes())
    given = ["--train-file", "memory://train.csv", "--eval-file", "memory://eval.csv", "--output-dir", str(tmp_path / "run")]
    assert run.main([*command(project)[:4], *given, "--epochs", "1", "--device", "cpu"]) == 0
    there, here = (json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "run", project / "run"))
    assert there["data"]["fingerprints"] == here["data"]["fingerprints"]
    assert there["metrics"]["eval_loss"] == here["metrics"]["eval_loss"]
    assert there["data"]["source"] == "memory://train.csv (60 rows), memory://eval.csv (30 rows)"
    code, line = fails(["evaluate", str(tmp_path / "run"), "--device", "cpu"], capsys)
    assert code == 2 and "names memory://train.csv, and anybody may have written that" in line
    assert run.main(["evaluate", str(tmp_path / "run"), "--device", "cpu", "--file", "memory://eval.csv"]) == 0
    assert run.main(["predict", str(tmp_path / "run"), "--device", "cpu", "a text"]) == 0  # needs no data
    config = ["--config", str(tmp_path / "run/run.json"), "--output-dir", str(tmp_path / "again")]
    code, line = fails(config, capsys)
    assert code == 2 and "none is asked for unless you say --train-file memory://train.csv" in line
    assert run.main([*config, *given[:4], "--device", "cpu"]) == 0


def test_what_is_pushed_names_no_secret():
    """The card and run.json of a push keep an address, without its user and its signature; each of several files is cut."""
    settings = {
        "train_file": "https://me:word@x.org/a.csv?X-Signature=abc,/home/me/b.csv",
        "eval_file": "dev=/home/me/dev.csv,far=s3://bucket/far.csv",
    }
    document = RunDocument(settings=settings, command=f"python run.py --train-file {settings['train_file']}")
    kept = without_folders(document)
    assert kept.settings["train_file"] == "https://x.org/a.csv,b.csv" and "Signature" not in (kept.command or "")
    assert kept.settings["eval_file"] == "dev=dev.csv,far=s3://bucket/far.csv"
