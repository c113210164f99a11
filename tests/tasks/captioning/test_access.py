"""What the names of pictures in the data may stand for: whoever writes the data does not choose what this machine reads or asks.

Files are regular, within the folder of the data, and bounded before they are read; addresses are public, and asked for by a
flag only; pixels are counted before any is decoded.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import run
from engine.data.sources import Source, SourceConfig
from engine.errors import DataError
from engine.finished import open_model
from tasks import find
from tasks.captioning import download as downloading
from tasks.captioning.download import download, is_public
from tasks.captioning.pictures import MAX_BYTES, MAX_PIXELS, Access, Pictures, decode, read_bytes
from tasks.captioning.task import Captioning, CaptioningOptions
from tests.toys.cli import fails


def picture() -> bytes:
    stream = BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def place(tmp_path) -> Path:
    """The folder of the data, with a picture in it, and one beside it."""
    (tmp_path / "data").mkdir()
    for name in ("data/in.png", "beside.png"):
        (tmp_path / name).write_bytes(picture())
    return tmp_path / "data"


# ------------------------------------------------------------------------------------------------------------- files


def linked(place: Path) -> str:
    (place / "link.png").symlink_to(place.parent / "beside.png")
    return "link.png"


def pipe(place: Path) -> str:
    os.mkfifo(place / "pipe.png")
    return "pipe.png"


def endless(place: Path) -> str:
    (place / "zero.png").symlink_to("/dev/zero")
    return "zero.png"


def sparse(place: Path) -> str:
    with open(place / "sparse.png", "wb") as stream:
        stream.truncate(1 << 40)
    return "sparse.png"


def socket_file(place: Path) -> str:
    at = Path.cwd()
    os.chdir(place)  # its name may have 108 bytes
    socket.socket(socket.AF_UNIX).bind("s.png")
    os.chdir(at)
    return "s.png"


OUTSIDE = "does not lie in .*, where the data are: put it there, or name the folder of the pictures with --image-folder"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (lambda place: "../beside.png", OUTSIDE),
        (lambda place: str(place.parent / "beside.png"), OUTSIDE),
        (lambda place: "/etc/passwd", OUTSIDE),
        (lambda place: "/dev/zero", OUTSIDE),
        (linked, OUTSIDE),
        (endless, OUTSIDE),
        (pipe, "is not a regular file"),
        (socket_file, "is not a regular file"),
        (lambda place: ".", "is not a regular file"),
        (sparse, "is larger than 64 MiB"),
        (lambda place: "none.png", "there is no picture"),
        (lambda place: "a\0b.png", "cannot be read"),
        (lambda place: "http://127.0.0.1/a.png", "none is asked for unless you say --allow-urls"),
        (lambda place: "HTTPS://example.org/a.png", "none is asked for unless you say --allow-urls"),
    ],
)
@pytest.mark.parametrize("kind", [str, lambda name: {"path": name, "bytes": None}])
def test_a_name_in_the_data_stands_for_a_regular_file_in_their_folder(place, name, words, kind):
    with pytest.raises(DataError, match=words):
        read_bytes(kind(name(place)), Access([place]), "row 1")
    assert read_bytes("in.png", Access([place]), "row 1") == picture()


def test_a_file_that_grows_is_read_to_its_bound(place, monkeypatch):
    """As those of /proc, whose size is 0."""
    monkeypatch.setattr("tasks.captioning.pictures.MAX_BYTES", 20)

    class Small:
        st_size, st_mode = 0, (place / "in.png").stat().st_mode

    monkeypatch.setattr(Path, "stat", lambda self, **_: Small)
    with pytest.raises(DataError, match="is larger than"):
        read_bytes("in.png", Access([place]), "row 1")


def test_pictures_may_lie_in_another_folder_that_the_user_names(place):
    access = Access([place, place.parent])
    assert read_bytes("../beside.png", access, "row 1") == read_bytes(str(place / "in.png"), access, "row 1")


def test_what_the_user_names_may_lie_anywhere_and_is_bounded_all_the_same(place):
    assert read_bytes(str(place.parent / "beside.png"), Access(), "row 1") == picture()
    with pytest.raises(DataError, match="is not a regular file"):
        read_bytes("/dev/zero", Access(), "row 1")


def task_on(place: Path, **settings) -> Captioning:
    return Captioning(CaptioningOptions(**settings.pop("options", {})), Source(SourceConfig(**settings)))


def test_where_the_pictures_of_each_kind_of_data_may_lie(place, monkeypatch):
    """Those of a data set of the Hub lie where its library puts them."""
    (place / "train").mkdir()
    for name in ("metadata.csv", "train/metadata.csv"):
        (place / name).write_text("file_name,text\na.png,b\n")
    file, within = str(place / "metadata.csv"), str(place / "train/metadata.csv")
    assert task_on(place, train_file=file).access(file).folders == [place]
    assert task_on(place, data=str(place)).access(within).folders == [place / "train", place]
    more = {"image_folder": "/pictures"}
    assert task_on(place, data=str(place), options=more).access(within).folders[-1] == Path("/pictures")
    hub = task_on(place, data="some/name").access("").folders
    assert hub and all("huggingface" in str(folder) or "hf" in str(folder) for folder in hub)
    assert not any(Path.home().is_relative_to(folder) for folder in hub)
    given = Captioning(CaptioningOptions(), Source(SourceConfig(), {}))
    assert given.access("").folders is None, "a program of the user's has put them together"
    assert given.access(file).folders == [place], "whichever file a row comes from"


# ------------------------------------------------------------------------------------------------------------ pixels


def bomb(width: int, height: int) -> bytes:
    """A PNG of zeros, compressed a thousand to one."""
    row = b"\0" * (1 + width * 3)
    packed, deflate = BytesIO(), zlib.compressobj(9)
    for _ in range(height):
        packed.write(deflate.compress(row))
    packed.write(deflate.flush())

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed.getvalue()) + chunk(b"IEND", b"")


MEASURED = """
import resource, sys
from tasks.captioning.pictures import decode
from engine.errors import DataError
content = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(content, "row 1")
except DataError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_pixels_are_counted_before_they_are_decoded():
    """Pillow itself takes up to 179 million of them."""
    content = bomb(13000, 13000)
    assert len(content) < 600_000
    done = subprocess.run([sys.executable, "-c", MEASURED], input=content, capture_output=True, check=True)
    words, kib = done.stdout.decode().splitlines()
    assert words == "row 1 is not a picture that can be read: it has 13000 x 13000 pixels, and at most 64 Mi are decoded"
    assert int(kib) < 50_000
    assert MAX_PIXELS == 64 << 20 and decode(bomb(200, 100), "row 1").size == (200, 100)


# --------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "::1",
     "::", "::ffff:127.0.0.1", "fe80::1", "fc00::1", "224.0.0.1", "ff02::1", "255.255.255.255"],
)  # fmt: skip
def test_addresses_of_this_machine_and_its_network_are_no_public_ones(address):
    assert not is_public(address)
    assert is_public("93.184.215.14") and is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


class Answering:
    """A server that counts its connections and answers each in its own way."""

    def __init__(self, answer):
        self.socket, self.times = socket.create_server(("127.0.0.1", 0)), 0
        self.answer, self.open = answer, []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.times += 1
            try:
                connection.recv(4096)
                for piece in self.answer():
                    connection.sendall(piece)
            except OSError:
                pass
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


def content(body: bytes, status: str = "200 OK", *headers: str):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return lambda: ["\r\n".join(lines).encode() + body]


@pytest.fixture
def public(monkeypatch):
    monkeypatch.setattr(downloading, "is_public", lambda address: True)


def test_a_private_address_is_not_asked_by_any_name():
    with Answering(content(b"x")) as server:
        port = server.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "user@127.0.0.1", "[::ffff:127.0.0.1]"):
            with pytest.raises(DataError, match="cannot be read"):
                download(f"http://{host}:{port}/a.png", MAX_BYTES, "row 1")
        assert server.times == 0


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch, public):
    """A name server that answers otherwise the second time changes nothing."""
    with Answering(content(b"x")) as server:
        port, asked = int(server.url.rpartition(":")[2]), []

        def getaddrinfo(host, *_, **__):
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        real = socket.getaddrinfo
        monkeypatch.setattr(downloading.socket, "getaddrinfo",
                            lambda host, *more, **named: (getaddrinfo if host == "name.example" else real)(host, *more, **named))  # fmt: skip
        assert download(f"http://name.example:{port}/a", MAX_BYTES, "row 1") == b"x"
        assert asked == ["name.example"]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "404 Not Found", "500 Error"])
def test_a_redirect_is_not_followed(public, status):
    with (
        Answering(content(b"secret")) as inner,
        Answering(content(b"", status, f"Location: {inner.url}/")) as server,
        pytest.raises(DataError, match=rf"answers {status[:3]} .*redirects are not followed"),
    ):
        download(server.url, MAX_BYTES, "row 1")
    assert inner.times == 0 and server.times == 1


def drips():
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    for _ in range(200):
        time.sleep(0.2)
        yield b"x"


def drips_headers():
    yield b"HTTP/1.1 200 OK\r\n"
    for i in range(90):
        time.sleep(0.4)
        yield b"X-%d: y\r\n" % i


def silent():
    time.sleep(30)
    yield b""


@pytest.mark.parametrize("answer", [drips, drips_headers, silent])
def test_time_is_bounded_however_slowly_it_comes(public, answer, monkeypatch):
    monkeypatch.setattr(downloading, "SECONDS", 0.5)
    began = time.perf_counter()
    with Answering(answer) as server, pytest.raises(DataError, match="cannot be read"):
        try:
            download(server.url, MAX_BYTES, "row 1")
        finally:
            assert time.perf_counter() - began < 20, "all that the server says takes more than 30 seconds"


def test_size_is_bounded_and_what_is_cut_off_is_refused(public):
    with Answering(content(b"x" * 2000)) as server:
        with pytest.raises(DataError, match="is larger than"):
            download(server.url, 1000, "row 1")
        assert len(download(f"{server.url}/a?b", 2000, "row 1")) == 2000
    for answer in (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"\0\0\0\0"):
        with Answering(lambda answer=answer: [answer]) as server, pytest.raises(DataError, match="cannot be read"):
            download(server.url, 1000, "row 1")


def test_a_picture_is_fetched_once(public):
    """However often it is wanted, and however many captions it has."""
    with Answering(content(picture())) as server:
        sources, tokens = [f"{server.url}/a.png"] * 3, [np.array([1, 2])] * 3
        processor = SimpleNamespace(__call__=None)
        rows = Pictures(
            sources.__getitem__, "tokens", tokens, np.ones(3), processor, lambda row: Access([], True), "row {}".format
        )
        for _ in range(2):
            assert [rows._read(row)[0] for row in range(3)] == [picture()] * 3
        assert server.times == 1


# ---------------------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from tasks.samples import shapes

    folder = tmp_path_factory.mktemp("captioner")
    shapes.save_small_captioner(folder, ["w1", "w2"])
    return folder


def test_predict_and_evaluate_read_beside_their_file_and_ask_nobody(model, place, public, monkeypatch, capsys):
    """Wherever they are called from; what is typed behind caption is the user's own."""
    monkeypatch.setattr(http.client.HTTPConnection, "connect", None)
    file = place / "i.csv"
    common = ["--model", str(model), "--task", "captioning", "--device", "cpu"]
    commands = ["predict", *common, "--input", str(file)], ["evaluate", *common, "--file", str(file)]
    for arguments in commands:
        file.write_text("file_name,text\nin.png,w1\n")
        assert run.main(arguments) == 0
        for name, words, flags in (
            ("http://127.0.0.1/a.png", "--allow-urls", []),
            ("../beside.png", "--image-folder", []),
            ("/dev/zero", "--image-folder", []),
            ("/dev/zero", "is not a regular file", ["--image-folder", "/dev"]),
        ):
            file.write_text(f"file_name,text\n{name},w1\n")
            code, line = fails([*arguments, *flags], capsys)
            assert code == 3 and words in line
        file.write_text("file_name,text\n../beside.png,w1\n")
        assert run.main([*arguments, "--image-folder", str(place.parent)]) == 0
    assert run.main(["caption", "--model", str(model), "--device", "cpu", str(place.parent / "beside.png")]) == 0


def test_a_picture_that_is_named_in_the_input_is_not_drawn_over(model, place, capsys):
    (place / "i.csv").write_text("file_name\nin.png\n")
    arguments = ["caption", "--model", str(model), "--device", "cpu", "--input", str(place / "i.csv")]
    code, line = fails([*arguments, "--picture", str(place / "in.png")], capsys)
    assert code == 2 and "in.png is the input" in line and (place / "in.png").read_bytes() == picture()


def test_names_of_pictures_are_no_formulas_if_asked_and_drive_no_terminal(model, place, capsys):
    name = "=in\x1b[2J.png"
    (place / name).write_bytes(picture())
    (place / "i.csv").write_text(f"file_name\n{name}\n")
    arguments = ["caption", "--model", str(model), "--device", "cpu", "--input", str(place / "i.csv")]
    assert run.main(arguments) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    for flags, quote in (([], ""), (["--excel-safe"], "'")):
        assert run.main([*arguments, "--output", str(place / "o.csv"), *flags]) == 0
        assert (place / "o.csv").read_text().splitlines()[1].startswith(quote + name)
    code, line = fails([*arguments, "--output", str(place / "i.csv")], capsys)
    assert code == 2 and "is the input" in line and (place / "i.csv").read_text() == f"file_name\n{name}\n"


def test_addresses_are_asked_for_where_the_user_says_so(model, place, public, capsys):
    (place / "i.csv").write_text("file_name,text\n")
    arguments = ["predict", "--model", str(model), "--task", "captioning", "--device", "cpu", "--input", str(place / "i.csv")]
    with Answering(content(picture())) as server:
        (place / "i.csv").write_text(f"file_name,text\n{server.url}/a.png,w1\n")
        assert fails(arguments, capsys)[0] == 3 and server.times == 0
        assert run.main([*arguments, "--allow-urls"]) == 0 and server.times == 1
        assert run.main(["caption", "--model", str(model), "--device", "cpu", f"{server.url}/a.png"]) == 0
        assert server.times == 2


def test_a_strangers_run_allows_nothing(model, tmp_path):
    """run.json may say what it will: local settings are the user's own."""
    import shutil

    from engine.artifacts.document import RunDocument, dumps

    shutil.copytree(model, tmp_path / "m")
    settings = {"task": "captioning", "allow_urls": True, "image_folder": "/", "num_beams": 3}
    (tmp_path / "m/run.json").write_text(dumps(RunDocument(settings=settings, status="finished")))
    assert json.loads((tmp_path / "m/run.json").read_text())["settings"]["allow_urls"]
    task, *_ = open_model(str(tmp_path / "m"), find, device="cpu")
    assert (task.options.allow_urls, task.options.image_folder, task.options.num_beams) == (False, None, 3)
