"""Random tables, written by other hands (csv in odd dialects, pandas, pyarrow, json), are read back equal or refused.

100 tables in the suite, 2,000 with ``-m slow``. A refusal has to name a row, or the way in.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import zipfile
from collections import Counter

import pandas
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from engine.data import form as forms
from engine.data.files import read_table
from engine.data.form import Form
from engine.data.tables import read_dataset
from engine.errors import UserError

LETTERS = ["a", "b", " ", "  ", ",", ";", "\t", "|", '"', '""', "'", "\\", '\\"', "\n", "\r\n", "\r", "é", "日", "🙂", "\u2028", "\x85",
           "\x0b", "\x0c", "\x1c", "\ufeff", "NA", "null", "007", "1e5", "=1+1", "#", "sep=;", "{", "]", ":", "0", "-1", "True"]  # fmt: skip
NAMES = ["text", "label", "id", "a b", "a,b", 'q"q', "x.y", "naïve", " pad", "line\nbreak", "", "Text", "1", "sep=;"]


def a_text(draw: random.Random) -> str:
    return "".join(draw.choices(LETTERS, k=draw.choice([0, 1, 1, 2, 3, 8])))


def a_table(draw: random.Random, names: list[str]) -> list[list[str]]:
    return [[a_text(draw) for _ in names] for _ in range(draw.choice([1, 2, 3, 7]))]


def some_names(draw: random.Random) -> list[str]:
    """One at least is a name; a first line of nothing but ``sep=;`` would be Excel's."""
    names = draw.sample(NAMES, k=draw.choice([1, 2, 2, 3, 4]))
    return names if any(name.strip() and name != "sep=;" for name in names) else [*names, "text"]


def as_columns(names: list[str], rows: list[list[str]]) -> dict[str, list[str]]:
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def by_csv(draw: random.Random, folder, names, rows):
    """The csv module in a dialect, and what a user would have to say of it."""
    quoting = draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_NONE])
    delimiter = draw.choice([",", ",", ";", "\t", "|"])
    doubled = draw.random() < 0.7
    options = {"delimiter": delimiter, "quoting": quoting, "lineterminator": draw.choice(["\n", "\r\n", "\r"])}
    if not doubled:
        options |= {"doublequote": False, "escapechar": "\\"}
    stream = io.StringIO(newline="")
    try:
        csv.writer(stream, **options).writerows([names, *rows])
    except csv.Error:  # a cell that this dialect cannot hold
        return None
    said = {csv.QUOTE_NONE: "none"}.get(quoting) if doubled else "backslash"
    suffix = draw.choice([".csv", ".txt"]) if delimiter != "\t" else draw.choice([".csv", ".tsv", ".txt"])
    path = folder / f"t{suffix}"
    form = Form(delimiter=None if suffix == ".tsv" or (delimiter, suffix) == (",", ".csv") else delimiter, quoting=said)
    return written(draw, path, stream.getvalue(), form)


def by_pandas(draw: random.Random, folder, names, rows):
    frame = pandas.DataFrame(rows, columns=names)
    kind = draw.choice(["csv", "tsv", "lines", "records", "parquet", "feather"])
    if kind in ("csv", "tsv"):
        text = frame.to_csv(index=False, sep="\t" if kind == "tsv" else ",", lineterminator=draw.choice(["\n", "\r\n"]))
        return written(draw, folder / f"t.{kind}", text, Form())
    if kind in ("lines", "records"):
        text = frame.to_json(orient="records", lines=kind == "lines", force_ascii=draw.random() < 0.5)
        return written(draw, folder / ("t.jsonl" if kind == "lines" else "t.json"), text, Form())
    path = folder / f"t.{kind}"
    frame.to_parquet(path) if kind == "parquet" else frame.to_feather(path)
    return path, Form()


def by_pyarrow(draw: random.Random, folder, names, rows):
    table = pyarrow.table(as_columns(names, rows))
    kind = draw.choice(["parquet", "stream", "file", "csv"])
    if kind == "csv":
        options = pyarrow.csv.WriteOptions(quoting_style=draw.choice(["needed", "all_valid"]))
        pyarrow.csv.write_csv(table, folder / "t.csv", options)
        return folder / "t.csv", Form()
    if kind == "parquet":
        compression = draw.choice(["snappy", "zstd", "gzip", "none"])
        pyarrow.parquet.write_table(
            table, folder / "t.parquet", compression=compression, row_group_size=draw.choice([1, 2, 100])
        )
        return folder / "t.parquet", Form()
    new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with new(str(folder / "t.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return folder / "t.arrow", Form()


def by_json(draw: random.Random, folder, names, rows):
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    kind, ascii_only = draw.choice(["lines", "array", "indented", "field"]), draw.random() < 0.5
    if kind == "lines":
        text = "".join(json.dumps(each, ensure_ascii=ascii_only) + draw.choice(["\n", "\r\n", "\n\n"]) for each in objects)
    else:
        whole = {"version": "1", "rows": objects} if kind == "field" else objects
        text = json.dumps(whole, ensure_ascii=ascii_only, indent=1 if kind == "indented" else None)
    return written(
        draw, folder / ("t.json" if kind != "lines" else draw.choice(["t.jsonl", "t.ndjson", "t.json"])), text, Form()
    )


def written(draw: random.Random, path, text: str, form: Form):
    """In some encoding, packed or not."""
    encoding = draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
    content = text.encode(encoding)
    if encoding == "utf-16-le":
        form = Form(form.delimiter, encoding, form.quoting)
    how = draw.choice(["plain", "plain", "gz", "zst", "zip"])
    if how == "plain":
        path.write_bytes(content)
        return path, form
    target = path.parent / f"{path.name}.{how}"
    if how == "gz":
        target.write_bytes(gzip.compress(content))
    elif how == "zst":
        target.write_bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    else:
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(path.name, content)
    return target, form


def expected(names, rows, path):
    """Names that are none, or stand twice, are told apart; a CSV row that is an empty line is none."""
    return as_columns(
        [name if name.strip() or not is_text_table(path) else f"column {i}" for i, name in enumerate(names, 1)], rows
    )


def is_text_table(path) -> bool:
    return bool(re.search(r"\.(csv|tsv|txt)(\.|$)", path.name))


def one_case(seed: int, folder, said) -> str:
    """``equal`` or why it was refused. Raises AssertionError for anything else. ``said``: gives what stderr has got."""
    draw = random.Random(seed)
    names = some_names(draw)
    rows = a_table(draw, names)
    writer = draw.choice([by_csv, by_csv, by_pandas, by_pyarrow, by_json])
    made = writer(draw, folder, names, rows)
    if made is None:
        return "not written"
    path, form = made
    try:
        found = read_table(path, form=form)
        wanted = draw.sample(list(found), k=1)
        part = read_dataset([path], wanted, form)
    except UserError as error:
        message = str(error)
        assert re.search(r"row \d+|line \d+|NUL|--\w+|has no rows|rename|is empty|cannot", message), message
        return f"refused: {re.sub(r'[0-9]+', 'N', message.replace(str(path), ''))[:60]}"
    if "end with a carriage return" in said():
        found, rows = ({name: [cell.strip("\r\n") for cell in cells] for name, cells in found.items()},
                       [[cell.strip("\r\n") for cell in row] for row in rows])  # fmt: skip
    else:
        assert part[wanted[0]][:] == found[wanted[0]]
    assert dict(found) == expected(names, rows, path), (seed, path.name, form, names, rows, dict(found))
    return "equal"


def cases(seeds, tmp_path, monkeypatch, capsys) -> Counter[str]:
    monkeypatch.setattr(forms, "PIECE_ROWS", 2)
    found: Counter[str] = Counter()
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        found[one_case(seed, folder, lambda: capsys.readouterr().err)] += 1
    return found


def test_tables_of_other_hands(tmp_path, monkeypatch, capsys):
    found = cases(range(100), tmp_path, monkeypatch, capsys)
    assert found["equal"] >= 60, found


@pytest.mark.slow
def test_two_thousand_tables_of_other_hands(tmp_path, monkeypatch, capsys):
    found = cases(range(1000, 3000), tmp_path, monkeypatch, capsys)
    assert found["equal"] >= 1200, found
