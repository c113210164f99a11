"""A profile made: of the data and the answers of a run when it ends, or of the rows of a file.

A profile is not worth a run: whatever goes wrong with one is said, and the run ends as it would without. Next: drift.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from engine.console import note
from engine.distributed.world import World
from engine.findings.profile import COUNTED, SAMPLE, SEED, Moments, Numbers, Profile, Shares, Vocabulary
from engine.task import Answers, Task, Watch

T = TypeVar("T")
TRAINING, EVALUATION = "training rows", "evaluation rows"


def of_run(task: Task[Any], answers: Callable[[], Answers] | None, world: World) -> Profile | None:
    """That of a run: its training data, and the answers of an evaluation, if there are any. On rank 0; None elsewhere, and
    where there is none. Collective: each rank has the answers to its own rows."""
    if not task.watched:
        return None
    parts = [part for part in world.gather(attempted(answers) if answers is not None else None) if part is not None]
    if not world.is_main:
        return None
    return attempted(lambda: made(task.watch("train"), parts, [TRAINING, EVALUATION], most=SAMPLE))


def attempted(function: Callable[[], T]) -> T | None:
    """What it returns; None, with a note, where it fails."""
    try:
        return function()
    except Exception as error:  # of any kind: whatever a subclass has changed
        note(f"warning: the data profile could not be made ({type(error).__name__}: {error})")
        return None


def made(
    watch: Watch, parts: Sequence[Answers], of: Sequence[str], *, most: int, vocabulary: Vocabulary | None = None
) -> Profile:
    """The profile of the rows of ``watch``, and of answers.

    ``of``: whose the inputs are, and whose the answers. ``most``: rows in each sample. ``vocabulary``: that rows are compared
    with; None: their own, each with that of the others.
    """
    rows = drawn(len(watch))
    texts = watch.texts(rows)
    found_in = Vocabulary.of(texts.ids)
    found = {
        "tokens": np.array([len(row) for row in texts.ids], dtype=np.float64),
        "characters": np.asarray(texts.characters, dtype=np.float64),
        "vocabulary": (vocabulary or found_in).surprise(texts.ids[:most], within=vocabulary is None),
    }
    if texts.unknown is not None:
        found["unknown tokens"] = np.array([(row == texts.unknown).mean() if len(row) else 0.0 for row in texts.ids])
    numbers = {name: Numbers.from_values(of[0], values, most) for name, values in found.items()}
    shares, embedding = {}, None
    if isinstance(labels := watch.labels(), np.ndarray):
        numbers["value"] = Numbers.from_values(of[0], labels[rows], most)
    elif labels is not None:
        shares["label"] = Shares.from_counts(of[0], labels)
    if parts:
        values = in_order(parts)
        numbers[parts[0].number] = Numbers.from_values(of[1], values[drawn(len(values))], most)
        if any(part.shares for part in parts):
            shares["predicted label"] = Shares.from_counts(of[1], sum((Counter(part.shares) for part in parts), Counter()))
        if all(part.projected is not None for part in parts):
            embedding = Moments.from_values(of[1], np.concatenate([part.projected for part in parts]))  # type: ignore[misc]
    return Profile(numbers, shares, found_in, embedding=embedding)


def drawn(number: int) -> np.ndarray:
    """[k]: at most COUNTED of so many rows, in random order: the first of them are a smaller sample."""
    return np.random.default_rng(SEED).permutation(number)[:COUNTED]


def in_order(parts: Sequence[Answers]) -> np.ndarray:
    """The numbers of all answers in the order of their rows, which is not that in which they were computed."""
    rows, numbers = (np.concatenate(each) for each in zip(*((part.rows, part.numbers) for part in parts), strict=True))
    return np.asarray(numbers[np.argsort(rows, kind="stable")])
