"""What a server has been asked, as numbers, one line for each input: what ``monitor`` compares with the profile of a run.

    {"profile_log": 1, "weights": "...", "plainloop": "0.1.0"}
    {"time": "...", "tokens": 12, "characters": 40, ..., "predicted label": "b", "confidence": 0.93, "projected": [...]}

No text stands in it unless it is asked for. Lines are appended, a batch at a time, so that a kill loses that being written;
half a line is cut off when the file is opened again, and left out when it is read. A file that has grown to LARGEST bytes
gets another name (``before``), in place of the one that had it: there are two, and what is older is forgotten.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine import VERSION, atomic
from engine.checked import expect, is_a, open_regular, parse_object, read_bytes
from engine.console import note
from engine.data.read import Reads, ids_of
from engine.errors import DataError, ResourceError, UsageError
from engine.findings.profile import COUNTED, SEED, Moments, Numbers, Profile, Shares, Vocabulary
from engine.locks import hold
from engine.task import Observed

FORMAT, KEY = 1, "profile_log"
LARGEST = 16 << 20  # bytes of a file, of which there are two
LABEL, PROJECTED = "predicted label", "projected"
NUMBERS = ("tokens", "characters", "unknown tokens", "vocabulary", "confidence", "predicted value")


def before(path: Path) -> Path:
    """``inputs.jsonl``: ``inputs.before.jsonl``, which holds what is older."""
    return path.with_suffix(f".before{path.suffix}")


def head_of(path: Path) -> dict[str, Any] | None:
    """The first line; None: this is no log of a server. Raises OSError, ValueError."""
    with open_regular(path) as stream:
        line = stream.readline(1 << 12)
    if not line.startswith(f'{{"{KEY}"'.encode()) or not line.endswith(b"\n"):
        return None
    found = parse_object(line)
    if (number := expect(found, KEY, int)) != FORMAT:
        raise ValueError(f"its format is {number}, and this version reads {FORMAT}")
    expect(found, "weights", str)
    return found


class InputLog:
    """The log of a server, open. Raises UsageError, ResourceError.

    ``weights``: the hash of those of the model; ``vocabulary``: that of the run, which rows are compared with;
    ``keeps_inputs``: the inputs themselves are written, too.
    """

    def __init__(self, path: Path, weights: str, vocabulary: Vocabulary | None, *, keeps_inputs: bool = False):
        self.path, self.weights, self.vocabulary, self.keeps_inputs = path, weights, vocabulary, keeps_inputs
        self.stream: BinaryIO | None = None
        try:
            self.stream = self._opened()
        except BlockingIOError as error:
            raise UsageError(f"--profile-log {path} is written by another server: name another file") from error
        except ValueError as error:
            raise UsageError(f"--profile-log {path} is there, and not such a log ({error}): name another file") from error
        except OSError as error:
            raise ResourceError(f"--profile-log {path} cannot be written: {error.strerror or error}") from error

    def _opened(self) -> BinaryIO:
        """Held by this process alone, with a head, and without half a line at its end. Raises OSError, ValueError."""
        head = f"{json.dumps({KEY: FORMAT, 'weights': self.weights, 'plainloop': VERSION})}\n".encode()
        stream = atomic.appending(self.path)
        try:
            hold(stream)
            content = read_bytes(self.path)
            whole = content.rfind(b"\n") + 1
            if not whole and not head.startswith(content):
                raise ValueError("its first line is another")
            if whole and (found := head_of(self.path)) is None:
                raise ValueError("its first line is another")
            if whole and found and found["weights"] != self.weights:
                raise ValueError("it is of another model")
            stream.truncate(whole)
            stream.seek(0, os.SEEK_END)
            if not whole:
                stream.write(head)
                stream.flush()
        except BaseException:
            stream.close()
            raise
        return stream

    def add(self, inputs: Sequence[Any], reads: Reads, observe: Callable[[], Observed]) -> None:
        """A line for each input. Whatever goes wrong is said once, and then there is no log: a server is worth more than it."""
        if self.stream is None:
            return
        try:
            lines = (f"{json.dumps(line, allow_nan=False)}\n" for line in self._lines(inputs, reads, observe()))
            content = "".join(lines).encode()
            if len(content) > LARGEST:
                return
            if self.stream.tell() + len(content) > LARGEST:
                self._begin_anew()
            self.stream.write(content)
            self.stream.flush()
        except Exception as error:  # of any kind: a task's own, a full disk
            self.close()
            what = error.strerror if isinstance(error, OSError) else type(error).__name__
            note(f"warning: --profile-log {self.path} ends here, and the server goes on ({what})")

    def _begin_anew(self) -> None:
        """The file becomes the older one. It is let go first: Windows renames no open file."""
        assert self.stream is not None
        self.stream.close()
        atomic.move(self.path, before(self.path))
        self.stream = self._opened()

    def _lines(self, inputs: Sequence[Any], reads: Reads, observed: Observed) -> Iterator[dict[str, Any]]:
        now, ids = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), ids_of(reads, len(inputs))
        surprise = None if ids is None or self.vocabulary is None else self.vocabulary.surprise(ids, within=False)
        for row, item in enumerate(inputs):
            line: dict[str, Any] = {"time": now}
            if ids is not None:
                line["tokens"] = len(ids[row])
            line["characters"] = observed.characters[row]
            if ids is not None and observed.unknown is not None:
                line["unknown tokens"] = shortened(float((ids[row] == observed.unknown).mean()))
            if surprise is not None:
                line["vocabulary"] = shortened(surprise[row])
            if observed.labels:
                line[LABEL] = observed.labels[row]
            line[observed.number] = shortened(observed.numbers[row])
            if row in reads.projected:
                line[PROJECTED] = [shortened(value) for value in reads.projected[row]]
            yield line | ({"input": item} if self.keeps_inputs else {})

    def close(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            with suppress(OSError):  # of a full disk, once more
                stream.close()


def shortened(value: float) -> float:
    return float(f"{value:.7g}")


def read_log(path: Path, weights: str, *, most: int = COUNTED) -> tuple[Profile, int]:
    """The profile of a log, what is older included, and how many inputs it is of. ``most``: in each sample.

    Raises DataError for what is no log, or of another model than that with these ``weights``.
    """
    files = [each for each in (before(path), path) if each == path or each.exists()]
    lines = [line for file in files for line in lines_of(file, weights)]
    if not lines:
        raise DataError(f"{path} has no inputs yet")
    lines = [lines[i] for i in np.random.default_rng(SEED).permutation(len(lines))]  # the first of them are the sample
    of = path.name
    numbers = {
        name: Numbers.from_values(of, np.array([line[name] for line in lines if name in line]), most)
        for name in NUMBERS
        if any(name in line for line in lines)
    }
    labels = Counter(line[LABEL] for line in lines if LABEL in line)
    vectors = [line[PROJECTED] for line in lines if PROJECTED in line]
    embedding = Moments.from_values(of, np.array(vectors)) if vectors and len({*map(len, vectors)}) == 1 else None
    return Profile(numbers, {LABEL: Shares.from_counts(of, labels)} if labels else {}, None, weights, embedding), len(lines)


def lines_of(path: Path, weights: str) -> Iterator[Mapping[str, Any]]:
    """Those of one file, but for its head and for half a line at its end. Raises DataError."""
    number = 1
    try:
        if (head := head_of(path)) is None:
            raise ValueError("its first line is another")
        if head["weights"] != weights:
            raise DataError(f"{path} was written by a server of another model than this: compare it with its own")
        content = read_bytes(path)
        for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines()[1:], start=2):  # noqa: B007 - for errors
            yield checked(parse_object(line))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path}, line {number}: this is not what serve --profile-log writes ({error})") from error


def checked(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises ValueError for what no server writes."""
    for name in NUMBERS:
        if name in line:
            expect(line, name, float)
    if LABEL in line:
        expect(line, LABEL, str)
    values = expect(line, PROJECTED, list, default=[])
    if len(values) > COUNTED or not all(is_a(value, float) for value in values):
        raise ValueError(f"{PROJECTED} are no numbers")
    return line
