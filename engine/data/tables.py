"""Tables of rows from files: read in pieces into an Arrow file on disk, with the columns that a task asks for.

Next: sources.py, which decides what is read.
"""

from __future__ import annotations

import atexit
import bisect
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.data.arrow_rows import noted_features, read_arrow
from engine.data.cache import held_folder
from engine.data.files import PLAIN, has_types, read_pieces
from engine.data.form import Form, follow, way_to
from engine.data.remote import by_address, spoken
from engine.errors import DataError, MissingColumnError

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import RecordBatch, Schema


RowName = Callable[[int], str]


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the rows of a table stand: in which files (none: in none), and in which of their rows, all counted on from 0.

    ``starts``: the number of each file's first row, as the rows of all are counted. ``rows``: None: all, in order.
    """

    files: Sequence[str] = ()
    starts: Sequence[int] = (0,)
    rows: np.ndarray | None = None


def origin_of(table: Dataset) -> Origin:
    return vars(table).get("origin", Origin())  # type: ignore[no-any-return]


def with_origin(table: Dataset, origin: Origin) -> Dataset:
    vars(table)["origin"] = origin
    return table


def chosen(table: Dataset, rows: np.ndarray) -> Dataset:
    """These rows of a table, [N] from 0, which keep their names."""
    before = origin_of(table)
    return with_origin(table.select(rows), dataclasses.replace(before, rows=rows if before.rows is None else before.rows[rows]))


def below(first: Dataset, second: Dataset) -> Dataset:
    """The rows of two tables of the same columns, one below the other; they keep their names. Raises DataError."""
    from datasets import concatenate_datasets

    origins = [origin_of(table) for table in (first, second)]
    rows = [np.arange(len(t)) if o.rows is None else o.rows for t, o in zip((first, second), origins, strict=True)]
    beyond = 1 + max([origins[0].starts[-1], *rows[0].tolist()])
    files = [name for o in origins for name in (o.files or [""] * len(o.starts))]
    starts = [*origins[0].starts, *(beyond + start for start in origins[1].starts)]
    try:
        both = concatenate_datasets([first, second.cast(first.features)])
    except (ValueError, TypeError) as error:  # ArrowInvalid is a ValueError
        raise DataError(f"the columns of two tables hold other kinds of values ({error})") from error
    return with_origin(both, Origin(files, starts, np.concatenate([rows[0], beyond + rows[1]])))


def place_of(table: Dataset, row: int) -> tuple[str, int]:
    """The file of a row ("": none) and which row of it, from 1; ``row``: of the table, from 0."""
    return place_in(origin_of(table), row)


def place_in(origin: Origin, row: int) -> tuple[str, int]:
    number = row if origin.rows is None else int(origin.rows[row])
    at = bisect.bisect_right(origin.starts, number) - 1
    return origin.files[at] if origin.files else "", 1 + number - origin.starts[at]


def row_number(table: Dataset, row: int) -> int:
    """Which row of its file a row of the table is, from 1; ``row``: from 0."""
    return place_of(table, row)[1]


def row_name(table: Dataset, row: int) -> str:
    """``train.csv, row 51``, whatever part of the file the table is; ``row``: from 0."""
    return name_in(origin_of(table), row)


def name_in(origin: Origin, row: int) -> str:
    file, number = place_in(origin, row)
    return f"{file}{', ' if file else ''}row {number}"


def names_of_rows(table: Dataset) -> RowName:
    """``row_name`` of the rows of a table, for as long as it is asked: the table itself, and what it maps, may go."""
    return partial(name_in, origin_of(table))


_before: ContextVar[int] = ContextVar("rows before", default=0)


@contextmanager
def counting_from(row: int) -> Iterator[None]:
    """In here the rows that ``plain_row`` names are those of a file from this one on, counted from 0."""
    token = _before.set(row)
    try:
        yield
    finally:
        _before.reset(token)


def plain_row(row: int, noun: str = "row") -> str:
    """Of what is all that there is; or, in ``counting_from``, of some rows of a file by their numbers in it."""
    return f"{noun} {_before.get() + row + 1}"


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


def read_dataset(files: Sequence[Path], columns: Sequence[str], form: Form = PLAIN) -> Dataset:
    """The columns of one or more files, one below the other, mapped from a copy on disk, which goes with this process.

    Where no disk has room, it is held in memory. Raises DataError, also where a column holds values of different kinds.
    """
    rows = Rows(files, columns, form)
    with by_address():
        return kept(rows)


def kept(rows: Rows) -> Dataset:
    """The rows on disk, or in memory."""
    import pyarrow
    from datasets import Dataset

    places: tuple[Callable[[], Any], ...] = (
        partial(held_folder, "rows"),
        partial(tempfile.TemporaryDirectory, ignore_cleanup_errors=True),
    )
    for place in places:
        with suppress(OSError), ExitStack() as folders:
            copy = Path(folders.enter_context(place())) / "rows.arrow"
            rows.write(copy)
            found = rows.finished(Dataset.from_file(str(copy)))  # what is mapped stays ...
            if sys.platform != "linux":  # ... but for processes that are spawned, which open the file anew
                atexit.register(folders.pop_all().close)
            return found
    return rows.finished(Dataset(pyarrow.Table.from_batches(rows.settled())))


class Rows:
    """The rows of some files as record batches of one schema, which a later piece may widen: then all are read again."""

    def __init__(self, files: Sequence[Path], columns: Sequence[str], form: Form):
        self.files, self.columns, self.form = files, columns, form
        self.schema: Schema | None = None
        self.starts: list[int] = []

    def write(self, path: Path) -> None:
        """A stream of record batches, as ``Dataset.from_file`` reads it."""
        while True:
            try:
                return write_arrow(self.batches(), path)
            except WidenedError as found:
                self.schema = found.schema

    def settled(self) -> list[RecordBatch]:
        """The same, in memory."""
        while True:
            try:
                return list(self.batches())
            except WidenedError as found:
                self.schema = found.schema

    def batches(self) -> Iterator[RecordBatch]:
        """Raises WidenedError where a piece has a schema that those before have no room for."""
        number, self.starts = 0, []
        for file in self.files:
            self.starts.append(number)
            for batch in self.batches_of(file):
                number += len(batch)
                yield self.fitted(batch, file)

    def batches_of(self, file: Path) -> Iterator[RecordBatch]:
        import pyarrow

        if has_types(file):
            self.form.refuse_names(file)
            yield from read_arrow(file, self.columns)
            return
        for piece in read_pieces(file, self.columns, self.form):
            try:
                yield pyarrow.RecordBatch.from_pydict(piece)
            except UnicodeEncodeError as error:
                raise DataError(f"{file}: a text holds half a character ({error.reason})") from error
            except (ValueError, TypeError, OverflowError) as error:  # ArrowInvalid is a ValueError
                raise DataError(f"{file}: a column mixes kinds of values ({error})") from error

    def fitted(self, batch: RecordBatch, file: Path) -> RecordBatch:
        """The batch in the schema of those before. Raises DataError where the kinds of values do not go together."""
        import pyarrow

        plain = batch.schema.remove_metadata()
        self.schema = self.schema or plain
        if plain != self.schema:
            try:
                both = pyarrow.unify_schemas([self.schema, plain], promote_options="permissive")
                if both != self.schema:
                    raise WidenedError(both)
                batch = widened(batch, self.schema)
            except pyarrow.ArrowException as error:
                raise DataError(f"{file}: a column mixes kinds of values ({error})") from error
        return pyarrow.RecordBatch.from_arrays(batch.columns, schema=self.schema)

    def finished(self, table: Dataset) -> Dataset:
        """With the names of its ids, and of its rows."""
        return with_origin(with_class_names(table, self.files), Origin([spoken(str(file)) for file in self.files], self.starts))


class WidenedError(Exception):
    """A later piece needs a wider schema."""

    def __init__(self, schema: Schema):
        super().__init__(str(schema))
        self.schema = schema


def widened(batch: RecordBatch, schema: Schema) -> RecordBatch:
    """Cast, without loss: Arrow refuses a number that the wider type has not."""
    import pyarrow

    cells = [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
    return pyarrow.RecordBatch.from_arrays(cells, schema=schema)


def with_class_names(table: Dataset, files: Sequence[Path]) -> Dataset:
    """The ClassLabels that ``datasets`` has noted in Parquet and Arrow files: their ids have names, the same in all files."""
    noted = [noted_features(file) if has_types(file) else {} for file in files]
    for name in table.column_names:
        ways = [way_to(each, name) for each in noted]
        features = [None if way is None else follow(each, way) for each, way in zip(noted, ways, strict=True)]
        for file, feature in zip(files, features, strict=True):
            if is_class(feature) != is_class(features[0]) or (is_class(feature) and feature != features[0]):
                raise DataError(
                    f"{file}, column {name!r}: the names of its ids are not those of {files[0]}: read one of the two"
                )
        if is_class(features[0]):
            table = table.cast_column(name, features[0])
    return table


def is_class(feature: Any) -> bool:
    """Ids with names, or lists of them?"""
    import datasets

    return isinstance(getattr(feature, "feature", feature), datasets.ClassLabel)


def write_arrow(batches: Iterator[RecordBatch], path: Path) -> None:
    """A stream of record batches, as ``Dataset.from_file`` reads it."""
    import pyarrow

    first = next(batches)  # there is one: a file without rows is refused
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, first.schema) as stream:
        stream.write_batch(first)
        for batch in batches:
            stream.write_batch(batch)


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
            raise MissingColumnError(f"{where} has no column {name!r} (it has: {', '.join(found)})", name, found)
