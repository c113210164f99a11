"""Rows D1 to D10: the cache, pictures named in the data, and data that lead to a quiet wrong figure."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

from bench.bad_input.case import Attempts, Place, call, row
from bench.bad_input.forms import HEADER, labels
from bench.toys import tiny
from engine.data.cache import cache_folder

WITHOUT = "going on without it"


@row("D1", "a flipped bit, and zeros, in cached tokens", 0, "saved to")
def _(at: Place) -> Attempts:
    with patch.dict(os.environ, PLAINLOOP_CACHE=str(at.folder / "cache")):
        assert call(at.train()).code == 0
        first = (at.out / "model.safetensors").read_bytes()
        for keep in (-1, 128):  # of the bytes
            for path in cache_folder().glob("tokens/*/ids.npy"):
                content = path.read_bytes()
                path.write_bytes(
                    content[:-1] + bytes([content[-1] ^ 1]) if keep < 0 else content[:keep].ljust(len(content), b"\0")
                )
            yield at.train("--overwrite")
            assert (at.out / "model.safetensors").read_bytes() == first, "the damaged tokens were believed"


@row("D2", "a cache that cannot be written", 0, WITHOUT)
def _(at: Place) -> Attempts:
    with patch.dict(os.environ, PLAINLOOP_CACHE=at.write("file", "")):
        yield at.train()


@row("D3", "a cache of another user", 0, WITHOUT)
def _(at: Place) -> Attempts:
    with patch.dict(os.environ, PLAINLOOP_CACHE=str(at.folder / "cache")), patch("engine.data.cache.os.geteuid", lambda: 12345):
        yield at.train()


@row("D4", "a full cache disk", 0, WITHOUT)
def _(at: Place) -> Attempts:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        patch.dict(os.environ, PLAINLOOP_CACHE=str(at.folder / "cache")),
        patch("engine.data.tokens.np.save", side_effect=full),
    ):
        yield at.train()
    assert list((at.folder / "cache/tokens").iterdir()) == [], "something is left"


def captioned(at: Place, name: str, folder: Path | None = None) -> list[str]:
    """Predict a file in ``folder`` that names this picture."""
    from tasks.samples.shapes import save_small_captioner

    if not (at.folder / "captioner").exists():
        (at.folder / "captioner").mkdir()
        save_small_captioner(at.folder / "captioner", ["w1"])
    folder = folder or at.folder / "data"
    folder.mkdir(exist_ok=True)
    (folder / "i.csv").write_text(f"file_name\n{name}\n")
    return at.predict("--task", "captioning", "--input", str(folder / "i.csv"), model=at.folder / "captioner")


@row("D5", "a picture that is a pipe, a device, another's file, or 1 TiB", 3, "")
def _(at: Place) -> Attempts:
    with tempfile.TemporaryDirectory() as name:  # not where the judge reads all files
        folder = Path(name)
        os.mkfifo(folder / "pipe.png")
        (folder / "link.png").symlink_to("/dev/zero")
        with open(folder / "sparse.png", "wb") as stream:
            stream.truncate(1 << 40)
        for picture in ("pipe.png", "link.png", "sparse.png", "/etc/hostname", "../data2.png", "/dev/zero"):
            yield captioned(at, picture, folder)


@row("D6", "a picture at an address", 3, "")
def _(at: Place) -> Attempts:
    for flags in ([], ["--allow-urls"]):
        for address in ("http://127.0.0.1:9/a.png", "http://localhost:9/", "http://[::1]:9/", "http://169.254.169.254/latest/"):
            yield [*captioned(at, address), *flags]


@row("D7", "a picture of 161 Mi pixels in 21 kB", 3, "at most 64 Mi are decoded")
def _(at: Place) -> Attempts:
    from PIL import Image

    (at.folder / "data").mkdir()
    Image.new("1", (13000, 13000)).save(at.folder / "data/bomb.png")
    yield captioned(at, "bomb.png")


labels("D8", "a missing label in a part of the file", "t.jsonl, row 15: the label is missing", [*"abababababababa"[:14], None, "a"],
       more=["--eval-fraction", "0.5"])  # fmt: skip


@row("D9", "a model that was replaced in place", 2, "holds a run with other files of the model")
def _(at: Place) -> Attempts:
    model = at.model()
    arguments = at.train("--model", str(model))
    assert call(arguments).code == 0
    tiny.save_model(model, tiny.bert(seed=1))
    yield arguments


@row("D10", "labels that look alike", 0, "look alike, and are two classes")
def _(at: Place) -> Attempts:
    for one, other in (("1", "01"), ("caf\u00e9", "cafe\u0301"), ("yes", "y\u200bes")):
        yield at.on("t.csv", HEADER + "".join(f"w{i},{(one, other)[i % 2]}\n" for i in range(16)), "--overwrite")
