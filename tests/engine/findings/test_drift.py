"""Drift: the tests against SciPy and by hand, planted changes that are found, and halves of the same data that are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from engine.errors import DataError
from engine.findings import drift, gather, profile
from engine.findings.drift import compare, merged, numbers_differ, shares_differ, verdict
from engine.findings.profile import Numbers, Profile, Shares, Vocabulary
from engine.task import Answers, Texts

ALPHA, LEAST = 0.001, 0.1


class Rows:
    """Rows of token ids as a task watches them."""

    def __init__(self, ids, labels=None):
        self.ids, self.given = ids, labels

    def __len__(self):
        return len(self.ids)

    def texts(self, rows):
        return Texts([self.ids[i] for i in rows], np.array([5 * len(self.ids[i]) for i in rows]), 1)

    def labels(self):
        return None if self.given is None else {name: int((self.given == i).sum()) for i, name in enumerate("ab")}


def texts(number, seed, pieces=400, longest=60):
    """Rows as texts are: few pieces stand in most rows, most in few, and what stands in a row stands there again."""
    generator = np.random.default_rng(seed)
    rare = 1 / (np.arange(pieces) + 3)
    found = []
    for length in generator.integers(8, longest, number):
        own = generator.choice(pieces, 6, p=rare / rare.sum())
        row = generator.choice(pieces, length, p=rare / rare.sum())
        found.append(np.where(generator.random(length) < 0.3, generator.choice(own, length), row) + 2)
    return found


def answers(number, seed, share=0.5):
    generator = np.random.default_rng(seed)
    labels = generator.random(number) < share
    names = {"a": int(labels.sum()), "b": int((~labels).sum())}
    return Answers(np.arange(number), names, "confidence", generator.beta(5, 1, number))


def both(old, new, old_answers=None, new_answers=None, labels=(None, None)):
    """The features of two sets of rows, compared."""
    before = gather.made(Rows(old, labels[0]), [old_answers or answers(len(old), 1)], ["old", "old"], most=2000)
    now = gather.made(
        Rows(new, labels[1]), [new_answers or answers(len(new), 2)], ["new", "new"], most=20_000, vocabulary=before.vocabulary
    )
    return compare(before, now, ALPHA, LEAST)


def test_the_tests_are_scipys():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=500), generator.normal(0.3, 1, 700)
    found = numbers_differ("x", Numbers.from_values("a", x, 2000), Numbers.from_values("b", y, 2000))
    expected = ks_2samp(x, y, method="asymp")
    assert (found.effect, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-3)
    old, new = {"a": 60, "b": 40}, {"a": 30, "b": 60, "c": 10}
    found = shares_differ("y", Shares.from_counts("a", old), Shares.from_counts("b", new))
    assert found.p == pytest.approx(chi2_contingency([[60, 40, 0], [30, 60, 10]], correction=False).pvalue)
    assert found.effect == pytest.approx((0.3 + 0.2 + 0.1) / 2)


def test_rare_labels_are_counted_together():
    table = np.array([[500.0, 3, 2, 1, 494], [500, 1, 1, 4, 494]])
    assert merged(table).shape[1] == 3 and merged(table).sum() == table.sum()
    assert merged(np.array([[4.0, 0], [0, 4]])).shape[1] == 1
    one = Shares.from_counts("a", {"x": 5})
    assert (shares_differ("x", one, one).p, shares_differ("x", one, one).effect) == (1.0, 0.0)


def test_shorter_texts_are_found():
    new = [row[:10] for row in texts(500, 2)]
    found = {each.name: each for each in both(texts(500, 1), new)}
    assert found["tokens"].is_drift and found["characters"].is_drift and found["tokens"].adjusted < 1e-3
    assert not found["predicted label"].is_drift and not found["confidence"].is_drift and not found["unknown tokens"].is_drift


def test_another_vocabulary_is_found_and_nothing_else_is():
    """A third of the pieces are others, of which the rows before hold none; or they are unknown."""
    generator = np.random.default_rng(3)
    same = texts(500, 2)
    other = [np.where(generator.random(len(row)) < 1 / 3, 500 + generator.integers(0, 300, len(row)), row) for row in same]
    assert [each.name for each in both(texts(500, 1), other) if each.is_drift] == ["vocabulary"]
    unknown = [np.where(generator.random(len(row)) < 0.2, 1, row) for row in same]
    assert "unknown tokens" in [each.name for each in both(texts(500, 1), unknown) if each.is_drift]


def test_another_share_of_labels_is_found_and_nothing_else_is():
    old, new = texts(500, 1), texts(500, 2)
    labels = np.arange(500) % 2, (np.arange(500) % 4 > 0).astype(int)
    found = both(old, new, labels=labels, new_answers=answers(500, 2, share=0.75))
    assert {each.name for each in found if each.is_drift} == {"label", "predicted label"}
    assert all(each.adjusted < 1e-3 for each in found if each.is_drift)


def test_a_change_too_small_to_matter_is_no_drift():
    """With very many rows the test finds it; the rule wants an effect, too."""
    before, now = (
        Profile(shares={"label": Shares.from_counts("x", counts)})
        for counts in ({"a": 50_000, "b": 50_000}, {"a": 52_000, "b": 48_000})
    )
    [found] = compare(before, now, ALPHA, LEAST)
    assert (
        found.p < 1e-10
        and not found.is_drift
        and verdict([found], ALPHA, LEAST).startswith("no drift: no feature has p below 0.001")
    )
    assert compare(before, now, ALPHA, 0.01)[0].is_drift


def test_halves_of_the_same_data_do_not_differ():
    """100 random halves: none is called a drift (the stated rate is 1 in 1000), and p is below 0.05 as rarely as it may be."""
    rows, sure = texts(400, 4), answers(400, 5)
    labels = np.random.default_rng(6).integers(0, 2, 400)
    found = []
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(400)
        halves = order[:200], order[200:]
        parts = [
            Answers(
                np.arange(200),
                {"a": int(labels[half].sum()), "b": int((1 - labels[half]).sum())},
                "confidence",
                sure.numbers[half],
            )
            for half in halves
        ]
        given = [[rows[i] for i in half] for half in halves]
        found.append(both(*given, *parts, labels=(labels[halves[0]], labels[halves[1]])))
    assert not any(each.is_drift for features in found for each in features)
    assert sum(any(each.adjusted < 0.05 for each in features) for features in found) <= 5 + 3 * (100 * 0.05 * 0.95) ** 0.5
    for name in ("vocabulary", "tokens", "label"):  # and none by itself: rows that were counted are no less of a surprise
        ps = np.array([each.p for features in found for each in features if each.name == name])
        assert (ps < 0.05).sum() <= 12, name


def test_rows_that_were_counted_find_themselves_in_the_counts_unless_they_are_taken_out():
    """What the guard is for: without it half of the halves would differ in their vocabulary."""
    rows = texts(300, 7, pieces=5000)
    known = Vocabulary.of(rows[:150])
    own, others = known.surprise(rows[:150], within=True), known.surprise(rows[150:], within=False)
    assert ks_2samp(own, others).pvalue > 0.01
    assert ks_2samp(known.surprise(rows[:150], within=False), others).pvalue < 1e-6


def test_surprise_by_hand():
    known = Vocabulary.of([np.array([2, 3, 3]), np.array([2, 4]), np.array([2])])
    assert known.counts == {2: 3, 3: 1, 4: 1} and known.rest == 0
    [new] = known.surprise([np.array([2, 9])], within=False)
    assert new == pytest.approx((np.log(4 / 4) + np.log(4 / 1)) / 2)
    [own] = known.surprise([np.array([2, 3, 3])], within=True)
    assert own == pytest.approx((np.log(3 / 3) + np.log(3 / 1)) / 2)


def test_a_profile_is_bounded_and_comes_back_as_it_was(tmp_path):
    generator = np.random.default_rng(8)
    rows = [generator.integers(2, 60_000, 40) for _ in range(6000)]
    many = Answers(np.arange(6000), {f"label {i}": i for i in range(3000)}, "confidence", generator.random(6000))
    made = gather.made(Rows(rows), [many], ["training rows", "evaluation rows"], most=profile.SAMPLE)
    profile.write(tmp_path, made)
    text = (tmp_path / profile.NAME).read_text()
    assert len(text) < 300_000 and profile.read(tmp_path, None) == made
    assert len(made.shares["predicted label"].counts) == 1001 and len(made.vocabulary.counts) == profile.PIECES
    assert made.numbers["tokens"].rows == 6000 and len(made.numbers["tokens"].sample) == 2000
    again = gather.made(Rows(rows), [many], ["training rows", "evaluation rows"], most=profile.SAMPLE)
    assert again == made
    shuffled = np.random.default_rng(9).permutation(6000)
    parts = [Answers(half, {}, "confidence", many.numbers[half]) for half in (shuffled[:2000], shuffled[2000:])]
    assert gather.in_order(parts).tolist() == many.numbers.tolist(), "however the rows were computed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "its format is 2"),
        ({"numbers": {"tokens": [1]}}, "no object"),
        ({"numbers": {"tokens": {"of": "x", "rows": 1, "mean": 1, "quantiles": [], "sample": ["a"]}}}, "sample"),
        ({"shares": {"label": {"of": "x", "counts": {"a": -1}}}}, "counts"),
        ({"pieces": {"rows": 1, "rest": 0, "ids": [1, 1], "counts": [1, 1]}}, "counts of pieces"),
        ({"pieces": {"rows": 1, "rest": 0, "ids": [2**30], "counts": [1]}}, "ids of pieces"),
        ({"pieces": {"rows": 1, "rest": 7, "ids": [], "counts": []}}, "rest cannot be 7"),
    ],
)
def test_a_strangers_profile_is_refused(tmp_path, change, words):
    good = json.loads(json.dumps(gather.made(Rows(texts(20, 1)), [answers(20, 1)], ["x", "x"], most=20).to_json()))
    (tmp_path / profile.NAME).write_text(json.dumps(good))
    assert profile.read(tmp_path, None) is not None
    (tmp_path / profile.NAME).write_text(json.dumps(good | change))
    with pytest.raises(DataError, match=f"is not what training writes .*{words}"):
        profile.read(tmp_path, None)


def test_of_another_models_answers_it_is_none(tmp_path):
    files = {"model.safetensors": "a" * 64, "config.json": "b" * 64}
    made = gather.made(Rows(texts(20, 1)), [], ["x", "x"], most=20)
    profile.write(tmp_path, profile.dataclasses.replace(made, weights=profile.weights_of(files)))
    assert profile.read(tmp_path, files | {"config.json": "c" * 64}) is not None, "a calibrated one"
    assert profile.read(tmp_path, files | {"model.safetensors": "c" * 64}) is None
    assert drift.rule(0.001, 0.1, 7) == "p below 0.001 after Holm's correction over 7 features, and an effect of at least 0.1"


# ------------------------------------------------------------------------------------------------------- vectors


def vectors(number, seed, size=64):
    """As a model's are: a few directions are a hundred times as wide as others, and tails are heavy."""
    mixing = np.random.default_rng(0).normal(size=(size, size)) * np.geomspace(100, 0.1, size)[:, None]
    return np.random.default_rng(seed).standard_t(5, size=(number, size)) @ mixing + 3.0


def projections(values):
    return values @ np.random.RandomState(20).standard_normal((values.shape[1], 16)) / values.shape[1] ** 0.5


def differ(one, other):
    return drift.vectors_differ(*(profile.Moments.from_values("x", projections(each)) for each in (one, other)))


def test_the_test_of_means_is_the_f_test_of_a_regression():
    """Hotelling's two-sample T-squared is that of the groups on the vectors; with one line it is Student's t-test."""
    from scipy.stats import f, ttest_ind

    one, other = projections(vectors(120, 1)), projections(vectors(80, 2)) + 0.3
    found = drift.vectors_differ(*(profile.Moments.from_values("x", each) for each in (one, other)))
    both, group = np.vstack([one, other]), np.repeat([0.0, 1.0], [120, 80])
    design = np.column_stack([np.ones(200), both])
    residuals = group - design @ np.linalg.lstsq(design, group, rcond=None)[0]
    r2 = 1 - (residuals**2).sum() / ((group - group.mean()) ** 2).sum()
    assert found.p == pytest.approx(f.sf((r2 / 16) / ((1 - r2) / 183), 16, 183), rel=1e-6)
    line = [profile.Moments("x", len(each), [each[:, 0].mean()], [[each[:, 0].var(ddof=1)]]) for each in (one, other)]
    assert drift.vectors_differ(*line).p == pytest.approx(ttest_ind(one[:, 0], other[:, 0]).pvalue, rel=1e-9)


def test_halves_of_the_same_vectors_do_not_differ():
    """100 random halves: none is called, p is below 0.05 as rarely as it may be, and the effect is that of chance."""
    rows = vectors(400, 3)
    found = []
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(400)
        found.append(differ(rows[order[:200]], rows[order[200:]]))
    assert not any(each.p < ALPHA and each.effect >= LEAST for each in found)
    assert sum(each.p < 0.05 for each in found) <= 5 + 3 * (100 * 0.05 * 0.95) ** 0.5
    assert np.mean([each.effect for each in found]) < 0.1, "without the correction the mean were twice that"
    assert sum(each.effect == 0 for each in found) > 25


def test_another_mean_of_vectors_is_found_and_its_size_is_known():
    """Of normal data with the same covariance the effect is the distance of the distribution functions on the best line."""
    from statistics import NormalDist

    one, other = (projections(np.random.default_rng(seed).normal(size=(4000, 16))) for seed in (1, 2))
    shift = np.linalg.cholesky(np.cov(one, rowvar=False))[:, 0] * 0.5  # half a deviation, in the metric of the data
    found = drift.vectors_differ(*(profile.Moments.from_values("x", each) for each in (one, other + shift)))
    assert found.p < 1e-50 and found.effect == pytest.approx(2 * NormalDist().cdf(0.25) - 1, abs=0.02)
    subtle = vectors(500, 2)
    subtle[:, :4] += 0.5 * subtle[:, :4].std(0)
    assert differ(vectors(500, 1), subtle).p < 1e-6
    part = compare(
        Profile(embedding=profile.Moments.from_values("x", projections(vectors(500, 1)))),
        Profile(embedding=profile.Moments.from_values("y", projections(subtle))), ALPHA, LEAST,
    )  # fmt: skip
    assert [(each.name, each.is_drift) for each in part] == [("embedding", True)]


def test_vectors_that_cannot_be_compared_are_not():
    few, many = (profile.Moments.from_values("x", projections(vectors(number, 1))) for number in (31, 32))
    other = profile.Moments("x", 100, [0.0], [[1.0]])
    assert drift.vectors_differ(few, many) is None and drift.vectors_differ(many, many).p == 1.0
    assert drift.vectors_differ(many, other) is None
    flat = profile.Moments("x", 100, [0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]])
    assert drift.vectors_differ(flat, flat) is None
    assert (
        profile.Moments.from_values("x", np.full((5, 2), np.nan)) is None
        and profile.Moments.from_values("x", np.ones((1, 2))) is None
    )


def test_one_line_that_never_changes_does_no_harm():
    values = projections(vectors(200, 1))
    values[:, 3] = values[:, 2]
    both = profile.Moments.from_values("x", values[:100]), profile.Moments.from_values("x", values[100:])
    assert 0 < drift.vectors_differ(*both).p <= 1


@pytest.mark.parametrize(
    "embedding",
    [{"of": "x", "rows": 1, "mean": [1.0], "covariance": [[1.0]]}, {"of": "x", "rows": 9, "mean": [], "covariance": []},
     {"of": "x", "rows": 9, "mean": [1.0], "covariance": [[1.0, 2.0]]}, {"of": "x", "rows": 9, "mean": ["a"], "covariance": [[1.0]]}],
)  # fmt: skip
def test_a_strangers_embedding_is_refused(tmp_path, embedding):
    good = gather.made(
        Rows(texts(20, 1)), [answers(20, 1)._replace(projected=projections(vectors(20, 1)))], ["x", "x"], most=20
    )
    profile.write(tmp_path, good)
    assert profile.read(tmp_path, None) == good and good.embedding.rows == 20
    (tmp_path / profile.NAME).write_text(json.dumps(good.to_json() | {"embedding": embedding}))
    with pytest.raises(DataError, match="is not what training writes"):
        profile.read(tmp_path, None)
