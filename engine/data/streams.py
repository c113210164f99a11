"""Files as streams: plain or compressed, as bytes or as lines of text; what is no text is refused with its place.

Nothing is unpacked to a disk: .gz, .zst and .zip are read as they go by. Next: delimited.py, json_rows.py, arrow_rows.py.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from engine.console import note
from engine.errors import DataError

TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".conll", ".txt")
ARROW = (".parquet", ".arrow", ".feather")
PACKED = (".gz", ".zst", ".zip")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".conll", ".txt")
MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
CHUNK = 2**20
MOST_LINE = 2**30  # characters: of a row, or of a .json document that stands in one line


def check_readable(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a directory: give a file ({' '.join(SUFFIXES)})")
    if path.exists() and not path.is_file():  # a pipe or a device may never end
        raise DataError(f"{path} is not a regular file: write what it gives to one first")
    try:
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def kind_of(path: Path) -> str:
    """``.csv`` of train.csv, of train.csv.gz, and of train.zip that holds one; "" of what has no kind. Raises DataError."""
    suffix = path.suffix.lower()
    if suffix == ".zip" and Path(path.stem).suffix.lower() not in SUFFIXES and path.is_file():
        return Path(member_of(path)).suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED else suffix


def looks_like_a_file(name: str) -> bool:
    """Does a name end like that of a file that can be read?"""
    ends = (f"{suffix}{packed}" for suffix in SUFFIXES for packed in ("", *PACKED))
    return name.lower().endswith((*ends, ".zip"))


def member_of(path: Path) -> str:
    """The name of the one file in a .zip. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [each for each in archive.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX/")]
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}") from error
    if len(inside) != 1:
        names = ", ".join(each.filename for each in inside[:5]) or "nothing"
        raise DataError(
            f"{path} must hold one file, and holds {names}{' ...' * (len(inside) > 5)}: unpack it, and name the file"
        )
    if inside[0].flag_bits & 1:
        raise DataError(f"{path} is locked with a password: unpack it, and name the file")
    return inside[0].filename


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The content, unpacked. Raises DataError for an archive that is damaged, wherever that shows."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".gz":
            with gzip.open(path, "rb") as stream:
                yield cast(BinaryIO, stream)
        elif suffix == ".zst":
            import pyarrow

            with pyarrow.input_stream(str(path), compression="zstd") as packed:
                yield cast(BinaryIO, io.BufferedReader(packed))
        elif suffix == ".zip":
            with zipfile.ZipFile(path) as archive, zipfile.Path(archive, member_of(path)).open("rb") as member:
                yield cast(BinaryIO, io.BufferedReader(member))
        else:
            with open(path, "rb") as plain:
                yield plain
    except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(f"{path} is damaged, or cut off: it cannot be unpacked ({error})") from error
    except OSError as error:
        if suffix == ".zst" and error.errno is None:  # pyarrow's
            raise DataError(f"{path} is damaged, or cut off: it cannot be unpacked ({error})") from error
        raise


def mark_of(path: Path) -> str | None:
    """The encoding that the first bytes of a file say; None: nothing."""
    with open_bytes(path) as stream:
        first = stream.read(4)
    return next((name for mark, name in MARKS.items() if first.startswith(mark)), None)


def line_end(path: Path, encoding: str) -> str:
    """What ends the lines of a file, by its first one: a carriage return alone (old Excel of a Mac), or a line feed.

    The other of the two is then text like any other, or refused by who reads the rows: it may not cut a row in two.
    """
    with open_bytes(path) as stream, io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
        return "\r" if text.readline(MOST_LINE).endswith("\r") else "\n"


def open_text(path: Path, encoding: str | None) -> Iterator[str]:
    """Lines with their ends as they are; a byte-order mark is not part of the text. Raises DataError."""
    name = encoding or mark_of(path) or "utf-8"
    try:
        is_latin = codecs.lookup(name).name == "iso8859-1"
        end = line_end(path, name)
        with open_bytes(path) as stream, io.TextIOWrapper(stream, encoding=name, newline=end) as text:
            for number, line in enumerate(iter(partial(text.readline, MOST_LINE), ""), start=1):
                if len(line) == MOST_LINE and not line.endswith(end):
                    raise DataError(f"{path} line {number} has more than {MOST_LINE:,} characters: cut it into rows")
                if "\0" in line:
                    raise DataError(f"{path} line {number} holds a NUL byte: no text, or in another --encoding")
                if is_latin and (found := re.search("[\x80-\x84\x86-\x9f]", line)):
                    is_latin = False  # said once
                    better = found[0].encode("latin-1").decode("cp1252", "replace")
                    note(f"warning: {path} line {number} holds the control character U+{ord(found[0]):04X}, which no text "
                         f"does: --encoding cp1252 reads it as {better!r}")  # fmt: skip
                yield line.removeprefix("\ufeff") if number == 1 else line
    except LookupError as error:
        raise DataError(f"--encoding {encoding}: unknown encoding (latin-1, utf-16, cp1252 ...)") from error
    except UnicodeDecodeError as error:
        raise DataError(encoding_message(path, name)) from error
    except UnicodeError as error:  # UTF-16 without its mark
        raise DataError(f"{path} is not {name}: {error}") from error


def encoding_message(path: Path, encoding: str) -> str:
    """Names the offset in the file: the decoder knows only that in its buffer. And what the file may be in instead."""
    decoder, offset, has_others = codecs.getincrementaldecoder(encoding)(), 0, False
    with open_bytes(path) as stream:
        while chunk := stream.read(CHUNK):
            before = len(decoder.getstate()[0])  # bytes of a character that the last chunk has begun
            try:
                decoded = decoder.decode(chunk)
            except UnicodeDecodeError as error:
                offset += error.start - before
                has_others |= not chunk[: max(0, error.start - before)].removeprefix(codecs.BOM_UTF8).isascii()
                break
            has_others |= not decoded.removeprefix("\ufeff").isascii()
            offset += len(chunk)
        else:
            offset -= len(decoder.getstate()[0])  # a character that the file does not end
    said = f"{path} is not {'UTF-8' if encoding == 'utf-8' else encoding} (byte {offset})"
    if encoding == "utf-8" and has_others:
        return f"{said}, though other characters before it are: that place is damaged, mend it"
    return f"{said}: name its encoding, for instance --encoding {likely_encoding(path)}"


def likely_encoding(path: Path) -> str:
    """latin-1 has no character for the bytes 0x80 to 0x9f, cp1252 has curly quotes and dashes there."""
    with open_bytes(path) as stream:
        while chunk := stream.read(CHUNK):
            if re.search(rb"[\x80-\x9f]", chunk):
                return "cp1252"
    return "latin-1"
