"""``python run.py lesson``: lists the lessons, runs one or all, prints what was found and draws it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.installed import install, program
from engine.settings.fields import setting

if TYPE_CHECKING:
    from bench.lessons.lesson import Finding, Lesson


@dataclass(frozen=True)
class LessonConfig:
    """Settings of ``lesson``."""

    all: bool = setting(False, "run every lesson")
    exercise: bool = setting(False, "write the file of this lesson's exercise, which you change, and end")
    check: str | None = setting(
        None, "is this file, an exercise that you have changed, right? If not, one sentence says what is wrong"
    )
    output: str | None = setting(None, "with --exercise: the file to write (default: LESSON_exercise.py)")
    output_dir: str = setting("runs/lessons", "where the pictures go")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")


def teach(flags: LessonConfig, names: Sequence[str], find: Any = None) -> None:
    """Run the lessons named. Raises UsageError; ClaimError (exit code 1), after all have run, if a claim does not hold here."""
    if flags.exercise or flags.check is not None or flags.output is not None:
        return practise(flags, names)
    missing = [package for package in ("accelerate", "matplotlib") if find_spec(package) is None]
    if missing:
        raise UsageError(f"lessons need {' and '.join(missing)}, of the bench extra: {install('bench')}")
    from bench.lessons.lesson import ClaimError

    lessons = all_lessons()
    for name in names:
        if name not in lessons:
            near = get_close_matches(name, lessons, n=1)
            others = f" (did you mean {near[0]}?)" if near else f"; there are: {', '.join(lessons)}"
            raise UsageError(f"unknown lesson {name!r}{others}")
    if flags.all and names:
        raise UsageError(f"--all and {names[0]} contradict each other: give one of them")
    chosen = list(lessons) if flags.all else list(dict.fromkeys(names))
    if not chosen:
        return print_list(lessons)
    wrong = [name for name in chosen if not run(lessons[name], Path(flags.output_dir))]
    if wrong:
        raise ClaimError(
            f"lesson {', '.join(wrong)}: the claim does not hold with transformers {version('transformers')} and accelerate "
            f"{version('accelerate')}; it was measured with the versions of constraints.txt"
        )


def practise(flags: LessonConfig, names: Sequence[str]) -> None:
    """Write an exercise, or check one. Raises UsageError, and NotYetError (exit code 1) for one that is not right yet."""
    from bench.lessons import exercise

    if flags.all or len(names) != 1:
        raise UsageError(
            f"an exercise is of one lesson: {program()} lesson accumulation --exercise; of {', '.join(exercise.names())}"
        )
    if flags.exercise and flags.check is not None:
        raise UsageError("--exercise writes the file anew and --check looks at yours: give one of them")
    if flags.output is not None and not flags.exercise:
        raise UsageError("--output is the file that --exercise writes: give both, or leave it out")
    exercise.check(names[0], flags.check) if flags.check is not None else exercise.write(names[0], flags.output)


def all_lessons() -> dict[str, Lesson]:
    """By name, in the order in which they are best read."""
    from bench.lessons import (
        checkpoints,
        cost,
        data,
        evaluation,
        gradients,
        logged,
        randomness,
        ranks,
        reports,
        resumed,
        sharding,
        updates,
    )  # fmt: skip

    modules = (gradients, updates, logged, randomness, data, evaluation, cost, reports, checkpoints, resumed, ranks, sharding)
    return {lesson.name: lesson for module in modules for lesson in module.LESSONS}


def print_list(lessons: dict[str, Lesson]) -> None:
    print("What Trainer hides; each lesson takes seconds:\n")
    for lesson in lessons.values():
        print(f"  {lesson.name:<14} {lesson.hides}")
    print(
        f"\n{program()} lesson {next(iter(lessons))} runs one, --all all; docs/what-trainer-hides.md has the whole list;"
        "\n--exercise gives you something to solve, in the order of docs/course.md"
    )


def run(lesson: Lesson, folder: Path) -> bool:
    """Run, print, draw; does the claim hold?"""
    from bench.lessons.lesson import place

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        finding = lesson.experiment(scratch)
    picture = draw(lesson, finding, folder)
    print(f"\n{lesson.name}: {lesson.hides}\n")
    print(as_table(finding.table))
    print(f"\n{finding.said}." if finding.holds else f"\nThe installed Trainer does not do this. Found: {finding.said}.")
    if finding.note:
        print(finding.note)
    for who, (file, quote) in (("here", lesson.ours), ("there", lesson.theirs)):
        print(f"  {who:<8} {place(file, quote) or f'{file} (the line is not in this version)'}   {quote}")
    print(f"  picture  {picture}   ({time.perf_counter() - began:.0f} s)", flush=True)
    return finding.holds


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))] for row in rows
    )
    return "\n".join(f"  {'  '.join(cells).rstrip()}" for cells in padded)


def draw(lesson: Lesson, finding: Finding, folder: Path) -> Path:
    """The picture, 800 pixels wide; its title is the finding."""
    from bench.contest.pictures import figure, save

    folder.mkdir(parents=True, exist_ok=True)
    drawn, axes = figure(4.2)
    finding.draw(axes)
    drawn.suptitle(finding.said, x=0.01, ha="left", fontsize=11)
    source = f"{program()} lesson {lesson.name}, transformers {version('transformers')}"
    drawn.supxlabel(source, x=0.99, ha="right", fontsize=8, color="#666666")
    return save(drawn, folder / f"{lesson.name}.png")
