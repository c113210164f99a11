"""Tables with types: Parquet, Arrow files, and folders that ``datasets`` has saved. Some rows at a time, with plain types.

Pandas' categories become what they stand for; the names of a ClassLabel's ids, which ``datasets`` notes in a file, are kept.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.checked import parse_object, read_bytes, shortened
from engine.data import form as forms
from engine.data.form import Columns, choose, nested_hint, refuse_repeated, way_to
from engine.data.streams import PACKED, check_readable
from engine.errors import DataError

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema

STATE, SPLITS = "state.json", "dataset_dict.json"  # of a data set that was saved, and of one with several splits


def read_arrow(path: Path, columns: Sequence[str] | None) -> Iterator[RecordBatch]:
    """The batches of a Parquet or Arrow file, or of a saved folder, with these columns in this order. Raises DataError.

    A field within another is named with dots; it is null where the object around it is.
    """
    import pyarrow

    is_empty = True
    for file in files_of(path):
        with opened(file) as (schema, batches):
            ways = ways_in(file, schema, columns)
            for batch in batches([way[0] for way in ways.values()]):
                batch.validate(full=True)  # else a damaged offset reads whatever lies behind the file in memory
                is_empty = is_empty and not len(batch)
                cells = [column_of(batch, way) for way in ways.values()]
                yield pyarrow.RecordBatch.from_arrays(cells, names=list(ways))
    if is_empty:
        raise DataError(f"{path} has no rows")


def files_of(path: Path) -> list[Path]:
    """The file itself, or those of a folder that ``save_to_disk`` has written, which lie in it. Raises DataError."""
    if not path.is_dir():
        return [path]
    if (path / SPLITS).exists():
        splits = ", ".join(sorted(each.parent.name for each in path.glob(f"*/{STATE}")))
        raise DataError(f"{path} holds several splits ({splits}): name the folder of one, or all with --data {path}")
    if not (path / STATE).exists():
        check_readable(path)
    try:
        state = parse_object(read_bytes(path / STATE))
        names = [entry["filename"] for entry in state["_data_files"]]
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError(f"it names files elsewhere: {names}")
        if state.get("_indices_data_files"):
            raise ValueError("it is an older form, with an index: save the data set again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path / STATE} is damaged, or of no data set: {error!r}") from error
    if not names:
        raise DataError(f"{path} has no rows")
    return [path / name for name in names]


@contextmanager
def opened(path: Path) -> Iterator[tuple[Schema, Any]]:
    """The schema of a file, and a function that gives the batches of some of its columns. Raises DataError."""
    import pyarrow
    import pyarrow.parquet

    check_readable(path)
    if path.suffix.lower() in PACKED:
        raise DataError(f"{path}: Parquet and Arrow files are compressed inside: unpack it first")
    is_parquet = path.suffix.lower() == ".parquet"
    try:
        if is_parquet:
            with pyarrow.parquet.ParquetFile(path) as file:
                yield file.schema_arrow, lambda names: file.iter_batches(forms.PIECE_ROWS, columns=list(dict.fromkeys(names)))
        else:
            with pyarrow.memory_map(str(path)) as mapped:
                schema, batches = arrow_batches(mapped)
                with closing(batches):
                    yield schema, lambda _: batches
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # a name that is no text
        raise DataError(f"{path} is not a readable {'Parquet' if is_parquet else 'Arrow'} file: {error}") from error


def arrow_batches(mapped: Any) -> tuple[Schema, Generator[RecordBatch]]:
    """Of the two forms that Arrow files have: with an index at the end (Feather), and as a stream, as ``datasets`` writes."""
    import pyarrow

    def pieces(batches: Iterator[RecordBatch]) -> Generator[RecordBatch]:
        for batch in batches:
            yield from (batch.slice(at, forms.PIECE_ROWS) for at in range(0, len(batch), forms.PIECE_ROWS))

    try:
        file = pyarrow.ipc.open_file(mapped)
        return file.schema, pieces(file.get_batch(i) for i in range(file.num_record_batches))
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        stream = pyarrow.ipc.open_stream(mapped)
        return stream.schema, pieces(iter(stream))


def ways_in(path: Path, schema: Schema, columns: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """How each column is reached. A name that stands twice matters only to who asks for it. Raises DataError."""
    for name in schema.names if columns is None else columns:
        refuse_repeated(path, schema.names, name)
    fields = {field.name: within(field.type) for field in schema}
    ways = {name: way_to(fields, name) for name in (schema.names if columns is None else columns)}
    missing = [name for name, way in ways.items() if way is None]
    choose(path, schema.names, missing, nested_hint(fields, missing))
    return {name: way for name, way in ways.items() if way is not None}


def within(kind: Any) -> Any:
    """The fields of a struct by name; None for a type that has none."""
    import pyarrow

    return {field.name: within(field.type) for field in kind} if pyarrow.types.is_struct(kind) else None


def column_of(batch: RecordBatch, way: Sequence[str]) -> Any:
    """The cells at the end of a way through objects."""
    import pyarrow
    import pyarrow.compute

    cells = batch.column(way[0])
    for name in way[1:]:
        cells = pyarrow.compute.struct_field(cells, [name])
    return cells.dictionary_decode() if pyarrow.types.is_dictionary(cells.type) else cells


def noted_features(path: Path) -> Any:
    """The features of the columns, by what ``datasets`` has noted in the first file. Raises DataError for what it does not."""
    import datasets

    with opened(files_of(path)[0]) as (schema, _):
        try:
            return datasets.Features.from_arrow_schema(schema)
        except Exception as error:  # the note may hold anything: the library raises half a dozen kinds
            raise DataError(
                f"{path}: what datasets has noted of its columns cannot be read ({shortened(error)}): write it again without "
                "(pyarrow: table.replace_schema_metadata(None))"
            ) from error


def cells_of(path: Path, batch: RecordBatch) -> Columns:
    """The columns as lists of Python's values. Raises DataError for one that Python has not, such as a date after 9999."""
    found: Columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            found[name] = column.to_pylist()
        except (ValueError, OverflowError) as error:
            raise DataError(f"{path}, column {name!r}: a value is none that Python has ({error})") from error
    return found
