"""``evaluate --errors``, slice by slice: where the model is worse than elsewhere, on the terminal and in a CSV file beside
errors.csv."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.commands.flags import EvaluateConfig
from engine.commands.output import check_output, without_formula, writing
from engine.console import say, say_lines, shown
from engine.errors import UsageError
from engine.findings.slices import HEADER, LEAST_ROWS, Slice, parts_by_column, parts_by_length, parts_by_word, tested
from engine.task import Examples, Judge, Review

MOST_LINES = 5


def slice_columns(config: EvaluateConfig) -> tuple[str, ...]:
    """Those of ``--slice``."""
    return tuple(dict.fromkeys(name for name in (config.slice or "").split(",") if name))


def path_of_slices(path: Path) -> Path:
    """``wrong.csv``: ``wrong.slices.csv``."""
    return path.with_suffix(".slices.csv")


def check_slices(config: EvaluateConfig) -> None:
    """Raises UsageError for a second file that must not be written."""
    if config.errors:
        path = path_of_slices(Path(config.errors))
        check_output(
            "--errors, its second file,",
            str(path),
            [".csv"],
            inputs=[config.file, config.output],
            model=config.model,
            own=path.name,
        )


def check_judges(config: EvaluateConfig, reviews: Mapping[str, Review]) -> None:
    """Raises UsageError for ``--slice`` where rows are not right or wrong."""
    if config.slice and not all(isinstance(review, Judge) for review in reviews.values()):
        raise UsageError(
            "--slice: this task does not tell right from wrong row by row, so no part of them can be worse: leave it out"
        )


def slices_of(config: EvaluateConfig, reviews: Mapping[str, Review], sets: Mapping[str, Examples]) -> list[Slice]:
    """Parts and words of all sets, each family tested by itself; the least probable first."""
    found: list[Slice] = []
    for name, review in reviews.items():
        if not isinstance(review, Judge):
            continue
        right, parts = review.right(), parts_by_length(np.asarray(sets[name].lengths))
        for column in slice_columns(config):
            parts |= parts_by_column(column, review.column(column))
        files = [Path(file).name for file in review.files()]
        parts |= parts_by_column("file", files) if len({*files}) > 1 else {}
        each = tested(right, parts) + tested(right, parts_by_word(review.words()))
        found += [dataclasses.replace(part, kind=f"{name}/{part.kind}") for part in each] if len(reviews) > 1 else each
    return sorted(found, key=lambda part: part.adjusted)


def write_slices(config: EvaluateConfig, reviews: Mapping[str, Review], slices: Sequence[Slice]) -> None:
    """All of them in a file, and the worst on the terminal."""
    if not config.errors or not any(isinstance(review, Judge) for review in reviews.values()):
        return
    path = path_of_slices(Path(config.errors))
    rows = [part.line() for part in slices]
    with writing("--errors", path) as stream:
        safe = [[without_formula(cell) for cell in row] for row in rows] if config.excel_safe else rows
        csv.writer(stream).writerows([HEADER, *safe])
    worse = [part for part in slices if part.is_worse]
    how = "Fisher's exact test, Holm's correction"
    if not slices:
        say(f"no part of the rows holds {LEAST_ROWS} or more and leaves as many: none was tested")
    elif not worse:
        say(f"{len(slices)} parts of the rows were looked at, and none is worse than the others beyond chance ({how})")
    else:
        say_lines(f"\nworse than elsewhere, of {len(slices)} parts ({how}):")
        say_lines("\n".join(map(described, worse[:MOST_LINES])))
    say(f"{len(slices)} parts written to {path}")


def described(part: Slice) -> str:
    name = shown(f"{part.kind} {part.value}", 40)
    accuracy = f"{part.accuracy:>8.4f} +- {part.error:.4f} of {part.rows:>6} rows"
    return f"  {name:<42}{accuracy}, others {part.rest:.4f}, p {part.adjusted:.2g}"
