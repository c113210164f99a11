"""Files of data that somebody has made to do harm, or that a disk has damaged: each is refused in one line."""

from __future__ import annotations

import gzip
import json
import random

import pyarrow
import pyarrow.parquet
import pytest

from engine.data import streams
from engine.data.files import read_table
from engine.data.tables import read_dataset
from engine.errors import DataError

TABLE = pyarrow.table({"text": [f"hello world {i}" for i in range(40)], "label": ["a", "b"] * 20})


def arrow_file(path, table, kind="file"):
    new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table)
    return path


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("what", ["plain", "dictionary", "list"])
def test_an_offset_that_points_out_of_an_arrow_file_is_refused(tmp_path, kind, what):
    """It was followed: into the memory behind the file, whose bytes became a text, or to the end of the process by a signal."""
    column, step = {
        "plain": (TABLE["text"], len("hello world 0")), "dictionary": (TABLE["text"].combine_chunks().dictionary_encode(), 1),
        "list": ([["a", "b"]] * 40, 2),
    }[what]  # fmt: skip
    content = arrow_file(tmp_path / "a.arrow", pyarrow.table({"text": column}), kind).read_bytes()
    at = content.index(
        (4 * step).to_bytes(4, "little") + (5 * step).to_bytes(4, "little")
    )  # offsets, or places in a dictionary
    damaged = tmp_path / "b.arrow"
    damaged.write_bytes(content[: at + 3] + b"\x7f" + content[at + 4 :])
    for read in (lambda: read_table(damaged), lambda: read_dataset([damaged], ["text"])):
        with pytest.raises(DataError, match=r"b.arrow is not a readable Arrow file: "):
            read()


def test_damaged_arrow_files_are_read_as_they_stand_or_refused(tmp_path):
    """A child of this process would be ended by a signal for one of about 15."""
    content = arrow_file(tmp_path / "a.arrow", TABLE).read_bytes()
    generator, refused = random.Random(0), 0
    for number in range(60):
        changed = bytearray(content)
        for _ in range(generator.choice([1, 1, 3])):
            changed[generator.randrange(8, len(changed) - 10)] = generator.choice([0, 127, 128, 255, generator.randrange(256)])
        path = tmp_path / f"{number}.arrow"
        path.write_bytes(changed)
        try:
            texts = read_table(path, ["text"])["text"]
        except DataError as error:
            assert "\n" not in str(error)[:200]
            refused += 1
        else:
            assert len(texts) == 40
    assert refused > 15


NOTED = [
    {"info": {"features": {"text": {"_type": "Evil"}}}},
    {"info": 5},
    {"info": {"features": 5}},
    {"info": {"features": {"text": {"_type": "Value", "dtype": "evil"}}}},
    {"info": {"features": {"text": {"_type": "ClassLabel", "names": 5}}}},
    {"info": {"features": {"text": {"_type": "ClassLabel", "names": ["a", "a"]}}}},
    {"info": {"features": {"text": {"_type": "ClassLabel", "num_classes": 10**9}}}},
    b'{"\xff',
]


@pytest.mark.parametrize("noted", NOTED)
def test_what_is_noted_of_columns_may_be_anything(tmp_path, noted):
    note = noted if isinstance(noted, bytes) else json.dumps(noted)
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(TABLE.replace_schema_metadata({"huggingface": note}), path)
    with pytest.raises(DataError, match=r"a.parquet: what datasets has noted of its columns cannot be read .*metadata\(None\)"):
        read_dataset([path], ["text"])
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).replace_schema_metadata(None), path)  # the way in
    assert len(read_dataset([path], ["text"])) == 40


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.txt", "a.conll"])
def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, name):
    """A few MB of .gz can hold a line of many GB."""
    monkeypatch.setattr(streams, "MOST_LINE", 1000)
    path = tmp_path / f"{name}.gz"
    first = b"{}\n" if "json" in name else b"a O\n"
    for before, number in ((b"", 1), (first, 2)):
        path.write_bytes(gzip.compress(before + b"x" * 3000))
        with pytest.raises(DataError, match=f"line {number} has more than 1,000 characters: cut it into rows"):
            read_table(path)
    path = tmp_path / "b.txt"
    path.write_text("x" * 999 + "\n" + "y" * 998 + "\n" + "z" * 999)
    assert [len(text) for text in read_table(path)["text"]] == [999, 998, 999]
