"""Which files a setting names: one, several with commas between, all that a pattern matches, a folder; each with its share.

    a.csv                     data/train-*.parquet            a.csv,b.csv.gz            a.csv:0.7,b.csv:0.3

And which evaluation sets: dev=a.csv,other=b.csv are two, each with a name. No torch in here. Next: tables.py, which reads
the files of a set as one table.
"""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.console import note
from engine.data.arrow_rows import STATE
from engine.data.class_folders import splits_in
from engine.data.remote import fetched
from engine.data.streams import PACKED, SUFFIXES, looks_like_a_file
from engine.errors import DataError, UsageError
from engine.settings.fields import is_address, user_path

Fetch = Callable[[str], tuple[Path, ...]]
UNNAMED = "eval"  # what an evaluation set without a name is called
OF_DATA = ("data", "train_file", "eval_file", "more_train_file")  # the settings that name data
SHARD = re.compile(r"(.*?)-?(\d{3,})-of-(\d{3,})(.*)")


@dataclass(frozen=True)
class Part:
    """What one name stands for. ``share``: of the rows of an epoch; None: all rows, once."""

    name: str
    files: tuple[Path, ...]
    share: float | None = None


def parts_of(text: str, flag: str = "--train-file", fetch: Fetch = fetched) -> list[Part]:
    """The parts that a setting names. ``fetch``: the files of an address.

    Raises DataError where there is no such file, UsageError for shares that are none.
    """
    if is_there(text) or ("," in text and glob.has_magic(text) and matches(text)):
        return [Part(text, files_named(text, fetch))]
    parts = []
    for name in text.split(","):
        weighed = None if is_there(name) else re.fullmatch(r"(.+):(\d+\.?\d*|\.\d+)", name)
        share = float(weighed[2]) if weighed else None
        file = weighed[1] if weighed else name
        parts.append(Part(file, files_named(file, fetch), share))
    if len({part.share is None for part in parts}) > 1 or any(
        part.share is not None and not 1e-100 < part.share < 1e100 for part in parts
    ):
        raise UsageError(f"{flag} {text}: give all files a share above 0, FILE:0.7,FILE:0.3, or none")
    files = [file.resolve() for part in parts for file in part.files]
    if twice := next((file for i, file in enumerate(files) if file in files[:i]), None):
        raise UsageError(f"{flag} {text} names {twice} twice: leave one out (a share repeats rows: FILE:0.7,FILE:0.3)")
    return parts


def sets_of(text: str, flag: str = "--eval-file") -> dict[str, str]:
    """The evaluation sets that a setting names, and the files of each: ``dev=a.csv,other=b.csv``; without names one, UNNAMED.

    What is there under a whole name is that file, with its commas and equal signs. Raises UsageError for what can be read in
    two ways, and for names that are none, or not given to all, or twice.
    """
    pieces = [text] if is_found(text) else re.split(r",(?=[^,=/]*=)", text)  # each begins where a name does
    named = {piece: set_in(piece, flag) for piece in pieces}
    if not any(named.values()):
        return {UNNAMED: text}
    found: dict[str, str] = {}
    for piece, (name, files) in ((piece, pair or ("", piece)) for piece, pair in named.items()):
        more = "" if is_found(files) else files.partition(",")[2]
        if not name or more:
            raise UsageError(
                f"{flag}: {more or piece} has no name, and others have: give each set one, {flag} NAME=FILE; several files of "
                "one set are named by a pattern, NAME='data/*.csv'"
            )
        if name in found or pieces.count(piece) > 1:
            raise UsageError(f"{flag}: two sets are called {name!r}: give each a name of its own")
        found[name] = files
    return found


def parts_of_splits(names: Mapping[str, str | None]) -> dict[str, list[Part]]:
    """The parts of each split. Raises UsageError for shares of an evaluation set; says which file is in both."""
    parts = {split: parts_of(name) for split, name in names.items() if name}
    files = {split: {file.resolve() for part in some for file in part.files} for split, some in parts.items()}
    for split, some in parts.items():
        if split != "train" and any(part.share is not None for part in some):
            raise UsageError(f"{names[split]}: shares are for training data: leave them out")
        if split != "train" and (both := files.get("train", set()) & files[split]):
            name = "evaluation" if split == UNNAMED else split
            note(f"warning: {min(both)} is in the training data and in the {name} data: the figures will flatter")
    return parts


def set_in(piece: str, flag: str) -> tuple[str, str] | None:
    """The name and the files of ``dev=a.csv``; None: it is a file. Raises UsageError."""
    name, mark, files = piece.partition("=")
    if not mark or "/" in name:
        return None
    is_name = re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) is not None and name != "train" and bool(files)
    if is_found(piece):
        if is_name and is_found(files):
            raise UsageError(f"{flag} {piece} is a file, and may be {files} with a name: say ./{piece}, or {name}=./{files}")
        return None
    if not is_name:
        raise UsageError(
            f"{flag} {piece}: there is no such file, and {name!r} cannot name an evaluation set: letters, digits, - and _ can "
            "(not 'train'), as in dev=FILE"
        )
    return name, files


def is_found(name: str) -> bool:
    """Is there a file, or a pattern's, of this whole name?"""
    return is_there(name) or (glob.has_magic(name) and bool(matches(name)))


def is_there(name: str) -> bool:
    try:
        return user_path(name).exists()
    except OSError:  # a folder that may not be read, a name that is too long: said by what opens it
        return False


def files_named(name: str, fetch: Fetch = fetched) -> tuple[Path, ...]:
    """One file, or, in the order of their names, those that a pattern matches. ``fetch``: those of an address.

    Raises DataError.
    """
    path = user_path(name)
    if is_address(name):
        return fetch(name)
    if is_there(name) or not glob.has_magic(name):
        with suppress(OSError):
            if not path.exists():
                raise DataError(f"{path} does not exist")
        return (path,)
    found = matches(name)
    files = tuple(file for file in found if file.is_file())
    if not files:
        raise DataError(f"no file matches {name}" + (f" (it matches folders, such as {found[0]})" if found else ""))
    check_shards(files)
    return files


def matches(pattern: str) -> list[Path]:
    """What a pattern matches, in the order of the names."""
    return sorted(Path(found) for found in glob.glob(str(user_path(pattern)), recursive=True))  # noqa: PTH207 - it has no root


def named_files(text: str) -> list[Path]:
    """The files of a setting on this machine, if it is one that names files; for what must not be written over."""
    with suppress(DataError, UsageError, OSError, ValueError):
        return [file for name in sets_of(text).values() for part in parts_of(name, fetch=lambda _: ()) for file in part.files]
    return []


def is_named(path: Path, text: str) -> bool:
    """Is this file among those that a setting names, or in a folder that is read as a whole? For what is not written over.

    A pattern is compared with the name and not looked up: that of a stranger's run.json may be ``/**``.
    """
    pieces = [text, *(re.sub(r":[\d.]+$", "", piece) for piece in re.split(r",(?:[\w-]+=)?|^[\w-]+=", text))]
    with suppress(OSError, ValueError):  # a NUL in a name
        for named in {user_path(piece).resolve() for piece in pieces if piece}:
            files: list[str | None] = [str(named)]
            if named.is_dir():
                files = []
                with suppress(DataError):
                    files = [*files_in(named).values()]
            for file in filter(None, files):
                ours, real = path.resolve(), Path(file).resolve()
                if ours == real or (path.exists() and (ours.is_relative_to(real) or fnmatch.fnmatchcase(str(ours), file))):
                    return True
    return False


def check_shards(files: Iterable[Path]) -> None:
    """Raises DataError where one of the files that were written as ``train-00000-of-00002`` and so on is missing."""
    found: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if match := SHARD.fullmatch(file.name):
            found.setdefault((str(file.parent / match[1]), int(match[3])), set()).add(int(match[2]))
    for (stem, total), numbers in found.items():
        if total < 10**6 and (missing := sorted(set(range(total)) - numbers)):
            raise DataError(f"{stem} has {total} shards, and number {missing[0]} (from 0) is missing: these are not all rows")


def files_in(folder: Path) -> dict[str, str | None]:
    """train and test, eval or validation of a folder: a file, the shards of one, a saved data set, or pictures' metadata.

    Of a folder of pictures, metadata.* of its own, or that of its splits; without any, the folders of its classes
    (class_folders.py). Raises DataError.
    """

    def find(*stems: str) -> str | None:
        for stem in stems:
            if (folder / stem / STATE).exists():
                return str(folder / stem)
            named = [*folder.glob(f"{stem}.*"), *folder.glob(f"{stem}/metadata.*")]
            plain = sorted(path for path in named if looks_like_a_file(path.name) and base(path) in (stem, "metadata"))
            if len(plain) > 1:
                raise DataError(f"{folder} holds {' and '.join(path.name for path in plain)}: name one with --train-file")
            if plain:
                return str(plain[0])
            for within in (folder, folder / "data", folder / stem):
                shards = sorted(path for path in within.glob(f"{stem}-*-of-*") if looks_like_a_file(path.name))
                if shards:
                    return f"{glob.escape(str(within))}/{stem}-*-of-*{shards[0].suffix}"
        return None

    if (folder / STATE).exists():
        return {"train": str(folder), "eval": None}
    train = find("train", "metadata")
    if train is None and (pictures := splits_in(folder)) is not None:
        return pictures
    if train is None:
        raise DataError(f"{folder} holds no train file (train{', train'.join(SUFFIXES)}){pattern_hint(folder)}")
    return {"train": train, "eval": find("eval", "validation", "test")}


def base(path: Path) -> str:
    """``train`` of train.csv and of train.csv.gz."""
    return Path(path.stem).stem if path.suffix.lower() in PACKED and Path(path.stem).suffix.lower() in SUFFIXES else path.stem


def pattern_hint(folder: Path) -> str:
    """How to name the files of a folder that are called otherwise."""
    there = sorted(path for path in folder.iterdir() if looks_like_a_file(path.name))
    if not there:
        return ": name one with --train-file"
    kinds = {path.suffix for path in there}
    pattern = f"{folder}/*{min(kinds)}" if len(kinds) == 1 and len(there) > 1 else str(there[0])
    return f": name one with --train-file, or several: --train-file '{pattern}'"
