"""What ``monitor`` has found: lines for the terminal, the record, and the page with its pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from engine.artifacts.chart import Chart, chart, cut
from engine.artifacts.report import figure, page
from engine.console import shown
from engine.findings.drift import EMBEDDING, Feature
from engine.findings.profile import QUANTILES, Numbers, Profile, Vocabulary

NUM_BINS, MOST_NAMES, MOST_PIECES = 30, 12, 20
BEFORE, NOW = "before", "now"
WHAT = {
    "tokens": "tokens of a row, after it is cut",
    "characters": "characters of a row",
    "unknown tokens": "share of a row's tokens that the tokenizer does not know",
    "vocabulary": "how rare the pieces of a row are in the rows before",
    "confidence": "highest probability of a row",
    "value": "the number to be predicted",
    "predicted value": "the number that is predicted",
}


def table(features: Sequence[Feature], before: Profile, now: Profile) -> str:
    """A line for each feature."""
    lines = [f"  {'feature':<18}{BEFORE:<26}{NOW:<26}{'effect':>8}{'p, Holm':>10}"]
    for each in features:
        old, new = in_short(each, before, now)
        mark = "  drift" if each.is_drift else ""
        lines.append(
            f"  {each.name:<18}{shown(old, 24):<26}{shown(new, 24):<26}{each.effect:>8.3f}{each.adjusted:>10.2g}{mark}"
        )
    return "\n".join(lines)


def in_short(each: Feature, before: Profile, now: Profile) -> tuple[str, str]:
    """The medians of a number, or means where these are the same; of labels the share that has changed most."""
    if each.name in before.numbers:
        old, new = before.numbers[each.name], now.numbers[each.name]
        if old.median == new.median:
            return f"mean {old.mean:.4g}", f"mean {new.mean:.4g}"
        return f"median {old.median:.4g}", f"median {new.median:.4g}"
    if each.name == EMBEDDING:
        return "mean of vectors", f"{2 * NormalDist().inv_cdf(min((1 + each.effect) / 2, 1 - 1e-12)):.2f} deviations away"
    shares = shares_of(each.name, before, now)
    name = max(shares, key=lambda label: abs(shares[label][1] - shares[label][0]))
    return tuple(f"{cut(name)[:14]} {100 * share:.1f}%" for share in shares[name])  # type: ignore[return-value]


def shares_of(name: str, before: Profile, now: Profile) -> dict[str, tuple[float, float]]:
    """Of each label, before and now, the most frequent first."""
    old, new = before.shares[name], now.shares[name]
    names = dict.fromkeys([*old.counts, *new.counts])
    found = {label: (old.counts.get(label, 0) / old.rows, new.counts.get(label, 0) / new.rows) for label in names}
    return dict(sorted(found.items(), key=lambda each: -sum(each[1])))


def summary(each: Feature, before: Profile, now: Profile) -> dict[str, Any]:
    """What monitor.json says of a feature."""
    found = dataclasses.asdict(each) | {"rows": {BEFORE: each.rows[0], NOW: each.rows[1]}}
    for when, profile in ((BEFORE, before), (NOW, now)):
        if each.name in profile.numbers:
            numbers = profile.numbers[each.name]
            found[when] = {"mean": numbers.mean, "quantiles": dict(zip(map(str, QUANTILES), numbers.quantiles, strict=True))}
        elif each.name == EMBEDDING and profile.embedding is not None:
            found[when] = {"mean": list(profile.embedding.mean)}
        else:
            found[when] = dict(profile.shares[each.name].counts)
    return found


def draw(
    title: str, line: str, record: Mapping[str, Any], features: Sequence[Feature], before: Profile, now: Profile, tokenizer: Any
) -> str:
    """The page: the verdict, a picture of each feature, and tables of all."""
    numbers = [each for each in features if each.name in before.numbers]
    labels = [each for each in features if each.name in before.shares]
    rows = [
        [each.name, each.test, *in_short(each, before, now), *map(str, each.rows), f"{each.effect:.3f}", f"{each.p:.2g}",
         f"{each.adjusted:.2g}", "drift" if each.is_drift else ""]
        for each in features
    ]  # fmt: skip
    heads = ["feature", "test", BEFORE, NOW, "rows before", "rows now", "effect", "p", "p, Holm", ""]
    tables = [("Features", heads, rows)]
    figures: Mapping[str, Mapping[str, Any]] = record["figures"]
    if figures[NOW]:
        lines = [
            [name, *("-" if each is None else figure(each) for each in (figures[BEFORE][name], value))]
            for name, value in figures[NOW].items()
        ]
        tables.append(("Figures of the model", ["", BEFORE, NOW], lines))
    if tokenizer is not None and before.vocabulary is not None and now.vocabulary is not None:
        heading = "Pieces of words whose share of the rows has changed most (% of the rows that hold them)"
        tables.append((heading, ["piece", BEFORE, NOW], pieces(before.vocabulary, now.vocabulary, tokenizer)))
    drifted = [each for each in features if each.is_drift]
    tiles = [("verdict", "drift" if drifted else "no drift"), ("rows", f"{record['rows']:,}"),
             *((each.name, f"{each.effect:.2f}") for each in drifted)]  # fmt: skip
    of = next(iter(before.numbers.values())).of if before.numbers else ""
    how = (
        f"Numbers before are of a sample of {of}; an effect is the largest distance of two distribution functions, or half the "
        "sum of the differences of shares: 0 the same, 1 nothing in common."
    )
    charts = [of_numbers(each.name, before.numbers[each.name], now.numbers[each.name]) for each in numbers]
    bars = [of_labels(each.name, before, now) for each in labels]
    return page(title, [line, how], tiles, [("Numbers", charts), ("Labels", bars)], tables)


def of_numbers(name: str, before: Numbers, now: Numbers) -> Chart:
    """Two histograms over the same bins; the highest hundredth stands in the last one."""
    both = np.concatenate([before.sample, now.sample])
    low, high = float(both.min()), float(np.quantile(both, 0.99))
    edges: np.ndarray = np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)
    if (both == both.round()).all():  # bins of as many whole numbers each
        width = -(-(int(high) - int(low) + 1) // NUM_BINS)
        edges = np.arange(int(low), int(high) + width + 1, width) - 0.5
    middles = (edges[1:] + edges[:-1]) / 2

    def points(values: Sequence[float]) -> list[list[float]]:
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        return [[float(x), 100 * float(count) / len(values)] for x, count in zip(middles, counts, strict=True)]

    lines = {BEFORE: points(before.sample), NOW: points(now.sample)}
    return chart(name.capitalize(), "% of the rows", lines, x=WHAT.get(name, name), fractions=True)


def of_labels(name: str, before: Profile, now: Profile) -> Chart:
    """A bar for each of the most frequent labels, before and now."""
    shares = dict(list(shares_of(name, before, now).items())[:MOST_NAMES])
    bars = {when: [[i, 100 * share[at]] for i, share in enumerate(shares.values())] for at, when in enumerate((BEFORE, NOW))}
    return chart(name.capitalize(), "% of the rows", bars, x="label", names=[cut(label) for label in shares], bars=True)


def pieces(before: Vocabulary, now: Vocabulary, tokenizer: Any) -> list[list[str]]:
    """Those whose share of the rows has changed most."""

    def share(found: Vocabulary, piece: int) -> float:
        return float(found.counts.get(piece, found.rest)) / max(found.rows, 1)

    changes = {piece: (share(before, piece), share(now, piece)) for piece in {*before.counts, *now.counts}}
    most = sorted(changes, key=lambda piece: (-abs(changes[piece][1] - changes[piece][0]), piece))[:MOST_PIECES]
    known = len(tokenizer)
    words = [str(tokenizer.convert_ids_to_tokens(piece)) if piece < known else f"id {piece}" for piece in most]
    return [[cut(word), *(f"{100 * part:.1f}" for part in changes[piece])] for word, piece in zip(words, most, strict=True)]
