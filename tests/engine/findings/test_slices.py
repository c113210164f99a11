"""Slices: the tests against SciPy, planted weaknesses that are found, and halves without any that are not."""

from __future__ import annotations

import csv
import html
import json
import re

import numpy as np
import pytest
from scipy.stats import fisher_exact

import run
from bench.toys import tiny
from engine.errors import DataError
from engine.findings import document, slices
from engine.findings.document import Findings
from engine.findings.significance import fisher, holm, log_factorials
from engine.findings.slices import LEAST_ROWS, Slice, parts_by_column, parts_by_length, parts_by_word
from tests.toys import knowing
from tests.toys.cli import fails


@pytest.mark.parametrize("seed", range(20))
def test_fishers_test_equals_scipys(seed):
    generator = np.random.default_rng(seed)
    total = int(generator.integers(4, 3000))
    rows, wrong = int(generator.integers(1, total)), int(generator.integers(0, total + 1))
    both = int(generator.hypergeometric(wrong, total - wrong, rows))
    expected = fisher_exact([[both, rows - both], [wrong - both, total - rows - wrong + both]]).pvalue
    assert fisher(both, rows, wrong, total, log_factorials(total)) == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_holms_correction_is_his():
    """The example of his paper's table, and every adjusted value by the definition: the largest of the steps up to it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    generator = np.random.default_rng(0)
    values = generator.random(30) ** 3
    order = np.argsort(values)
    for place, i in enumerate(order):
        steps = [min(1, (30 - k) * values[order[k]]) for k in range(place + 1)]
        assert holm(values.tolist())[i] == pytest.approx(max(steps))
    assert holm([]) == []


def test_figures_of_a_slice():
    right = np.array([True] * 60 + [False] * 40 + [True] * 95 + [False] * 5)
    [part] = slices.tested(right, {("x", "a"): np.arange(100)})
    assert (part.rows, part.wrong, part.accuracy, part.rest) == (100, 40, 0.6, 0.95)
    assert part.error == pytest.approx((0.6 * 0.4 / 100) ** 0.5)
    assert part.p == part.adjusted == pytest.approx(fisher_exact([[40, 60], [5, 95]]).pvalue) and part.is_worse
    assert slices.tested(right, {("x", "few"): np.arange(LEAST_ROWS - 1), ("x", "all"): np.arange(195)}) == []


def test_where_there_is_nothing_hardly_anything_is_found():
    """Of 200 searches over 20 parts in random answers at most 5 in 100 find one, and a margin of three standard errors."""
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        right = generator.random(300) < 0.8
        parts = parts_by_column("a", generator.integers(0, 5, 300).tolist()) | parts_by_length(generator.integers(3, 500, 300))
        parts |= parts_by_column("b", generator.choice(list("abcdefghij"), 300).tolist())
        found += any(part.adjusted < 0.05 for part in slices.tested(right, parts))
    assert found <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_parts_hold_each_row_once():
    lengths = np.array([3, 3, 3, 4, 9, 50, 51, 51, 90, 512])
    for parts in (
        parts_by_length(lengths),
        parts_by_column("n", [*np.linspace(0, 1, 99), None]),
        parts_by_column("s", ["a", "", "b", "a", None]),
    ):
        rows = np.sort(np.concatenate([*parts.values()]))
        assert rows.tolist() == [*range(len(rows))]
    assert next(iter(parts_by_length(lengths))) == ("length", "3 to 3 tokens") and [*parts_by_length(lengths)][-1][1].endswith(
        " to 512 tokens"
    )
    assert {value for _, value in parts_by_column("s", ["a", "", "b", "a", None])} == {"a", "b", "(empty)"}
    assert parts_by_length(np.full(20, 7)) == {}
    assert [*parts_by_column("y", [1999, 2000] * 20)] == [("y", "1999"), ("y", "2000")]


def test_words_are_counted_once_a_row_and_twins_once():
    texts = ["Good good movie"] * 25 + ["bad Movie"] * 25 + ["rare"]
    parts = parts_by_word(texts)
    assert {word: len(rows) for (_, word), rows in parts.items()} == {"movie": 50, "bad": 25, "good": 25}
    assert len(parts_by_word(["new york"] * 30)) == 1


# ------------------------------------------------------------------------------------------------- as a user types it


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run, and rows of which those from the shop are hard: half of their labels are others. Beside them a column of nothing, and
    the word w50, which only stands in rows that are hard."""
    folder = tmp_path_factory.mktemp("planted")
    generator = np.random.default_rng(2)
    rows = []
    for text, label in tiny.texts(400, 5):
        source, week = ["web", "shop", "mail"][generator.integers(3)], str(generator.integers(1, 5))
        clean = text.replace("w50", "w51")
        is_hard = source == "shop" and generator.random() < 0.5
        rows.append(
            (
                clean + (" W50." if source == "shop" and generator.random() < 0.8 else " w51."),
                "abc"[("abc".index(label) + is_hard) % 3],
                source,
                week,
            )
        )
    directory = knowing.save_run(folder, knowing.model(12.0, noise=0.3), [row[:2] for row in rows])
    knowing.write(folder / "held.csv", rows, ("text", "label", "source", "week"))
    command = ["evaluate", str(directory), "--device", "cpu", "--precision", "fp32", "--file", str(folder / "held.csv")]
    return folder, directory, command, rows


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_slice_that_is_harder_is_found_and_others_are_not(planted, tmp_path, capsys):
    _, _, command, rows = planted
    capsys.readouterr()
    assert run.main([*command, "--errors", str(tmp_path / "e.csv"), "--slice", "source", "--slice", "week"]) == 0
    out = capsys.readouterr().out
    found = {(row["slice"], row["value"]): row for row in rows_of(tmp_path / "e.slices.csv")}
    assert {name for name, row in found.items() if row["found"] == "worse"} == {("source", "shop"), ("word", "w50")}
    assert "source shop" in out and "word w50" in out and "week" not in out and f"{len(found)} parts written to" in out
    wrong = {int(row["row"]) for row in rows_of(tmp_path / "e.csv")}
    tables = {}
    for name, value in (("source", "shop"), ("source", "web"), ("week", "3")):
        column = ("text", "label", "source", "week").index(name)
        inside = {i + 1 for i, row in enumerate(rows) if row[column] == value}
        table = [[len(wrong & inside), len(inside - wrong)], [len(wrong - inside), 400 - len(inside | wrong)]]
        tables[name, value] = fisher_exact(table).pvalue
        row = found[name, value]
        assert (int(row["rows"]), int(row["wrong"])) == (len(inside), len(wrong & inside))
        assert float(row["p"]) == pytest.approx(tables[name, value], rel=1e-6)
        accuracy, others = 1 - len(wrong & inside) / len(inside), 1 - len(wrong - inside) / (400 - len(inside))
        figures = [accuracy, (accuracy * (1 - accuracy) / len(inside)) ** 0.5, others, accuracy - others]
        assert [float(row[n]) for n in ("accuracy", "standard_error", "accuracy_of_others", "difference")] == pytest.approx(
            figures, abs=1e-4
        )
    family = [row for name, row in found.items() if name[0] != "word"]
    assert len(family) == 3 + 4 + 5 and [float(row["p_holm"]) for row in family] == pytest.approx(
        holm([float(row["p"]) for row in family])
    )


def test_report_and_card_of_the_run_say_it(planted, capsys):
    folder, directory, command, _ = planted
    assert run.main([*command, "--errors", str(directory / "errors.csv"), "--slice", "source,week"]) == 0
    page = html.unescape((directory / "report.html").read_text())
    assert "Slices (held.csv): Fisher's exact test against all other rows" in page and "<td>shop</td>" in page
    card = (directory / "README.md").read_text()
    section = card[card.index("## What it gets wrong") : card.index("## Training")]
    lines = [line for line in section.splitlines() if line.startswith("- ")]
    assert len(lines) == 2 and "source shop: accuracy 0." in section and "word w50: accuracy 0." in section
    assert run.main([*command[:-1], str(folder / "train.csv"), "--errors", str(directory / "errors.csv")]) == 0
    assert "## What it gets wrong" not in (directory / "README.md").read_text(), "of these rows nothing is worse"
    assert "no part of the rows holds 10 or more" in capsys.readouterr().out


def test_rows_of_several_files_are_slices_too(planted, tmp_path, capsys):
    _, _, command, rows = planted
    for name in ("web", "shop", "mail"):
        knowing.write(tmp_path / f"{name}.csv", [row for row in rows if row[2] == name], ("text", "label", "source", "week"))
    files = ",".join(str(tmp_path / f"{name}.csv") for name in ("web", "shop", "mail"))
    assert run.main([*command[:-1], files, "--errors", str(tmp_path / "e.csv")]) == 0
    found = {row["value"]: row["found"] for row in rows_of(tmp_path / "e.slices.csv") if row["slice"] == "file"}
    assert found["shop.csv"] == "worse" and found["mail.csv"] != "worse" != found["web.csv"]


def test_what_slice_refuses(planted, tmp_path, capsys):
    _, _, command, _ = planted
    code, line = fails([*command, "--slice", "source"], capsys)
    assert code == 2 and "give --errors FILE.csv, too" in line
    code, line = fails([*command, "--slice", "shop", "--errors", str(tmp_path / "e.csv")], capsys)
    assert code == 3 and "has no column 'shop' (it has: 'text', 'label', 'source', 'week')" in line
    assert not list(tmp_path.iterdir())
    (tmp_path / "e.slices.csv").symlink_to(tmp_path / "mine.csv")
    code, line = fails([*command, "--errors", str(tmp_path / "e.csv")], capsys)
    assert code == 2 and "e.slices.csv is a link" in line


def test_numbers_are_not_right_or_wrong(project, tmp_path, capsys):
    values = knowing.write(tmp_path / "v.csv", [(f"w{i}", i / 2) for i in range(24)])
    assert run.main(["--task", "classification", "--model", str(project / "model"), "--train-file", str(values), "--problem", "regression",
                     "--eval-file", str(values), "--max-steps", "1", "--device", "cpu", "--output-dir", str(tmp_path / "v")]) == 0  # fmt: skip
    evaluate = ["evaluate", str(tmp_path / "v"), "--errors", str(tmp_path / "e.csv")]
    code, line = fails([*evaluate, "--slice", "label"], capsys)
    assert code == 2 and "does not tell right from wrong row by row" in line
    assert run.main(evaluate) == 0 and not (tmp_path / "e.slices.csv").exists()
    code, line = fails(["evaluate", str(tmp_path / "v"), "--calibrate"], capsys)
    assert code == 2 and "a regression gives numbers, not probabilities" in line


def test_formulas_in_slices_are_made_texts_if_asked(planted, tmp_path):
    _, _, command, rows = planted
    knowing.write(tmp_path / "f.csv", [(*row[:2], f"={row[2]}", row[3]) for row in rows], ("text", "label", "source", "week"))
    assert (
        run.main(
            [*command[:-1], str(tmp_path / "f.csv"), "--errors", str(tmp_path / "e.csv"), "--slice", "source", "--excel-safe"]
        )
        == 0
    )
    assert {row["value"] for row in rows_of(tmp_path / "e.slices.csv") if row["slice"] == "source"} == {
        "'=shop",
        "'=web",
        "'=mail",
    }


@pytest.mark.parametrize(
    "change",
    [{"slices": 3}, {"slices": [3]}, {"slices": [{"kind": "x"}]}, {"slices": [{}] * 300}, {"curves": []}, {"curves": {"a": [[1, 2]]}},
     {"curves": {"a": [[1, 2, -3]]}}, {"learned": {"a": "b"}}, {"about": 3}, {"curves": {str(i): [] for i in range(99)}},
     {"slices": [{"kind": "a", "value": "b", "rows": 3, "wrong": 4, "rest": 0.5, "p": 0.1, "adjusted": 0.1}]},
     {"slices": [{"kind": "a", "value": "b", "rows": 0, "wrong": 0, "rest": 0.5, "p": 0.1, "adjusted": 0.1}]},
     {"slices": [{"kind": "a", "value": "b", "rows": 3, "wrong": 1, "rest": 1.5, "p": 0.1, "adjusted": 0.1}]}],
)  # fmt: skip
def test_findings_that_evaluate_does_not_write_are_refused(change, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    good = Findings("x", {"": [[1, 0.5, 1]]}, {}, [Slice("a", "b", 3, 1, 0.5, 0.1, 0.2)])
    document.write(tmp_path, good)
    assert document.read(tmp_path) == good
    (tmp_path / document.NAME).write_text(json.dumps(good.to_json() | change))
    with pytest.raises(DataError, match=re.escape(f"{document.NAME} is not what evaluate writes")):
        document.read(tmp_path)
