"""Rows 77 to 90: output directories, checkpoints and resuming, disks that fill up."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from bench.bad_input.case import Attempts, Place, as_nobody, call, edit, files_in, newest, reseal, row
from bench.bad_input.forms import each
from engine.checkpoint.store import steps_in


@row(77, "output directory not empty", 2, "is not empty and holds no run: choose another")
def _(at: Place) -> Attempts:
    at.write("out/thesis.tex", "nine years of work")
    yield at.train()
    yield at.train("--overwrite")
    yield at.train("--resume")


@row(78, "output directory not writable", 2, "--output-dir /tmp/")
def _(at: Place) -> Attempts:
    with as_nobody() as folder:
        usual = ("--model", "none")  # nobody may read the usual one
        results = [call(at.train("--output-dir", str(path), *usual)) for path in (folder, folder / "below")]
    for result in results:
        yield result


@row(79, "output directory is a file", 2, "is a file")
def _(at: Place) -> Attempts:
    yield at.train("--output-dir", at.write("out", "mine"))
    yield at.train("--output-dir", str(at.out / "below"))


@row(80, "output directory in use by a live run", 2, "is in use by another run")
def _(at: Place) -> Attempts:
    at.write("out/.lock", "")
    path = str(at.out / ".lock")
    hold = f"import fcntl, sys; f = open({path!r}, 'w'); fcntl.lockf(f, 2); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        yield at.train()


@row(81, "resume with other settings", 2, "learning_rate: 2e-05 -> 0.001")
def _(at: Place) -> Attempts:
    yield at.resume("--learning-rate", "1e-3")
    shutil.rmtree(at.out)
    shutil.copytree(at.home / "finished", at.out)
    yield at.train("--learning-rate", "1e-3")


each(82, "resume with other data", 2, "train_file: ", lambda at: [at.resume("--train-file", str(at.home / "eval.csv"))])
each(83, "resume with another model", 2, "model: ", lambda at: [at.resume("--model", str(at.home / "finished"))])


@row(84, "resume on another device (ranks: with DDP)", 0, "resume: same data order, not bitwise")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    edit(at.out / "run.json", device="cuda:0 (another)")
    yield arguments


@row(85, "newest checkpoint half written", 0, "is damaged; trying an older checkpoint")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    weights = newest(at) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    result = yield arguments
    assert "from step 4 of 6" in result.out, result.out


@row(86, "all checkpoints damaged", 4, "is whole: give --overwrite to start from the beginning")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    for step in steps_in(at.out / "checkpoints"):
        (at.out / f"checkpoints/step-{step:08d}/state.json").write_text("{}")
    (at.out / "run.json").read_text()
    yield arguments


@row(87, "checkpoint of a newer version", 4, "has format 99, this version reads up to 2: update")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    reseal(newest(at), format=99)
    yield arguments


@row(88, "already finished", 0, "training skipped")
def _(at: Place) -> Attempts:
    shutil.copytree(at.home / "finished", at.out)
    before = files_in(at.out)
    yield at.train()
    assert before == files_in(at.out), "a finished run was touched"


@row(89, "disk full", 6, "", begun=True)
def _(at: Place) -> Attempts:
    small = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)  # type: ignore[attr-defined]
    with patch("shutil.disk_usage", return_value=small):
        before = files_in(at.folder)
        result = yield at.train()
        assert "are free" in result.err and before == files_in(at.folder), "known before the start"
    shutil.rmtree(at.out)
    with failing_disk(errno.ENOSPC):
        yield at.resume_earlier()
    assert steps_in(at.out / "checkpoints"), "the older checkpoint is gone"
    assert call(at.resume()).code == 0, "and the run cannot go on"


@row(90, "quota reached, or the disk fails", 6, "", begun=True)
def _(at: Place) -> Attempts:
    for number in (errno.EDQUOT, errno.EIO):
        shutil.rmtree(at.out, ignore_errors=True)
        with failing_disk(number):
            yield at.resume_earlier()
        assert steps_in(at.out / "checkpoints"), "the older checkpoint is gone"


# ---------------------------------------------------------------------------------------------------------- helpers


@contextlib.contextmanager
def failing_disk(number: int) -> Iterator[None]:
    """What is written below a checkpoints folder does not reach the disk."""
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if "/checkpoints/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    with patch("os.fsync", failing):
        yield
