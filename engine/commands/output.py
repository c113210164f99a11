"""Files that commands write: predictions beside the input's columns, each file whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from engine.data.files import Columns
from engine.errors import ResourceError, UsageError

if TYPE_CHECKING:
    pass


def check_output(name: str | None) -> None:
    """Raises UsageError for a file that cannot be made: better now than when the work is done."""
    if name is not None and not Path(name).parent.is_dir():
        raise UsageError(f"--output {name}: there is no such directory")
    if name is not None and Path(name).is_dir():
        raise UsageError(f"--output {name} is a directory: name a file")


def write_predictions(path: Path, rows: Columns, predictions: Sequence[Mapping[str, Any]], excel_safe: bool = False) -> None:
    """The input's columns as they were, and the prediction's beside them (a CSV gets one column per probability).

    ``excel_safe`` changes cells that a spreadsheet would compute (CSV injection, OWASP): a quote before them makes them text.
    """
    names = list(rows)

    def cell(value: Any) -> Any:
        is_formula = excel_safe and isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        return f"'{value}" if is_formula else value

    def beside(key: str) -> str:
        """A name that the input has not; it may be the output of an earlier call."""
        while key in rows:
            key = f"predicted_{key}"
        return key

    def fields(prediction: Mapping[str, Any]) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in prediction.items():
            if isinstance(value, Mapping) and path.suffix.lower() == ".csv":
                flat |= {beside(f"probability_{name}"): p for name, p in value.items()}
            elif isinstance(value, list) and path.suffix.lower() == ".csv":
                flat[beside(f"predicted_{key}")] = "|".join(map(str, value))
            else:
                flat[beside(f"predicted_{key}" if key in ("label", "value") else key)] = value
        return flat

    def lines() -> Iterable[dict[str, Any]]:
        for i, prediction in enumerate(predictions):
            yield {name: rows[name][i] for name in names} | fields(prediction)

    def write(stream: TextIO) -> None:
        if path.suffix.lower() == ".jsonl":
            stream.writelines(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines())
        else:
            writer = csv.writer(stream)
            columns = [*dict.fromkeys([*names, *fields(predictions[0])])]
            writer.writerow([cell(name) for name in columns])
            writer.writerows([cell(line[name]) for name in columns] for line in lines())

    write_atomically(path, "--output", write)


def write_atomically(path: Path, flag: str, write: Callable[[TextIO], None]) -> None:
    """An older file stays until the new one is whole. Raises ResourceError."""
    beside_it = path.with_name(f".{path.name}.tmp")
    try:
        with open(beside_it, "w", encoding="utf-8", newline="") as stream:
            write(stream)
        os.replace(beside_it, path)
    except OSError as error:
        raise ResourceError(f"{flag} {path} cannot be written: {error.strerror}") from error
