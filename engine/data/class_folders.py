"""A folder of pictures with a folder for each class in it, whose name is the label.

    cat/001.jpg  dog/001.jpg                 or, with splits: train/cat/001.jpg  test/dog/001.jpg

As torchvision's ImageFolder and the Hub's imagefolder have it. No file is left out in silence: what lies there and is no
picture by its name, or lies deeper, is refused. What a file holds is found out when it is opened. No torch in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from engine.console import note
from engine.data.arrow_rows import SPLITS, STATE
from engine.data.form import Columns, choose
from engine.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LITTER = ("thumbs.db", "desktop.ini")  # that systems leave in folders, beside names with a dot in front
NAME, LABEL = "file_name", "label"
TRAIN, HELD_OUT = "train", ("eval", "validation", "val", "test")


def is_picture(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in PICTURES


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in the order of the names. Raises DataError."""
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] != "." and path.name.lower() not in LITTER)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def has_class_folders(folder: Path) -> bool:
    """Does a folder in this one hold a picture?"""
    with suppress(DataError):
        return any(is_picture(path) for each in visible(folder) if each.is_dir() for path in visible(each))
    return False


def is_one(path: Path) -> bool:
    """Is it such a folder, or one that was meant so: pictures, and nothing that says what they are?"""
    if not path.is_dir() or (path / STATE).exists() or (path / SPLITS).exists():
        return False
    return has_class_folders(path) or any(map(is_picture, visible(path)))


def splits_in(folder: Path) -> dict[str, str | None] | None:
    """Where the pictures to train and to evaluate on lie, if ``folder`` holds any. Raises DataError for what is doubtful."""
    folders = [path.name for path in visible(folder) if path.is_dir()]
    others = [name for name in folders if name not in (TRAIN, *HELD_OUT)]
    if has_class_folders(folder / TRAIN):
        if others:
            raise DataError(
                f"{folder} holds {TRAIN}, which has folders of classes, and {others[0]} beside it, which is no split "
                f"({', '.join(HELD_OUT)}): name those to be read with --train-file and --eval-file"
            )
        held = next((name for name in HELD_OUT if name in folders), None)
        return {"train": str(folder / TRAIN), "eval": str(folder / held) if held else None}
    if folders and not others and is_one(folder):
        raise DataError(
            f"{folder}: {', '.join(folders)} need folders with pictures in them, one for each class, named as it is"
        )
    return {"train": str(folder), "eval": None} if is_one(folder) else None


def read_class_folders(folder: Path, columns: Sequence[str] | None) -> Iterator[Columns]:
    """``{"file_name": ["cat/001.jpg", ...], "label": ["cat", ...]}``, a folder at a time. Raises DataError."""
    wanted = choose(folder, [NAME, LABEL], columns)
    there = visible(folder)
    if loose := [path for path in there if not path.is_dir() and is_picture(path)]:
        raise DataError(
            f"{loose[0]} lies in no folder of a class: each class needs a folder, whose name is the label; or a file "
            "metadata.csv beside the pictures gives their file_name and label"
        )
    if others := [path.name for path in there if not path.is_dir()]:
        note(f"{folder}: {others[0]}{' and others' if len(others) > 1 else ''} beside the folders of the classes: not read")
    for each in (path for path in there if path.is_dir()):
        names = pictures_in(each)
        found = {NAME: [f"{each.name}/{name}" for name in names], LABEL: [each.name] * len(names)}
        yield {name: found[name] for name in wanted}


def pictures_in(folder: Path) -> list[str]:
    """The names of the pictures of a class. Raises DataError for anything else, and for none."""
    there = visible(folder)
    for path in there:
        if path.is_dir():
            raise DataError(f"{path} is a folder within that of a class: pictures lie in the folder of their class itself")
        if not is_picture(path):
            raise DataError(f"{path} is no picture by its name ({' '.join(PICTURES)}): take it out of the folder of its class")
    if not there:
        raise DataError(f"{folder} is the folder of a class and holds no picture: remove it, or put its pictures there")
    return [path.name for path in there]
