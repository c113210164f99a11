"""data-profile.json: what the data of a run, and its answers, were like, so that later data can be compared with them.

It holds no text: of each number that describes a row (its tokens, its characters, how sure the model was ...) the mean, some
quantiles and a random sample of at most SAMPLE rows, drawn with SEED; of labels how often each stands there; of the pieces
that the tokenizer cuts words into the PIECES that stand in most rows, by their ids. What describes the inputs is of training
rows, what describes answers of evaluation rows, which the model has not seen, and so are its vectors, of which mean and
covariance on a few lines are kept. Next: gather.py, which makes one; drift.py, which compares two.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine import atomic
from engine.checked import expect, expect_each, is_a, parse_object, read_bytes
from engine.errors import DataError

NAME = "data-profile.json"
FORMAT = 1
SEED = 20  # of the rows that are drawn
SAMPLE, COUNTED, PIECES = 2000, 20_000, 5000  # rows in a sample; rows whose pieces are counted; pieces that are kept
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
CHUNK = 1000
MOST_NAMES, LONGEST_NAME, OTHERS = 1000, 100, "(others)"
MOST_LINES = 1000  # of an embedding


@dataclass(frozen=True)
class Numbers:
    """A number that each row has. ``of``: which rows; ``rows``: how many the mean and the quantiles are of."""

    of: str
    rows: int
    mean: float
    quantiles: Sequence[float]
    sample: Sequence[float]

    @classmethod
    def from_values(cls, of: str, values: np.ndarray, most: int) -> Numbers:
        """``values``: [N], in random order: the first of them are the sample."""
        values = values[np.isfinite(values)]
        if not len(values):
            return cls(of, 0, 0.0, [], [])
        kept = [float(f"{value:.5g}") for value in values[:most]]
        quantiles = [float(f"{value:.5g}") for value in np.quantile(values, QUANTILES)]
        return cls(of, len(values), float(f"{values.mean():.6g}"), quantiles, kept)

    @property
    def median(self) -> float:
        return self.quantiles[QUANTILES.index(0.5)]


@dataclass(frozen=True)
class Shares:
    """How often each label stands in so many rows; of very many those that do most often, and the others together."""

    of: str
    rows: int
    counts: Mapping[str, int]

    @classmethod
    def from_counts(cls, of: str, counts: Mapping[str, int]) -> Shares:
        kept: dict[str, int] = {}
        for place, (name, count) in enumerate(sorted(counts.items(), key=lambda each: (-each[1], each[0]))):
            short = name[:LONGEST_NAME] if place < MOST_NAMES else OTHERS
            kept[short] = kept.get(short, 0) + int(count)
        return cls(of, sum(kept.values()), kept)


@dataclass(frozen=True)
class Vocabulary:
    """In how many of ``rows`` rows each piece stands, by its id; ``rest``: the mean of those that are not kept."""

    rows: int
    counts: Mapping[int, int]
    rest: float = 0.0

    @classmethod
    def of(cls, ids: Sequence[np.ndarray]) -> Vocabulary:
        """Of rows of token ids."""
        if not len(ids):
            return cls(0, {})
        number = np.bincount(pieces_in(ids)[1])
        order = np.argsort(-number, kind="stable")
        order = order[number[order] > 0]
        rest = number[order[PIECES:]]
        return cls(len(ids), {int(i): int(number[i]) for i in order[:PIECES]}, float(rest.mean()) if len(rest) else 0.0)

    @cached_property
    def table(self) -> np.ndarray:
        """By id, up to the last that is kept."""
        found = np.full(max(self.counts, default=0) + 1, self.rest)
        found[[*self.counts]] = [*self.counts.values()]
        return found

    def surprise(self, ids: Sequence[np.ndarray], *, within: bool) -> np.ndarray:
        """[N]: how rare the pieces of each row are, the mean of log(rows / rows that hold the piece), 1 added to both.

        ``within``: the rows are among those that were counted: each is compared with the others, or it would find itself
        and seem less of a surprise than a new row of the same kind.
        """
        table = self.table
        size = len(table)
        rows, here = pieces_in(ids)
        seen = np.where(here < size, table[np.minimum(here, size - 1)], self.rest)
        seen = np.maximum(seen - 1, self.rest) if within else seen
        total = np.bincount(rows, np.log((self.rows - within + 1) / (seen + 1)), minlength=len(ids))
        return np.asarray(total / np.maximum(np.bincount(rows, minlength=len(ids)), 1))


def pieces_in(ids: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Each piece of each row once: two [M], the rows and the ids. Some rows at a time: what is sorted takes memory."""
    found = []
    for start in range(0, len(ids), CHUNK):
        some = ids[start : start + CHUNK]
        rows = np.repeat(np.arange(start, start + len(some)), [len(row) for row in some])
        found.append(np.unique(rows << 32 | np.concatenate(some).astype(np.int64)))
    both = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
    return both >> 32, both & 0xFFFFFFFF


@dataclass(frozen=True)
class Moments:
    """Of the vectors of so many rows on K lines (model/projected.py) the mean, [K], and the covariance, [K][K]."""

    of: str
    rows: int
    mean: Sequence[float]
    covariance: Sequence[Sequence[float]]

    @classmethod
    def from_values(cls, of: str, values: np.ndarray) -> Moments | None:
        """``values``: [N, K]; None of fewer than two rows, or of some that are not finite."""
        if len(values) < 2 or not np.isfinite(values).all():
            return None
        values = values.astype(np.float64)
        return cls(of, len(values), values.mean(0).tolist(), np.cov(values, rowvar=False, ddof=1).tolist())


@dataclass(frozen=True)
class Profile:
    """``weights``: the hash of those of the model that answered; None: not known, or there is none."""

    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    shares: Mapping[str, Shares] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    weights: str | None = None
    embedding: Moments | None = None

    def to_json(self) -> dict[str, Any]:
        pieces = None
        if self.vocabulary is not None:
            found = self.vocabulary
            pieces = {"rows": found.rows, "rest": found.rest, "ids": [*found.counts], "counts": [*found.counts.values()]}
        return {
            "format": FORMAT,
            "weights": self.weights,
            "seed": SEED,
            "quantiles": QUANTILES,
            "numbers": {name: dataclasses.asdict(each) for name, each in self.numbers.items()},
            "shares": {name: dataclasses.asdict(each) for name, each in self.shares.items()},
            "pieces": pieces,
            "embedding": None if self.embedding is None else dataclasses.asdict(self.embedding),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Profile:
        """Raises ValueError for what ``to_json`` does not write."""
        if (number := expect(found, "format", int)) != FORMAT:
            raise ValueError(f"its format is {number}, and this version reads {FORMAT}")
        numbers, shares = (expect(found, name, dict) for name in ("numbers", "shares"))
        pieces, embedding = (expect(found, name, dict, optional=True) for name in ("pieces", "embedding"))
        return cls(
            {name: numbers_in(each) for name, each in numbers.items()},
            {name: shares_in(each) for name, each in shares.items()},
            None if pieces is None else vocabulary_in(pieces),
            expect(found, "weights", str, optional=True),
            None if embedding is None else moments_in(embedding),
        )


def numbers_in(found: Any) -> Numbers:
    """Raises ValueError."""
    if not isinstance(found, dict):
        raise ValueError("what describes numbers is no object")
    lists = [expect(found, name, list) for name in ("quantiles", "sample")]
    if (
        len(lists[0]) not in (0, len(QUANTILES))
        or len(lists[1]) > SAMPLE
        or not all(is_a(x, float) for each in lists for x in each)
    ):
        raise ValueError("the quantiles or the sample of a number are none")
    return Numbers(expect(found, "of", str), expect(found, "rows", int, least=0), expect(found, "mean", float), *lists)


def shares_in(found: Any) -> Shares:
    """Raises ValueError."""
    if not isinstance(found, dict):
        raise ValueError("what describes labels is no object")
    counts = expect(found, "counts", dict)
    expect_each("counts", counts, int)
    if len(counts) > MOST_NAMES + 1 or any(count < 0 for count in counts.values()):
        raise ValueError("the counts of labels are none")
    return Shares(expect(found, "of", str), sum(counts.values()), counts)


def moments_in(found: Mapping[str, Any]) -> Moments:
    """Raises ValueError."""
    mean, covariance = (expect(found, name, list) for name in ("mean", "covariance"))
    number = len(mean)
    is_table = len(covariance) == number and all(isinstance(row, list) and len(row) == number for row in covariance)
    if not 0 < number <= MOST_LINES or not is_table or not all(is_a(x, float) for row in [mean, *covariance] for x in row):
        raise ValueError("the moments of the embedding are none")
    return Moments(expect(found, "of", str), expect(found, "rows", int, least=2), mean, covariance)


def vocabulary_in(found: Mapping[str, Any]) -> Vocabulary:
    """Raises ValueError."""
    ids, counts = (expect(found, name, list) for name in ("ids", "counts"))
    rows = expect(found, "rows", int, least=0)
    if len(ids) > PIECES or len(ids) != len(counts) or not all(is_a(i, int) and 0 <= i < 2**24 for i in ids):
        raise ValueError("the ids of pieces are none")
    if not all(is_a(count, int) and 0 < count <= rows for count in counts) or len({*ids}) < len(ids):
        raise ValueError("the counts of pieces are none")
    if not 0 <= (rest := expect(found, "rest", float)) <= rows:
        raise ValueError(f"rest cannot be {rest}")
    return Vocabulary(rows, dict(zip(ids, counts, strict=True)), float(rest))


def weights_of(files: Mapping[str, str] | None) -> str | None:
    """One hash for those of the files of a model that hold weights, from the sha256 of each; None where that is not known."""
    found = sorted(f"{name} {digest}" for name, digest in (files or {}).items() if name.endswith(".safetensors"))
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:32] if found else None


def write(directory: Path, profile: Profile) -> None:
    """Raises OSError."""
    atomic.write(directory / NAME, json.dumps(profile.to_json(), allow_nan=False, separators=(",", ":")) + "\n")


def read(directory: Path, files: Mapping[str, str] | None) -> Profile | None:
    """That of a run whose model was saved as these files; None without one, or where it is of another model's answers.

    Raises DataError.
    """
    path = directory / NAME
    try:
        found = Profile.from_json(parse_object(read_bytes(path)))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(
            f"{path} is not what training writes ({error}): remove it, and compare with a file: --reference"
        ) from error
    return found if found.weights == weights_of(files) else None
