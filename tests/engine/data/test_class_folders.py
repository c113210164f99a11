"""A folder of pictures with a folder for each class: what is read, and what is refused because it could be lost in silence."""

from __future__ import annotations

import pytest

from engine.data.class_folders import is_one, read_class_folders, splits_in
from engine.data.files import read_table
from engine.data.places import files_in
from engine.errors import DataError


def tree(folder, *names: str):
    """Files of these names, empty ones: only their names are looked at here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_names_of_folders_are_labels_in_order_and_litter_is_none(tmp_path):
    tree(tmp_path, "dog/2.PNG", "dog/10.jpeg", "cat/a b.webp", "cat/.DS_Store", "cat/Thumbs.db", ".cache/x.png")
    assert read_table(tmp_path) == {"file_name": ["cat/a b.webp", "dog/10.jpeg", "dog/2.PNG"], "label": ["cat", "dog", "dog"]}
    assert read_table(tmp_path, ["label"]) == {"label": ["cat", "dog", "dog"]}
    assert files_in(tmp_path) == {"train": str(tmp_path), "eval": None}


@pytest.mark.parametrize("held", ["eval", "validation", "val", "test"])
def test_splits_are_folders_around_those_of_the_classes(tmp_path, held):
    tree(tmp_path, "train/cat/1.png", "train/dog/1.png", f"{held}/cat/2.png")
    assert splits_in(tmp_path) == {"train": str(tmp_path / "train"), "eval": str(tmp_path / held)}


def test_a_class_may_be_called_train(tmp_path):
    tree(tmp_path, "train/1.png", "plane/1.png", "test/1.png")
    assert splits_in(tmp_path) == {"train": str(tmp_path), "eval": None}
    assert read_table(tmp_path)["label"] == ["plane", "test", "train"]


def test_what_says_more_comes_first(tmp_path):
    """metadata.csv beside the pictures, and a data set that was saved."""
    tree(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\ncat/1.png,x\n")
    assert files_in(tmp_path)["train"] == str(tmp_path / "metadata.csv")
    tree(tmp_path / "saved", "cat/1.png", "state.json")
    assert not is_one(tmp_path / "saved")


def test_files_beside_the_folders_are_said(tmp_path, capsys):
    tree(tmp_path, "cat/1.png", "dog/1.png", "LICENSE", "README.md")
    assert len(read_table(tmp_path)["label"]) == 2
    assert "LICENSE and others beside the folders of the classes: not read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.png", "2.png"], "1.png lies in no folder of a class: each class needs a folder"),
        (["cat/1.png", "dog/1.png", "3.png"], "3.png lies in no folder of a class"),
        (["cat/1.png", "dog/1.png", "dog/notes.txt"], "notes.txt is no picture by its name"),
        (["cat/1.png", "dog/1.heic"], "1.heic is no picture by its name"),
        (["cat/1.png", "dog/small/1.png", "dog/1.png"], "small is a folder within that of a class"),
        (["cat/1.png", "dog/.DS_Store"], "dog is the folder of a class and holds no picture"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path, names, words):
    folder = tree(tmp_path, *names)
    assert is_one(folder)
    with pytest.raises(DataError, match=words):
        list(read_class_folders(folder, None))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/1.png", "test/1.png"], "test, train need folders with pictures in them, one for each class"),
        (["train/cat/1.png", "train/dog/1.png", "dev/cat/1.png"], "dev beside it, which is no split"),
    ],
)
def test_doubtful_splits_are_refused(tmp_path, names, words):
    with pytest.raises(DataError, match=words):
        files_in(tree(tmp_path, *names))


def test_a_column_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="has no column 'text'"):
        read_table(tree(tmp_path, "cat/1.png", "dog/1.png"), ["text"])


def test_a_folder_without_pictures_is_no_such_folder(tmp_path):
    assert splits_in(tree(tmp_path, "a/notes.txt")) is None and not is_one(tmp_path / "a") and not is_one(tmp_path / "none")
    with pytest.raises(DataError, match="holds no train file"):
        files_in(tmp_path)
