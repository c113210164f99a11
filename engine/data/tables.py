"""Tables of rows from files: read in pieces into an Arrow file on disk, with the columns that a task asks for.

Next: sources.py, which decides what is read.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data.cache import SCRATCH, scratch_folder
from engine.data.files import SUFFIXES, Columns, read_parquet, read_pieces, read_table
from engine.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import RecordBatch


def read_dataset(path: Path, columns: Sequence[str], name: str, **options: str | None) -> Dataset:
    """The columns of a file, mapped into memory from a copy on disk, which goes with this process. Raises DataError.

    A JSONL file, whose columns may change their kind at its end, is held in memory.
    """
    import pyarrow
    from datasets import Dataset

    if path.suffix.lower() == ".jsonl":
        return as_dataset(read_table(path, columns, **options), name)
    if path.suffix.lower() == ".parquet":
        batches = read_parquet(path, columns)
    else:
        kinds = pyarrow.schema([(column, pyarrow.string()) for column in columns])
        pieces = read_pieces(path, columns, **options)
        batches = (pyarrow.RecordBatch.from_pydict(piece, kinds) for piece in pieces)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=scratch_folder()) as folder:  # what is mapped stays
        copy = Path(folder) / "rows.arrow"
        try:
            write_arrow(batches, copy)
        except UnicodeEncodeError as error:
            raise DataError(f"{name}: a text holds half a character ({error.reason})") from error
        return with_class_names(Dataset.from_file(str(copy)), path)


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
        return Dataset.from_dict(rows)
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
    for name, feature in table.features.items():
        if (plain := without_decoding(feature)) != feature:
            table = table.cast_column(name, plain)
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
