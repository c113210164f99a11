"""Several evaluation sets: each is measured as it is alone, under its name, in every place where a figure stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import run
from bench.toys import tiny
from engine.artifacts.directory import read_run
from engine.config import TrainConfig
from engine.data.places import named_files, sets_of
from engine.errors import UsageError
from engine.record.figures import Evaluation, by_set, figure_names
from tests.toys.cli import fails
from tests.toys.killed import SMALL, assert_same_bits, lines_of, train_to
from tests.toys.ranks import in_ranks


class TwoSets(tiny.TokenTask):
    """20 and 9 rows beside those that it trains on."""

    def examples(self):
        return {"train": self.train, "dev": tiny.token_rows(20, seed=5), "other": tiny.token_rows(9, seed=6)}


def two_sets() -> TwoSets:
    return TwoSets(train=tiny.token_rows(50))


@pytest.fixture(scope="module")
def files(project, tmp_path_factory) -> Path:
    """dev.csv and other.csv: two parts of eval.csv."""
    folder = tmp_path_factory.mktemp("sets")
    header, *rows = (project / "eval.csv").read_text().splitlines(keepends=True)
    (folder / "dev.csv").write_text("".join([header, *rows[:18]]))
    (folder / "other.csv").write_text("".join([header, *rows[18:]]))
    return folder


def training(project: Path, *more: str) -> list[str]:
    return ["--task", "classification", "--model", str(project / "model"), "--train-file", str(project / "train.csv"),
            "--epochs", "2", "--device", "cpu", "--precision", "fp32", *more]  # fmt: skip


# ------------------------------------------------------------------------------------------------------- what is named


def test_names_of_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "rate=1.csv", "x=1.csv", "c,d.csv"):
        Path(name).touch()
    Path("lr=0.1").mkdir()
    Path("lr=0.1/a.csv").touch()
    assert sets_of("a.csv") == {"eval": "a.csv"} and sets_of("a.csv,b.csv") == {"eval": "a.csv,b.csv"}
    assert sets_of("dev=a.csv") == {"dev": "a.csv"}
    assert list(sets_of("other=b.csv,dev=a.csv").items()) == [("other", "b.csv"), ("dev", "a.csv")]  # in their order
    assert sets_of("dev=c,d.csv,other=*.csv") == {"dev": "c,d.csv", "other": "*.csv"}
    assert sets_of("rate=1.csv,x=1.csv") == {"eval": "rate=1.csv,x=1.csv"}  # what is there under the whole name is that file
    assert sets_of("lr=0.1/a.csv") == {"eval": "lr=0.1/a.csv"} and sets_of("dev=lr=0.1/a.csv") == {"dev": "lr=0.1/a.csv"}
    assert sets_of("gone/a=b.csv") == {"eval": "gone/a=b.csv"}  # a slash in front of it: no name, wherever it is
    assert sets_of("https://x.org/a.csv?key=1") == {"eval": "https://x.org/a.csv?key=1"}
    assert named_files("dev=a.csv,other=b.csv") == [Path("a.csv"), Path("b.csv")]  # which no command writes over


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("dev=a.csv,b.csv", "b.csv has no name, and others have"),
        ("b.csv,dev=a.csv", "b.csv has no name, and others have"),
        ("dev=a.csv,dev=b.csv", "two sets are called 'dev'"),
        ("dev=a.csv,dev=a.csv", "two sets are called 'dev'"),
        ("my set=a.csv", "'my set' cannot name an evaluation set"),
        ("=a.csv", "'' cannot name an evaluation set"),
        ("dev=", "cannot name an evaluation set"),
        ("train=a.csv", "'train' cannot name an evaluation set"),
        ("rate=a.csv", "rate=a.csv is a file, and may be a.csv with a name: say ./rate=a.csv, or rate=./a.csv"),
    ],
)
def test_what_is_no_set(tmp_path, monkeypatch, text, part):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "rate=a.csv"):
        Path(name).touch()
    with pytest.raises(UsageError, match=r"^--eval-file") as error:
        sets_of(text)
    assert part in str(error.value)
    assert sets_of("./rate=a.csv") == {"eval": "./rate=a.csv"} and sets_of("rate=./a.csv") == {"rate": "./a.csv"}  # as it says


def test_figures_by_set():
    one, two = (
        Evaluation({"loss": 1.0, "f1": 0.5}, 3, 1, 1.0, {"a": {"f1": 0.5}}),
        Evaluation({"loss": 2.0, "f1": 0.1}, 4, 2, 2.0),
    )
    both = Evaluation.of({"dev": one, "other": two})
    assert both.figures == {"dev/loss": 1.0, "dev/f1": 0.5, "other/loss": 2.0, "other/f1": 0.1}
    assert (both.num_examples, both.num_steps, both.seconds, both.classes) == (7, 3, 3.0, {"dev/a": {"f1": 0.5}})
    assert Evaluation.of({"eval": one}) is one and Evaluation.from_json(both.to_json()) == both
    assert by_set(both.figures) == {"dev": dict(one.figures), "other": dict(two.figures)}
    assert by_set({"loss": 1.0, "top/5": 0.1}) == {"": {"loss": 1.0, "top/5": 0.1}}  # a metric of one's own with a slash
    assert figure_names(["f1"], {"eval": 0}) == ["f1"] and figure_names(["f1"], {"dev": 0, "x": 0}) == ["dev/f1", "x/f1"]


# --------------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def trained(project, files, tmp_path_factory):
    """A run with two sets, and one with each alone, and what the first has said."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAINLOOP_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name, given in {
            "both": [f"dev={files / 'dev.csv'}", f"other={files / 'other.csv'}"],
            "dev": [str(files / "dev.csv")],
            "other": [str(files / "other.csv")],
        }.items():
            flags = [word for each in given for word in ("--eval-file", each)]
            assert run.main(training(project, *flags, "--output-dir", str(out / name))) == 0
    return out


def figures_in(directory: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in line.items() if not name.endswith("_per_second") and name != "num_examples"}
        for line in lines_of(directory)
        if line["kind"] == "eval"
    ]


def test_each_set_is_measured_as_it_is_alone(trained):
    """In log, run.json and its classes; and what is trained is the same."""
    both = figures_in(trained / "both")
    for name in ("dev", "other"):
        alone = figures_in(trained / name)
        assert len(alone) == len(both) == 2
        for line, its in zip(both, alone, strict=True):
            assert [line[f"{name}/{figure}"] for figure in ("loss", "accuracy", "f1", "mcc")] == [
                its[figure] for figure in ("loss", "accuracy", "f1", "mcc")
            ]
    train = [[line for line in lines_of(trained / name) if line["kind"] == "train"] for name in ("both", "dev")]
    assert train[0] == train[1]
    document, alone = read_run(trained / "both"), read_run(trained / "dev")
    assert document.data.num_examples == {"train": 60, "dev": 18, "other": 12}
    assert document.kept == alone.kept  # the best is that of the first set
    assert document.metrics["eval_dev/f1"] == alone.metrics["eval_f1"] and "eval_loss" not in document.metrics
    assert {name: document.classes[f"dev/{name}"] for name in "abc"} == alone.classes
    assert sum(row["rows"] for name, row in document.classes.items() if name.startswith("other/")) == 12


def test_the_pages_name_the_sets(trained, tmp_path, capsys):
    card, report = ((trained / "both" / name).read_text() for name in ("README.md", "report.html"))
    assert "dev/accuracy" in card and "split: dev" in card and "split: other" in card
    assert "other/f1" in report and "<h2>Classes</h2>" in report and "dev/a" in report
    assert run.main(["compare", str(trained / "both"), str(trained / "dev"), "--output", str(tmp_path / "c.html")]) == 0
    assert "eval_dev/f1" in capsys.readouterr().out


def test_evaluate_takes_the_sets_of_the_run_and_others(trained, files, tmp_path, capsys):
    assert run.main(["evaluate", str(trained / "both"), "--device", "cpu", "--output", str(tmp_path / "a.json")]) == 0
    there = json.loads((tmp_path / "a.json").read_text())
    metrics = read_run(trained / "both").metrics
    assert there["eval_other/f1"] == metrics["eval_other/f1"] and there["eval_dev/f1"] == metrics["eval_dev/f1"]
    named = ["--file", f"x={files / 'other.csv'}", "--file", f"y={files / 'dev.csv'}", "--errors", str(tmp_path / "e.csv")]
    assert run.main(["evaluate", str(trained / "both"), "--device", "cpu", *named, "--output", str(tmp_path / "b.json")]) == 0
    here = json.loads((tmp_path / "b.json").read_text())
    assert here["eval_x/f1"] == metrics["eval_other/f1"] and here["eval_y/loss"] == metrics["eval_dev/loss"]
    header, *rows = (tmp_path / "e.csv").read_text().splitlines()
    assert header.startswith("set,row,text") and {row[0] for row in rows} == {"x", "y"}
    code, line = fails(["evaluate", str(trained / "both"), "--file", f"x={files / 'dev.csv'},x={files / 'dev.csv'}"], capsys)
    assert code == 2 and "--file: two sets are called 'x'" in line


def test_the_best_metric_names_its_set(project, files, tmp_path, capsys):
    sets = [f"dev={files / 'dev.csv'}", f"other={files / 'other.csv'}"]
    config = tmp_path / "settings.yaml"
    config.write_text(f"eval_file: [{', '.join(sets)}]\n")
    asked = training(project, "--config", str(config), "--output-dir", str(tmp_path / "run"))
    code, line = fails([*asked, "--best-metric", "f1"], capsys)
    assert code == 2 and "--best-metric f1 is not computed; there are: dev/loss, dev/accuracy, dev/f1" in line
    assert run.main([*asked, "--best-metric", "other/f1", "--patience", "1"]) == 0
    said = capsys.readouterr().out
    assert "(best other/f1 so far)" in said and "the best model is that of" not in said
    code, line = fails([*asked[:-1], str(tmp_path / "run"), "--eval-file", sets[0]], capsys)
    assert code == 2 and "eval_file" in line  # another set of names is another run


def test_the_default_is_said(project, files, tmp_path, capsys):
    sets = ["--eval-file", f"other={files / 'other.csv'}", "--eval-file", f"dev={files / 'dev.csv'}"]
    assert run.main(training(project, *sets, "--explain", "--output-dir", str(tmp_path / "run"))) == 0
    said = capsys.readouterr()
    assert "2 evaluation sets: the best model is that of other/loss, on the first" in said.out + said.err


# ------------------------------------------------------------------------------------------------- resuming, and ranks


def test_resuming_is_bitwise(tmp_path):
    config = TrainConfig(**SMALL, save_steps=3, eval_steps=4, best_metric="other/accuracy")
    whole = train_to(tmp_path / "whole", two_sets(), config, tiny.bert())
    train_to(tmp_path / "cut", two_sets(), config, tiny.bert(), until=7)
    resumed = train_to(tmp_path / "cut", two_sets(), config, tiny.bert(), resume=True)
    assert_same_bits(whole, resumed)
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "cut")
    assert "other/accuracy" in lines_of(tmp_path / "cut")[-1]


def test_ranks_measure_what_one_does(tmp_path):
    from engine.fit import fit

    def go(out: Path) -> None:
        settings = {"batch_size": 6, "epochs": 1, "device": "cpu", "precision": "fp32", "learning_rate": 1e-3}
        fit(two_sets(), TrainConfig(**settings, output_dir=str(out)), tiny.bert(dropout=0.0))

    go(tmp_path / "one")
    found = in_ranks(2, lambda rank: go(tmp_path / "two"))
    assert not any(found), found
    one, two = figures_in(tmp_path / "one"), figures_in(tmp_path / "two")
    assert one and [list(line) for line in one] == [list(line) for line in two]
    for line, its in zip(one, two, strict=True):
        assert all(value == pytest.approx(its[name], abs=1e-5) for name, value in line.items() if "/" in name)
    assert read_run(tmp_path / "one").classes == read_run(tmp_path / "two").classes
