"""Tables of rows from files: read in pieces into an Arrow file on disk, with the columns that a task asks for.

Next: sources.py, which decides what is read.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.data.cache import held_folder
from engine.data.files import SUFFIXES, Columns, read_parquet, read_pieces, read_table
from engine.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import RecordBatch


RowName = Callable[[int], str]


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the rows of a table stand: in which file ("": none), and in which rows of it, from 0 (None: all, in order)."""

    file: str = ""
    rows: np.ndarray | None = None


def origin_of(table: Dataset) -> Origin:
    return vars(table).get("origin", Origin())  # type: ignore[no-any-return]


def with_origin(table: Dataset, origin: Origin) -> Dataset:
    vars(table)["origin"] = origin
    return table


def chosen(table: Dataset, rows: np.ndarray) -> Dataset:
    """These rows of a table, [N] from 0, which keep their names."""
    before = origin_of(table)
    return with_origin(table.select(rows), Origin(before.file, rows if before.rows is None else before.rows[rows]))


def row_number(table: Dataset, row: int) -> int:
    """Which row of its file a row of the table is, from 1; ``row``: from 0."""
    rows = origin_of(table).rows
    return 1 + (row if rows is None else int(rows[row]))


def row_name(table: Dataset, row: int) -> str:
    """``train.csv, row 51``, whatever part of the file the table is; ``row``: from 0."""
    file = origin_of(table).file
    return f"{file}{', ' if file else ''}row {row_number(table, row)}"


def plain_row(row: int) -> str:
    """Of what is all that there is."""
    return f"row {row + 1}"


MOST_NAMED = 32


def called(examples: Any, rows: Sequence[int]) -> str:
    """What rows of a task's examples are called: as their ``row_name`` has it, where the task has given them one, so that they
    are found in their file (``train.csv, rows 5, 9``); else by their places among the examples. ``rows``: from 0.
    """
    more = " ..." if len(rows) > MOST_NAMED else ""
    name, word = getattr(examples, "row_name", None), "row" + "s" * (len(rows) > 1)
    if name is None:
        return f"{word} {', '.join(map(str, rows[:MOST_NAMED]))}{more} of the data, counted from 0"
    names = [name(row) for row in rows[:MOST_NAMED]]
    if len({text.rpartition("row ")[0] for text in names}) == 1:
        names = [f"{names[0].rpartition('row ')[0]}{word} {names[0].rpartition('row ')[2]}",
                 *(text.rpartition("row ")[2] for text in names[1:])]  # fmt: skip
    return ", ".join(names) + more


def read_dataset(path: Path, columns: Sequence[str], name: str, **options: str | None) -> Dataset:
    """The columns of a file, mapped into memory from a copy on disk, which goes with this process. Raises DataError.

    A JSONL file, whose columns may change their kind at its end, is held in memory; so is another where no disk has room.
    """
    import pyarrow
    from datasets import Dataset

    if path.suffix.lower() == ".jsonl":
        return as_dataset(read_table(path, columns, **options), name)

    def batches() -> Iterator[RecordBatch]:
        if path.suffix.lower() == ".parquet":
            return read_parquet(path, columns)
        kinds = pyarrow.schema([(column, pyarrow.string()) for column in columns])
        return (pyarrow.RecordBatch.from_pydict(piece, kinds) for piece in read_pieces(path, columns, **options))

    try:
        for place in (partial(held_folder, "rows"), tempfile.TemporaryDirectory):
            with suppress(OSError), place() as folder:
                copy = Path(folder) / "rows.arrow"
                write_arrow(batches(), copy)
                return with_origin(with_class_names(Dataset.from_file(str(copy)), path), Origin(name))  # what is mapped stays
        return with_origin(with_class_names(Dataset(pyarrow.Table.from_batches(list(batches()))), path), Origin(name))
    except UnicodeEncodeError as error:
        raise DataError(f"{name}: a text holds half a character ({error.reason})") from error


def with_class_names(table: Dataset, path: Path) -> Dataset:
    """The ClassLabels that ``datasets`` has noted in a Parquet file: their ids have names."""
    import datasets
    import pyarrow.parquet

    if path.suffix.lower() != ".parquet":
        return table
    noted = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))
    for name in table.column_names:
        if isinstance(getattr(noted[name], "feature", noted[name]), datasets.ClassLabel):
            table = table.cast_column(name, noted[name])
    return table


def write_arrow(batches: Iterator[RecordBatch], path: Path) -> None:
    """A stream of record batches, as ``Dataset.from_file`` reads it."""
    import pyarrow

    first = next(batches)  # there is one: a file without rows is refused
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, first.schema) as stream:
        stream.write_batch(first)
        for batch in batches:
            stream.write_batch(batch)


def as_dataset(rows: Columns, name: str) -> Dataset:
    """Columns of a file as a data set. Raises DataError."""
    from datasets import Dataset

    try:
        return with_origin(Dataset.from_dict(rows), Origin(name))
    except UnicodeEncodeError as error:
        raise DataError(f"{name}: a text holds half a character ({error.reason})") from error
    except (ValueError, TypeError, OverflowError) as error:  # ArrowInvalid is a ValueError
        raise DataError(f"{name}: a column mixes kinds of values ({error})") from error


def files_in(folder: Path) -> dict[str, str | None]:
    """train.* and test.*, eval.* or validation.* of a folder; of a folder of pictures metadata.*, or that of its splits."""

    def find(*stems: str) -> str | None:
        for stem in stems:
            for path in sorted([*folder.glob(f"{stem}.*"), *folder.glob(f"{stem}/metadata.*")]):
                if path.suffix.lower() in SUFFIXES and path.stem in (stem, "metadata"):
                    return str(path)
        return None

    train = find("train", "metadata")
    if train is None:
        raise DataError(f"{folder} holds no train file (train{', train'.join(SUFFIXES)}): name one with --train-file")
    return {"train": train, "eval": find("eval", "validation", "test")}


def undecoded(table: Dataset) -> Dataset:
    """Pictures, and whatever else ``datasets`` would open on reading a cell, stay files: a task opens what it knows."""
    origin = origin_of(table)
    for name, feature in table.features.items():
        if (plain := without_decoding(feature)) != feature:
            table = with_origin(table.cast_column(name, plain), origin)
    return table


def without_decoding(feature: Any) -> Any:
    """The feature of a column, or of a part of one, such that its cells are read as they are kept."""
    import datasets

    if isinstance(feature, dict):
        return {name: without_decoding(part) for name, part in feature.items()}
    if isinstance(feature, datasets.List | datasets.LargeList):
        return dataclasses.replace(feature, feature=without_decoding(feature.feature))
    is_file = getattr(feature, "decode", False) and type(feature).__name__ != "Json"  # the one that is text
    return dataclasses.replace(feature, decode=False) if is_file else feature


def check_columns(where: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises DataError naming the columns there are."""
    for name in wanted:
        if name not in found:
            raise DataError(f"{where} has no column {name!r} (it has: {', '.join(found)})")
