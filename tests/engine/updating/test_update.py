"""``update``, as a user types it: kept when it is not worse, and else not; on the run's rows and others; from any source."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import run
from bench.toys import tiny
from engine.artifacts.directory import read_run
from engine.data.more import rows_that_stay
from engine.data.sources import SourceConfig
from engine.findings import profile
from tests.toys import knowing
from tests.toys.cli import fails
from tests.toys.language import masked_bert

STILL = ("--learning-rate", "1e-30")  # an update that learns nothing


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that errs often, and new rows."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.save_model(folder / "model", knowing.model(12.0, noise=0.6))
    for name, number, seed in (("train", 40, 1), ("held", 150, 2), ("more", 120, 3), ("wrong", 90, 4)):
        rows = tiny.texts(number, seed)
        knowing.write(
            folder / f"{name}.csv", [(text, "bca"["abc".index(label)]) for text, label in rows] if name == "wrong" else rows
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAINLOOP_CACHE", str(folder / "cache"))
        assert run.main(train(folder, "--eval-file", str(folder / "held.csv"), "--output-dir", str(folder / "run"))) == 0
        assert run.main(train(folder, "--eval-fraction", "0.5", "--output-dir", str(folder / "halved"))) == 0
    return folder


def train(folder, *more):
    return ["--task", "classification", "--model", str(folder / "model"), "--train-file", str(folder / "train.csv"), "--max-steps", "1",
            *STILL, "--weight-decay", "0", "--device", "cpu", "--precision", "fp32", *more]  # fmt: skip


@pytest.fixture
def place(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "x")
    return tmp_path / "x"


def update(place, *more):
    return ["update", str(place), "--device", "cpu", *map(str, more)]


def accuracy(place, capsys):
    capsys.readouterr()
    assert run.main(["evaluate", str(place), "--device", "cpu", "--precision", "fp32"]) == 0
    return next(line.split()[-1] for line in capsys.readouterr().out.splitlines() if "eval_accuracy" in line)


def test_a_better_model_takes_the_place_and_goes_back(trained, place, capsys):
    before = accuracy(place, capsys)
    assert run.main(update(place, "--train-file", trained / "more.csv", "--learning-rate", "1e-3", "--epochs", "3")) == 0
    said, err = capsys.readouterr()
    assert "train data: 120 new rows, and 40 of those before" in err
    assert f"kept: the new model, now in {place}; the old one is in {place}.before (update --rollback)" in said
    assert {path.name for path in place.parent.iterdir()} == {"x", "x.before"}
    after = accuracy(place, capsys)
    verdict = json.loads((place / "update.json").read_text())
    [found] = verdict["sets"]
    assert (f"{found['old']:.4f}", f"{found['new']:.4f}") == (before, after) and found["rows"] == 150
    assert found["new"] - found["old"] == pytest.approx((found["gained"] - found["lost"]) / 150)
    assert verdict["kept"] == "new" and found["interval"][0] >= 0 and found["p"] < 0.05
    document = read_run(place)
    assert document.settings["more_train_file"] == str(trained / "more.csv") and document.data.num_examples == {
        "train": 160,
        "eval": 150,
    }
    assert document.data.source.endswith(f", and {trained / 'more.csv'} (120 rows)")
    assert profile.read(place, document.files).numbers["tokens"].rows == 160, "the profile is of what it was trained on"
    assert run.main(["monitor", str(place), "--input", str(trained / "held.csv"), "--device", "cpu"]) == 0
    assert run.main(update(place, "--rollback")) == 0
    assert accuracy(place, capsys) == before and accuracy(place.with_name("x.before"), capsys) == after
    assert run.main(update(place, "--rollback")) == 0 and accuracy(place, capsys) == after


def test_a_worse_model_is_not_kept(trained, place, capsys):
    """New rows with wrong labels; the model in use is untouched, and a margin that allows it puts the new one in its place."""
    files = {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and path.name != ".lock"}
    wrong = ("--train-file", trained / "wrong.csv", "--old-rows", "none", "--learning-rate", "5e-2")
    assert run.main(update(place, *wrong)) == 0
    said, err = capsys.readouterr()
    assert (
        f"kept: the old model, in {place}; the new one is left in {place}.update" in said
        and "90 new rows, and 0 of those before" in err
    )
    assert "The rule: on each set the lower end of the 95% interval of the difference is at least 0" in said
    assert files == {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and path.name != ".lock"}
    verdict = json.loads((place.with_name("x.update") / "update.json").read_text())
    assert verdict["kept"] == "old" and verdict["sets"][0]["interval"][1] < 0
    code, line = fails(update(place, "--train-file", trained / "more.csv"), capsys)
    assert code == 2 and "holds a run with other settings" in line and line.endswith("or --overwrite")
    assert run.main(update(place, *wrong, "--margin", "0.99")) == 0
    said = capsys.readouterr().out
    assert "training skipped" in said and "kept: the new model" in said and "at least -0.99" in said


def test_an_equal_model_is_kept_with_a_margin_alone_and_each_set_has_a_say(trained, place, capsys):
    more = ("--train-file", trained / "more.csv", "--eval-file", f"other={trained / 'train.csv'}")
    assert run.main(update(place, *more, *STILL)) == 0
    said, err = capsys.readouterr()
    assert "evaluation rows: accuracy" in said and "--eval-file other: accuracy" in said and "kept: the old model" in said
    needed = 3.8415 / (40 + 3.8415)  # of the smaller set, of which no row differs
    assert f"with --margin {needed + 5e-5:.4f} or more would keep the new one, without training it again" in err
    assert run.main(update(place, *more, *STILL, "--margin", "0.05")) == 0 and "kept: the old model" in capsys.readouterr().out
    assert run.main(update(place, *more, *STILL, "--margin", f"{needed + 5e-5:.4f}")) == 0
    assert "kept: the new model" in capsys.readouterr().out


def test_rows_that_are_held_out_have_no_say(trained, place, capsys, tmp_path):
    rows = tiny.texts(150, 2)
    knowing.write(tmp_path / "leak.csv", rows[:30] + tiny.texts(20, 9))
    assert run.main(update(place, "--train-file", tmp_path / "leak.csv", *STILL)) == 0
    said, err = capsys.readouterr()
    assert "30 of 150 evaluation texts stand in the training data, too" in err
    assert (
        "warning: evaluation rows: 30 of 150 are among the new rows, and have no say" in err
        and ", 120 rows: 0 gained, 0 lost" in said
    )
    knowing.write(tmp_path / "all.csv", rows)
    code, line = fails(update(place, "--train-file", tmp_path / "all.csv", *STILL, "--overwrite"), capsys)
    assert code == 3 and "all rows are among the new rows, and none is left to decide: give --eval-file" in line
    others = ("--eval-file", trained / "train.csv")
    code, line = fails(update(place, "--train-file", tmp_path / "all.csv", *STILL, *others), capsys)
    assert code == 3, "its own rows have to be left some, too"


def test_held_out_rows_stay_held_out_while_the_data_grow(trained, tmp_path, capsys):
    """With --eval-fraction, too; and after an update of an update."""
    place = shutil.copytree(trained / "halved", tmp_path / "x")
    fingerprint, sizes = read_run(place).data.fingerprints["eval"], read_run(place).data.num_examples
    for name, new in (("more", 120), ("wrong", 210)):
        assert run.main(update(place, "--train-file", trained / f"{name}.csv", *STILL, "--margin", "0.5")) == 0
        document = read_run(place)
        assert document.data.fingerprints["eval"] == fingerprint
        assert document.data.num_examples == {"train": new + sizes["train"], "eval": sizes["eval"]}
    assert document.settings["more_train_file"] == f"{trained / 'more.csv'},{trained / 'wrong.csv'}"
    assert "kept: the new model" in capsys.readouterr().out


def test_killed_while_it_trains_it_goes_on(trained, place, capsys, monkeypatch):
    """The same command again; and the model in use was never touched."""
    from engine.updating import command

    def dies(*_):
        raise KeyboardInterrupt

    more = ("--train-file", trained / "more.csv", *STILL, "--margin", "0.5")
    with monkeypatch.context() as patch:
        patch.setattr("engine.fit.publish", dies)
        assert run.main(update(place, *more)) == 130
    assert read_run(place).status == "finished" and not (place / "update.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(command, "decide", dies)
        assert run.main(update(place, *more)) == 130
    capsys.readouterr()
    assert run.main(update(place, *more)) == 0
    said = capsys.readouterr().out
    assert "training skipped" in said and "kept: the new model" in said


def test_which_old_rows_stay():
    config = SourceConfig(more_train_file="x.csv", old_rows="same")
    rows = rows_that_stay(config, 100, 30)
    assert (
        len({*rows.tolist()}) == 30 and (np.diff(rows) > 0).all() and rows.tolist() == rows_that_stay(config, 100, 30).tolist()
    )
    assert rows_that_stay(config, 20, 30).tolist() == [*range(20)]
    assert (
        rows.tolist() != rows_that_stay(SourceConfig(more_train_file="x.csv", old_rows="same", data_seed=1), 100, 30).tolist()
    )
    assert rows_that_stay(SourceConfig(), 5, 3).tolist() == [*range(5)]


def test_what_is_refused(trained, place, tmp_path, capsys):
    more = ("--train-file", trained / "more.csv")
    for given, code, words in (
        ((), 2, "--train-file must name a file of new rows, unless --rollback is given"),
        (("--rollback", *more), 2, "--rollback trains nothing"),
        (("--rollback",), 2, "x.before holds no finished run"),
        ((*more, "--margin", "-1"), 2, "--margin must be at least 0"),
        ((*more, "--epochs", "0"), 2, "--epochs must be at least 1"),
        (("--train-file", tmp_path / "none.csv"), 3, "none.csv"),
        ((*more, "--eval-file", tmp_path / "none.csv"), 3, "none.csv"),
        (("--train-file", knowing.write(tmp_path / "odd.csv", [("w1", "z")])), 3, "'z'"),
        (("--train-file", knowing.write(tmp_path / "body.csv", [("w1", "a")], ("body", "label"))), 3, "no column 'text'"),
    ):
        found, line = fails(update(place, *given), capsys)
        assert found == code and words in line, (given, line)
    (tmp_path / "link").symlink_to(place)
    assert "is a link, and update exchanges folders" in fails(update(tmp_path / "link", *more), capsys)[1]
    changes = {
        "is an adapter": {"lora": True}, "predicts numbers": {"problem": "regression"},
        "anybody may have written that": {"more_train_file": "https://example.org/x.csv"},
    }  # fmt: skip
    document = json.loads((place / "run.json").read_text())
    for words, change in changes.items():
        (place / "run.json").write_text(json.dumps(document | {"settings": document["settings"] | change}))
        assert words in fails(update(place, *more), capsys)[1]
    (place / "run.json").write_text(json.dumps(document | {"data": document["data"] | {"num_examples": {"train": 40}}}))
    assert "has no evaluation data, which have to decide: give --eval-file" in fails(update(place, *more), capsys)[1]
    (place / "run.json").write_text(json.dumps(document | {"status": "running"}))
    assert "holds no finished run" in fails(update(place, *more), capsys)[1]
    assert not place.with_name("x.update").exists() or not list(place.with_name("x.update").glob("*.safetensors"))


def test_other_tasks_do_not_know_it(trained, tmp_path, capsys):
    tiny.save_model(tmp_path / "mlm", masked_bert())
    given = ["--task", "mlm", "--model", str(tmp_path / "mlm"), "--train-file", str(trained / "train.csv"), "--device", "cpu"]
    code, line = fails([*given, "--more-train-file", str(trained / "more.csv"), "--output-dir", str(tmp_path / "run")], capsys)
    assert code == 2 and "--more-train-file: this task knows no new rows beside the old ones" in line
    code, line = fails(train(trained, "--old-rows", "none", "--output-dir", str(tmp_path / "run")), capsys)
    assert code == 2 and "--old-rows needs --more-train-file, found 'none'" in line
