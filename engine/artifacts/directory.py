"""The directory of a run: who may write there, what it holds, whether that is the same run.

``run.json`` says what was asked for and, with the status ``finished``, that the model is there. A directory is a run's if its
run.json is one of ours, or a checkpoint of ours lies in it; another is never written to unless it is empty. Next: fit.py,
which fills the directory; store.py, the folder ``checkpoints`` in it.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine import atomic
from engine.artifacts.document import DataRecord, RunDocument, dumps, loads
from engine.artifacts.report import MISTAKES, SLICES
from engine.checked import is_half, read_bytes
from engine.checkpoint.store import clean, discard_all, sha256, steps_in
from engine.config import TrainConfig
from engine.console import counted
from engine.data.places import OF_DATA, named_files
from engine.errors import DataError, ModelError, ResourceError, UsageError, UserError
from engine.findings.document import NAME as FINDINGS
from engine.findings.profile import NAME as DATA_PROFILE
from engine.findings.rows import NAME as ROWS
from engine.locks import hold
from engine.record.profiling import FOLDER
from engine.settings.fields import differences, user_path

UPDATE = "update.json"  # what an update has decided
FOLDERS = ("checkpoints", FOLDER, "tensorboard", "wandb")  # of a run
FILES = (
    "run.json",
    "metrics.jsonl",
    "README.md",
    "report.html",
    ".lock",
    MISTAKES,
    SLICES,
    FINDINGS,
    ROWS,
    DATA_PROFILE,
    UPDATE,
)
WEIGHTS = re.compile(r"(adapter_)?model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?|adapter_config\.json")
MODEL_FILE = re.compile(  # what transformers, peft and sentence-transformers save; a task may save more: RunDocument.files
    rf"{WEIGHTS.pattern}|(config|generation_config|modules)\.json|"
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|merges|chat_template)\.(json|txt|jinja|model)|"
    r"(spiece|sentencepiece\.bpe|spm)\.model|(pre|video_pre)?processor_config\.json|"
    r"(config_sentence_transformers|sentence_\w+_config)\.json|\d_\w+/config\.json"
)


def is_own_name(name: str) -> bool:
    """Is this what a file of a run or of its model is called, as a name within the directory? Another may be the user's."""
    return name in FILES or MODEL_FILE.fullmatch(name) is not None


def claim(directory: Path, config: TrainConfig, settings: dict[str, Any], kinds: Sequence[type[Any]]) -> None:
    """May this run write here? Raises UsageError with the way out; ``--overwrite`` empties what a run has left.

    ``kinds``: the dataclasses that ``settings`` come from.
    """
    refuse_no_text(directory, settings)
    for path in (directory, *directory.parents):
        if path.exists() and not path.is_dir():
            raise UsageError(f"--output-dir {directory}: {path} is a file")
    model = user_path(settings["model"])
    if holds_unfinished(model):
        raise UsageError(f"--model {model} holds an unfinished run, whose weights are not those of its end: --resume it first")
    if model.is_dir() and (directory.resolve() == model.resolve() or directory.resolve() in model.resolve().parents):
        raise UsageError(f"--model {model} lies inside --output-dir {directory}, which will be written: choose another")
    refuse_own_data(directory, settings)
    if hasattr(os, "statvfs") and directory.is_dir() and os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise ResourceError(
            f"--output-dir {directory} lies on a read-only file system: mount it for writing, or choose another"
        )
    if directory.is_dir() and not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(f"--output-dir {directory} is not writable: choose another")
    refuse_in_the_way(directory)
    if directory.is_dir() and not all(is_leftover(path) for path in directory.iterdir()) and not holds_run(directory):
        raise UsageError(f"--output-dir {directory} is not empty and holds no run: choose another")
    if not config.overwrite:  # with it, what is there goes when everything else has been checked
        is_unfinished = not is_finished(directory) and bool(steps_in(directory / "checkpoints"))
        if is_unfinished and not config.resume:
            raise UsageError(f"{directory} holds an unfinished run: --resume continues it, --overwrite starts again")
        if is_finished(directory) or (is_unfinished and (directory / "run.json").exists()):
            there = read_run(directory).settings
            compare(directory, "task", {"task": there.get("task")}, {"task": settings["task"]})  # else most settings differ
            if is_longer(settings, there):
                there, before = {**there, "epochs": settings["epochs"]}, there["epochs"]
                if not config.resume and not differences(there, settings, *kinds):
                    raise UsageError(
                        f"{directory} holds a run of {counted(before, 'epoch')}: --resume continues it to "
                        f"{settings['epochs']}, --overwrite starts again"
                    )
            compare(directory, "settings", there, settings, kinds)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
        raise (ResourceError if full else UsageError)(f"--output-dir {directory} cannot be made: {error.strerror}") from error


def is_longer(settings: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Is this the run of these settings with more epochs than it had before?"""
    old, new = before.get("epochs"), settings["epochs"]
    return isinstance(old, int) and new > old and before.get("max_steps") is settings["max_steps"] is None


def refuse_no_text(directory: Path, settings: Mapping[str, Any]) -> None:
    """Raises UsageError for a name that is not UTF-8: run.json and the pages could not hold it."""
    for name, value in {**settings, "output_dir": str(directory.resolve())}.items():
        if isinstance(value, str) and is_half(value):
            raise UsageError(
                f"--{name.replace('_', '-')} {value!r} is not UTF-8, and the run's files could not name it: rename it"
            )


def refuse_own_data(directory: Path, settings: Mapping[str, Any]) -> None:
    """Raises UsageError for data in a file that the run writes anew, its log say: they would be gone."""
    for name in OF_DATA:
        for file in named_files(settings.get(name) or ""):
            if file.resolve().parent == directory.resolve() and is_own_name(file.name) and file.name != MISTAKES:
                raise UsageError(
                    f"--{name.replace('_', '-')} {file} is a file of the run that is written anew there: copy it first"
                )


def refuse_in_the_way(directory: Path) -> None:
    """Raises UsageError for a folder or a link where a file of the run is to stand: better now than when it is trained."""
    for path in directory.iterdir() if directory.is_dir() else ():
        kind = "folder" if path.name in FOLDERS else "file" if is_own_name(path.name) else None
        is_right = not path.is_symlink() and (path.is_dir() if kind == "folder" else path.is_file())
        if kind and not is_right:
            what = "a link" if path.is_symlink() else "no regular file" if kind == "file" else "no folder"
            raise UsageError(f"{path} is {what}, and the run writes a {kind} of this name: move it away")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory for one run. A POSIX record lock: it ends with this process, and workers do not inherit it."""
    with atomic.appending(directory / ".lock") as stream:
        try:
            hold(stream, by_process=True)
        except OSError as error:
            raise UsageError(f"{directory} is in use by another run: wait for it, or choose another --output-dir") from error
        yield


def remove_leftovers(directory: Path) -> None:
    """What a killed process has left half-done."""
    clean(directory / "checkpoints")
    for path in directory.iterdir():
        if atomic.UNFINISHED.fullmatch(path.name):
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path, ignore_errors=True)


def remove_run(directory: Path, keep: Collection[str] = ()) -> None:
    """Delete what the run there has written and another would not write anew, and nothing else.

    From the first moment on it counts as unfinished; run.json stays until that of the next run takes its place, so that the
    directory stays a run's. ``keep``: of the folders of logs, those that are written to again.
    """
    saved: Mapping[str, str] = {}
    with suppress(UserError):
        document = read_run(directory)
        write_run(directory, dataclasses.replace(document, status="running"))
        saved = document.files or {}
    discard_all(directory / "checkpoints")
    gone = {directory / name for name, digest in saved.items() if is_as_saved(directory, name, digest)}
    gone |= {path for path in directory.iterdir() if WEIGHTS.fullmatch(path.name)}  # of an older run, or damaged
    logs = {FOLDER: ("trace.json", "profile.json"), "tensorboard": ("events.out.tfevents.*",)}
    gone |= {
        path for name, files in logs.items() if name not in keep for file in files for path in (directory / name).glob(file)
    }
    for path in gone:
        path.unlink()
    for name in logs:
        with suppress(OSError):  # not there, or the user has put something into it
            (directory / name).rmdir()


def is_as_saved(directory: Path, name: str, digest: str) -> bool:
    """Is this a file of the directory itself, reached by no link, with these contents (sha256)?"""
    path = directory / name
    return path.is_file() and path.resolve() == directory.resolve() / name and sha256(path) == digest


def is_leftover(path: Path) -> bool:
    """Something that a killed run has left of what it was about to write; removed when the next one begins."""
    is_empty = path.is_file() and not path.is_symlink() and path.stat().st_size == 0
    return atomic.UNFINISHED.fullmatch(path.name) is not None or (path.name in (".lock", "metrics.jsonl") and is_empty)


def holds_run(directory: Path) -> bool:
    """Is this the directory of a run of ours? Its run.json says so; where that is damaged, a checkpoint with its manifest."""
    try:
        read_run(directory)
    except ModelError:
        return True  # of a newer version
    except UsageError:
        return any(
            (directory / f"checkpoints/step-{step:08d}/MANIFEST.json").is_file() for step in steps_in(directory / "checkpoints")
        )
    return True


def holds_unfinished(directory: Path) -> bool:
    """A run of ours that has not come to its end; a foreign run.json says nothing."""
    try:
        return (directory / "run.json").is_file() and not is_finished(directory)
    except UsageError:
        return False


def is_finished(directory: Path) -> bool:
    run = run_in(directory)
    return run is not None and run.status == "finished"


def finished_before(directory: Path, config: TrainConfig, document: RunDocument) -> dict[str, Any] | None:
    """The metrics of the finished run there, which need not be repeated. Raises DataError if it had other data, UsageError if
    its model, or the code of its task, has been replaced.
    """
    if config.overwrite or not is_finished(directory):
        return None
    before = read_run(directory)
    if is_longer(document.settings, before.settings):  # and --resume continues it
        return None
    compare_data(directory, before.data, document.data)
    old, new = dict(before.sources or {}), dict(document.sources or {})  # an older run has none
    old, new = ({name: each[name] for name in old if name in new} for each in (old, new))
    compare(directory, "files of the model, or of the task, than those there now", old, new)
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


def run_in(directory: Path) -> RunDocument | None:
    """run.json, or None where there is none. Raises what ``read_run`` does."""
    return read_run(directory) if (directory / "run.json").exists() else None


def write_run(directory: Path, document: RunDocument) -> None:
    """Write run.json, which is there in full or as it was before."""
    atomic.write(directory / "run.json", dumps(document))
