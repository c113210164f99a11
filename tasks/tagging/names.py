"""Which tags there are, in the order of the model's outputs, and how often each stands in the training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from engine.console import note, shown
from engine.errors import DataError
from tasks.classification.labels import warn_of_lookalikes
from tasks.tagging.tags import kinds_of
from tasks.tagging.words import Tagged


def names_for(
    sentences: Sequence[Tagged], given: Sequence[str] | None, own: Sequence[str] | None, model: str
) -> tuple[str, ...]:
    """Those of a tagger that is trained on (``own``, of ``model``), else those that are given, else the data's, "O" first.

    Raises DataError for a tag that the tagger does not know, and where there is one tag only.
    """
    used = {tag for _, tags in sentences for tag in tags}
    names = tuple(given or sorted(used, key=lambda tag: (tag != "O", tag)))
    if own is not None:
        if unknown := sorted(used - set(own)):
            raise DataError(
                f"the data have the tag {unknown[0]!r}, and {model} was trained for {', '.join(own)}: "
                "train on from a model without tags of its own"
            )
        note(f"tags: those of {model}: {', '.join(own)}")
        names = tuple(own)
    warn_of_lookalikes(names, "tags")
    if len(names) < 2:
        raise DataError(f"the training data have one tag only, {names[0]!r}: there is nothing to tell apart")
    return names


def say_what_there_is(sentences: Sequence[Tagged], names: Sequence[str]) -> None:
    """Tags with their counts: a wrong column is seen here."""
    counts = Counter(tag for _, tags in sentences for tag in tags)
    total = counts.total()
    if (kinds := kinds_of(names)) is None:
        shares = ", ".join(f"{shown(tag)} {n / total:.0%}" for tag, n in counts.most_common(12))
        note(f"tags: {len(names)}, each by itself: {shares}{', ...' if len(names) > 12 else ''} of {total:,} words")
        return
    begun = {kind: counts[f"B-{kind}"] + counts[f"S-{kind}"] + counts[f"U-{kind}"] for kind in kinds}
    listed = ", ".join(f"{shown(kind)} {n or counts[f'I-{kind}']:,}" for kind, n in begun.items())
    note(f"tags: names of {len(kinds)} kinds ({listed}); {counts['O'] / total:.0%} of {total:,} words are in none")
