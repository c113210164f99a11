"""Predictions on their way to a file: ``OUTPUT.partial`` holds the rows so far, ``OUTPUT.progress`` how many count.

A window is appended and synced, then the progress is written anew: that rename is the one commit point, and what stands behind
it in the other file is cut off by ``--resume``. When all rows are there the file gets its name. Next: predict.py.
"""

from __future__ import annotations

import errno
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from engine import atomic
from engine.checked import expect, parse_object, read_bytes
from engine.console import note
from engine.errors import DataError, ResourceError, UsageError
from engine.locks import hold

CHUNK = 1 << 20
FORMAT = 1
MOST_WAIT = 5  # seconds


@dataclass(frozen=True)
class Progress:
    """What counts of a partial file: so many rows of ``total``, in so many bytes with this CRC-32.

    ``of``: what the predictions depend on, by what it is called. ``columns``: those of the file; None: no row is written.
    """

    of: Mapping[str, Any]
    total: int
    rows: int = 0
    num_bytes: int = 0
    crc: int = 0
    columns: list[str] | None = None

    @classmethod
    def read(cls, path: Path) -> Progress | None:
        """None: there is none. Raises DataError."""
        try:
            found = parse_object(read_bytes(path))
            if expect(found, "format", int) != FORMAT:
                raise ValueError(f"format {found['format']}")
            numbers = {name: expect(found, name, int, least=0) for name in ("total", "rows", "num_bytes", "crc")}
            columns = expect(found, "columns", list, optional=True)
            if columns is not None and not all(isinstance(name, str) for name in columns):
                raise ValueError("columns without names")
            return cls(of=expect(found, "of", dict), columns=columns, **numbers)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}): delete it, and begin again without --resume") from error

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT} | vars(self), ensure_ascii=True, indent=1) + "\n"


class Partial:
    """The two files beside ``output``."""

    def __init__(self, output: Path):
        self.output = output
        self.rows = output.with_name(f"{output.name}.partial")
        self.progress = output.with_name(f"{output.name}.progress")

    @property
    def both(self) -> str:
        return f"{self.rows} and {self.progress.name}"

    def check(self, resume: bool) -> Progress | None:
        """What an earlier call has left, if it is gone on from. Raises UsageError where it is there and nobody says so."""
        found = Progress.read(self.progress)
        if found is None and self.rows.exists():
            raise UsageError(f"{self.rows} is in the way, and no {self.progress.name} says what it is: move it, or delete it")
        if found is not None and not self.rows.exists():
            if resume and self.is_written(found):
                return found
            self.forget()
            return None
        if found is not None and not resume:
            raise UsageError(
                f"{self.rows} holds {found.rows:,} of {found.total:,} predictions of a call that was stopped: --resume goes on "
                f"from them; to begin again delete {self.both}"
            )
        return found

    def is_written(self, found: Progress) -> bool:
        """Was the call stopped between the last two things that it does?"""
        try:
            with open(self.output, "rb") as stream:
                return found.rows == found.total and crc_of(stream) == (found.num_bytes, found.crc)
        except OSError:
            return False

    def refuse_others(self, found: Progress, now: Mapping[str, Any]) -> None:
        """Raises UsageError where the predictions would not be those that the call would have written that was stopped."""
        for what in [*found.of, *(name for name in now if name not in found.of)]:
            before, today = found.of.get(what), now.get(what)
            if before != today:
                is_short = all(len(str(each)) < 60 for each in (before, today))
                how = f" ({before} then, {today} now)" if is_short else ""
                raise UsageError(
                    f"--resume: {what} is not as it was when {self.rows} was begun{how}: call predict as then, or delete "
                    f"{self.both} to begin again"
                )

    def forget(self) -> None:
        """What an earlier call has left of the second file."""
        self.progress.unlink(missing_ok=True)

    @contextmanager
    def writing(self, progress: Progress) -> Iterator[Writer]:
        """Rows are added behind those of ``progress``; the files stay unless ``finish`` was called. Raises ResourceError."""
        with self.naming():
            if progress.rows == 0:
                atomic.write(self.progress, progress.to_json())  # first: a file without it is not ours
            stream = atomic.appending(self.rows)
        with stream:
            with self.naming():
                self.lock(stream)
                self.cut(stream, progress)
            yield Writer(self, stream, progress)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """What the disk refuses, in a line. Raises ResourceError."""
        try:
            yield
        except OSError as error:
            raise ResourceError(f"--output {self.rows} cannot be written: {error.strerror}; what is there stands") from error

    def lock(self, stream: BinaryIO) -> None:
        """For this process alone; those of one that was killed take a moment to notice. Raises UsageError."""
        for _ in range(int(MOST_WAIT / 0.1)):
            try:
                return hold(stream)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    return  # a file system without locks
                time.sleep(0.1)
        raise UsageError(f"{self.rows} is being written by another process: wait for its end, or stop it")

    def cut(self, stream: BinaryIO, progress: Progress) -> None:
        """Cut off what does not count. Raises DataError where what counts is not there, or not as it was."""
        with open(self.rows, "rb") as written:
            found = crc_of(written, progress.num_bytes)
        if found != (progress.num_bytes, progress.crc):
            raise DataError(f"{self.rows} is not as it was left: delete {self.both}, and begin again without --resume")
        stream.truncate(progress.num_bytes)
        stream.seek(0, os.SEEK_END)


class Writer:
    """Adds windows to a partial file."""

    def __init__(self, partial: Partial, stream: BinaryIO, progress: Progress):
        self.partial, self.stream, self.progress = partial, stream, progress

    def add(self, text: str, rows: int, columns: Sequence[str]) -> None:
        """A window: from here on it is there, whatever happens. Raises ResourceError."""
        content, before = text.encode(), self.progress
        after = replace(
            before,
            rows=before.rows + rows,
            num_bytes=before.num_bytes + len(content),
            crc=zlib.crc32(content, before.crc),
            columns=list(columns),
        )
        with self.partial.naming():
            self.stream.write(content)
            self.stream.flush()
            os.fsync(self.stream.fileno())
            atomic.write(self.partial.progress, after.to_json())
        self.progress = after

    def finish(self) -> None:
        """The file gets its name. Raises ResourceError."""
        with self.partial.naming():
            if os.name == "nt":  # where no file is renamed that is open
                self.stream.close()
            atomic.move(self.partial.rows, self.partial.output)
            self.partial.forget()


def crc_of(stream: BinaryIO, most: int | None = None) -> tuple[int, int]:
    """How many bytes there are, up to ``most``, and their CRC-32."""
    number, crc = 0, 0
    while chunk := stream.read(CHUNK if most is None else min(CHUNK, most - number)):
        number, crc = number + len(chunk), zlib.crc32(chunk, crc)
    return number, crc


def begun(partial: Partial, found: Progress | None, now: Progress, resume: bool) -> Progress:
    """Where to begin: at the first row, or behind those of an earlier call. Raises UsageError where that was another."""
    if found is None:
        if resume:
            note(f"nothing to resume: there is no {partial.rows.name} beside {partial.output}")
        return now
    partial.refuse_others(found, now.of)
    if found.total != now.total:
        raise DataError(f"{partial.progress} is damaged: delete {partial.both}, and begin again without --resume")
    note(f"goes on behind row {found.rows:,} of {found.total:,}, which is in {partial.rows}")
    return found
