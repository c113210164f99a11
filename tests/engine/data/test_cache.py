"""Entries are believed only as they were written; whatever else happens to the cache, the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from engine.data import cache
from engine.data.cache import UNFINISHED, cache_folder, entry, entry_or_temporary, held_folder

FILES = {"ids.npy": bytes(range(200)), "meta.json": b"{}", "empty": b""}


class Writing:
    """Writes FILES and counts how often it was asked to."""

    def __init__(self):
        self.times = 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        for name, content in FILES.items():
            (folder / name).write_bytes(content)


def made(write=None) -> Path:
    folder = entry("kind", "key", write or Writing())
    assert folder == cache_folder() / "kind" / "key"
    return folder


def names() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "kind").iterdir())


def assert_whole(folder: Path) -> None:
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != cache.MANIFEST} == FILES
    assert names() == ["key"]


def test_an_entry_is_made_once():
    write = Writing()
    assert made(write) == made(write)
    assert write.times == 1
    assert_whole(made())


def test_every_flipped_bit_is_detected():
    """Of any file, the manifest included."""
    folder, write = made(), Writing()
    generator = np.random.default_rng(0)
    flips = 0
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for at in range(len(content)):
            damaged = bytearray(content)
            damaged[at] ^= 1 << generator.integers(8)
            path.write_bytes(damaged)
            made(write)
            flips += 1
            assert write.times == flips, (path.name, at)
            assert path.read_bytes() == content
    assert flips > 300
    assert_whole(folder)


@pytest.mark.parametrize("what", ["cut", "gone", "one more", "a folder in it", "a link", "a pipe", "no manifest", "a file"])
def test_what_is_not_as_it_was_written_is_made_anew(what):
    folder = made()
    ids = folder / "ids.npy"
    if what == "cut":
        ids.write_bytes(ids.read_bytes()[:-1])
    elif what == "one more":
        (folder / "types.npy").write_bytes(b"1")
    elif what == "a folder in it":
        (folder / "more").mkdir()
    elif what == "no manifest":
        (folder / cache.MANIFEST).unlink()
    elif what == "a file":
        os.rename(folder, cache_folder() / "moved")
        folder.write_text("")
    else:
        os.rename(ids, cache_folder() / "ids.npy")
        if what == "a link":
            ids.symlink_to(cache_folder() / "ids.npy")
        if what == "a pipe":
            os.mkfifo(ids)
    write = Writing()
    made(write)
    assert write.times == 1
    assert_whole(folder)


def test_an_entry_under_another_key_is_not_believed():
    os.rename(made(), cache_folder() / "kind" / "other")
    write = Writing()
    entry("kind", "other", write)
    assert write.times == 1


def test_another_users_entry_is_not_believed_nor_is_anything_put_beside_it(monkeypatch, capsys):
    folder = made()
    monkeypatch.setattr(cache.os, "geteuid", lambda: 12345)
    write = Writing()
    assert entry("kind", "key", write) is None
    assert write.times == 0
    assert "belongs to another user): going on without it" in capsys.readouterr().err
    assert_whole(folder)


def test_an_own_entry_is_found_in_a_cache_that_cannot_be_written(monkeypatch):
    made()
    monkeypatch.setattr(cache, "held_folder", None)
    made()


def test_a_full_disk_is_said_once_and_leaves_nothing(capsys):
    def write(folder: Path) -> None:
        Writing()(folder)
        raise OSError(28, "No space left on device")

    assert entry("kind", "key", write) is entry("kind", "key", write) is None
    assert capsys.readouterr().err.count("(No space left on device): going on without it") == 1
    assert names() == []


def test_what_is_no_fault_of_the_disk_is_raised_and_leaves_nothing():
    with pytest.raises(KeyboardInterrupt):
        entry("kind", "key", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    assert names() == []


def test_without_a_cache_a_temporary_folder_will_do(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLAINLOOP_CACHE", str(tmp_path / "file"))
    folder = entry_or_temporary("kind", "key", Writing())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_another_process_may_come_first():
    """Its entry stands, ours is thrown away."""

    def write(folder: Path) -> None:
        inode.append(made().stat().st_ino)
        Writing()(folder)

    inode: list[int] = []
    assert made(write).stat().st_ino == inode[0]
    assert_whole(made())


def test_all_is_synced_before_it_gets_its_name(monkeypatch):
    """After a power cut a name must not stand before its contents."""
    events: list[str] = []
    real_sync, real_rename = cache.sync, os.rename
    monkeypatch.setattr(cache, "sync", lambda path: (events.append(path.name), real_sync(path)))
    monkeypatch.setattr(cache.os, "rename", lambda *paths: (events.append("rename"), real_rename(*paths)))
    made()
    at = events.index("rename")
    assert {*FILES, cache.MANIFEST} < {*events[:at]} and events[at - 1].startswith(UNFINISHED)
    assert events[at + 1 :] == ["kind"]


MAKES = """
import sys, time
from pathlib import Path
from engine.data.cache import entry
def write(folder):
    (folder / "half").write_text("x")
    print("writing", flush=True)
    time.sleep(60)
entry("kind", "key", write)
"""


def test_what_a_killed_process_has_left_is_swept_and_what_a_living_one_holds_is_not():
    process = subprocess.Popen([sys.executable, "-c", MAKES], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"writing\n"
        [half] = names()
        entry("kind", "other", Writing())
        assert names() == [half, "other"], "it is still being written"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert names() == [half, "other"]
    entry("kind", "another", Writing())
    assert names() == ["another", "other"]


def test_where_no_lock_can_tell_a_day_is_waited():
    folder = cache_folder() / "kind"
    for name, age in (("old", 2), ("new", 0)):
        (folder / f"{UNFINISHED}{name}").mkdir(parents=True)
        os.utime(folder / f"{UNFINISHED}{name}", (time.time() - age * 86400,) * 2)
    with held_folder("kind"):
        assert len(names()) == 2
    assert names() == [f"{UNFINISHED}new"]
