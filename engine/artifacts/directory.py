"""The directory of a run: who may write there, what it holds, whether that is the same run.

``run.json`` says what was asked for and, with the status ``finished``, that everything else is there. Next: fit.py, which
fills the directory; store.py, the folder ``checkpoints`` in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.artifacts.document import DataRecord, RunDocument, dumps, loads
from engine.artifacts.report import MISTAKES
from engine.checked import read_bytes
from engine.checkpoint.store import clean, discard_all, steps_in, sync_directory
from engine.config import TrainConfig
from engine.errors import DataError, ModelError, ResourceError, UsageError
from engine.model import lora
from engine.record.profiling import FOLDER
from engine.settings.fields import differences, user_path

TEMPORARY = ".tmp-model-"


def claim(directory: Path, config: TrainConfig, settings: dict[str, Any], kinds: Sequence[type[Any]]) -> None:
    """May this run write here? Raises UsageError with the way out; ``--overwrite`` empties what a run has left.

    ``kinds``: the dataclasses that ``settings`` come from.
    """
    for path in (directory, *directory.parents):
        if path.exists() and not path.is_dir():
            raise UsageError(f"--output-dir {directory}: {path} is a file")
    model = user_path(settings["model"])
    if holds_unfinished(model):
        raise UsageError(f"--model {model} holds an unfinished run, whose weights are not those of its end: --resume it first")
    if model.is_dir() and (directory.resolve() == model.resolve() or directory.resolve() in model.resolve().parents):
        raise UsageError(f"--model {model} lies inside --output-dir {directory}, which will be written: choose another")
    if directory.is_dir() and os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise ResourceError(
            f"--output-dir {directory} lies on a read-only file system: mount it for writing, or choose another"
        )
    if directory.is_dir() and not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(f"--output-dir {directory} is not writable: choose another")
    if directory.is_dir() and not all(is_leftover(path) for path in directory.iterdir()) and not holds_run(directory):
        raise UsageError(f"--output-dir {directory} is not empty and holds no run: choose another")
    if not config.overwrite:  # with it, what is there goes when everything else has been checked
        is_unfinished = not is_finished(directory) and bool(steps_in(directory / "checkpoints"))
        if is_unfinished and not config.resume:
            raise UsageError(f"{directory} holds an unfinished run: --resume continues it, --overwrite starts again")
        if is_finished(directory) or (is_unfinished and (directory / "run.json").exists()):
            there = read_run(directory).settings
            compare(directory, "task", {"task": there.get("task")}, {"task": settings["task"]})  # else most settings differ
            compare(directory, "settings", there, settings, kinds)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
        raise (ResourceError if full else UsageError)(f"--output-dir {directory} cannot be made: {error.strerror}") from error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory for one run. A POSIX record lock: it ends with this process, and workers do not inherit it."""
    with open(directory / ".lock", "w") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{directory} is in use by another run: wait for it, or choose another --output-dir") from error
        yield


def remove_leftovers(directory: Path) -> None:
    """What a killed process has left half-done."""
    clean(directory / "checkpoints")
    for path in directory.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_run(directory: Path, keep: Collection[str] = ()) -> None:
    """run.json goes first: without it there is no finished run. metrics.jsonl, emptied later, marks the directory as ours.

    ``keep``: of the folders beside it, those that are written to again.
    """
    (directory / "run.json").unlink(missing_ok=True)
    for path in [*directory.glob("*.safetensors*"), directory / lora.ADAPTER]:  # another run may write others
        path.unlink(missing_ok=True)
    discard_all(directory / "checkpoints")
    for name in {FOLDER, "tensorboard"}.difference(keep):
        shutil.rmtree(directory / name, ignore_errors=True)
    (directory / MISTAKES).unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Something that a killed run has left of what it was about to write; removed when the next one begins."""
    return path.name in (".lock", ".run.json.tmp") or path.name.startswith(TEMPORARY)


def holds_run(directory: Path) -> bool:
    """Only what is surely ours counts: a folder named checkpoints alone does not."""
    ours = any((directory / name).exists() for name in ("run.json", "metrics.jsonl", ".lock"))
    return ours or bool(steps_in(directory / "checkpoints"))


def holds_unfinished(directory: Path) -> bool:
    """A run of ours that has not come to its end; a foreign run.json says nothing."""
    try:
        return (directory / "run.json").is_file() and not is_finished(directory)
    except UsageError:
        return False


def is_finished(directory: Path) -> bool:
    return (directory / "run.json").exists() and read_run(directory).status == "finished"


def finished_before(directory: Path, config: TrainConfig, document: RunDocument) -> dict[str, Any] | None:
    """The metrics of the finished run there, which need not be repeated. Raises DataError if it had other data."""
    if config.overwrite or not is_finished(directory):
        return None
    before = read_run(directory)
    compare_data(directory, before.data, document.data)
    return dict(before.metrics or {})


def compare(
    directory: Path, what: str, old: Mapping[str, Any], new: Mapping[str, Any], kinds: Sequence[type[Any]] = ()
) -> None:
    """Raises UsageError with the difference between the run there and this one. ``kinds``: as ``differences`` takes them."""
    if changed := differences(old, new, *kinds):
        raise UsageError(
            f"{directory} holds a run with other {what} ({'; '.join(changed)}): choose another --output-dir, or --overwrite"
        )


def compare_data(directory: Path, old: DataRecord, new: DataRecord) -> None:
    """Raises DataError when the tokens are not those of the run there: which split, and how many rows then and now."""
    splits = [split for split in dict.fromkeys([*old.fingerprints, *new.fingerprints])
              if old.fingerprints.get(split) != new.fingerprints.get(split)]  # fmt: skip
    if splits:
        sizes = [f"{s}: other rows ({old.num_examples.get(s, 0)} then, {new.num_examples.get(s, 0)} now)" for s in splits]
        raise DataError(
            f"the data, or the tokenizer, have changed since the run in {directory} began ({'; '.join(sizes)}): "
            "put them back, or choose another --output-dir, or --overwrite"
        )


def read_run(directory: Path) -> RunDocument:
    """run.json. Raises UsageError if it cannot be read, ModelError if a newer version wrote it."""
    path = directory / "run.json"
    try:
        return loads(read_bytes(path))
    except ModelError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not a run's ({error}): choose another directory, or --overwrite the run there") from error


def write_run(directory: Path, document: RunDocument) -> None:
    """Write run.json, which is there in full or as it was before."""
    temporary = directory / ".run.json.tmp"
    temporary.write_text(dumps(document), encoding="utf-8")
    with open(temporary, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, directory / "run.json")
    sync_directory(directory)
