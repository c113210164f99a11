"""``monitor``, as a user types it; and the profile that training leaves."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import run
from bench.toys import tiny
from engine.artifacts.directory import read_run
from engine.findings import profile
from tests.toys import knowing
from tests.toys.cli import command, fails
from tests.toys.pages import parsed


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run of a model that knows its task, and new rows of the same kind."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAINLOOP_CACHE", str(folder / "cache"))
        tiny.save_model(folder / "model", knowing.model(12.0, noise=0.3))
        for name, seed in (("train", 2), ("held", 1)):
            knowing.write(folder / f"{name}.csv", knowing.noisy(250, seed))
        directory = folder / "run"
        assert run.main(["--task", "classification", "--model", str(folder / "model"), "--train-file", str(folder / "train.csv"),
                         "--eval-file", str(folder / "held.csv"), "--max-steps", "1", "--learning-rate", "1e-30", "--device", "cpu",
                         "--precision", "fp32", "--output-dir", str(directory)]) == 0  # fmt: skip
    knowing.write(folder / "new.csv", knowing.noisy(250, 7))
    return folder, directory


def monitor(directory, file, *more):
    return ["monitor", str(directory), "--input", str(file), "--device", "cpu", *more]


def changed(folder, name, change):
    """new.csv with each row changed."""
    return knowing.write(folder / f"{name}.csv", [change(i, *row) for i, row in enumerate(knowing.noisy(250, 7))])


def test_the_same_kind_of_rows_is_no_drift(watched, tmp_path, capsys):
    folder, directory = watched
    assert run.main(monitor(directory, folder / "new.csv", "--output", str(tmp_path / "out"), "--fail-on-drift")) == 0
    said = capsys.readouterr().out
    assert "250 rows of new.csv, compared with the profile of" in said
    rule = "p below 0.001 after Holm's correction over 8 features, and an effect of at least 0.1"
    assert f"no drift: no feature has {rule}" in said
    record = json.loads((tmp_path / "out/monitor.json").read_text())
    assert record["drift"] is False and record["rows"] == 250 and record["rule"] == rule and len(record["features"]) == 8
    assert record["figures"]["before"]["accuracy"] == pytest.approx(read_run(directory).metrics["eval_accuracy"])
    assert 0.6 < record["figures"]["now"]["accuracy"] < 1
    page = parsed((tmp_path / "out/report.html").read_text())
    assert page is not None
    assert run.main(monitor(directory, folder / "new.csv", "--output", str(tmp_path / "out"))) == 0, (
        "again, into its own folder"
    )


PLANTED = {
    "shorter": (lambda i, text, label: (" ".join(text.split()[:4]), label), {"tokens", "characters"}),
    "other words": (lambda i, text, label: (" ".join(w if w in ("w0", "w1", "w2") else f"w{90 + i % 5}" for w in text.split()), label), {"vocabulary"}),
    "unknown words": (lambda i, text, label: (" ".join(w if w in ("w0", "w1", "w2") or k % 2 else "x" for k, w in enumerate(text.split())), label), {"unknown tokens"}),
    "other labels": (lambda i, text, label: (text.replace("w1 ", "w0 ").replace("w2 ", "w0 "), "a" if i % 5 else label), {"label", "predicted label"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(watched, tmp_path, capsys, name):
    directory, (change, expected) = watched[1], PLANTED[name]
    file = changed(tmp_path, "planted", change)
    code, line = fails(monitor(directory, file, "--fail-on-drift", "--output", str(tmp_path / "out")), capsys)
    assert code == 8 and line.startswith("error: drift: ")
    found = {each["name"]: each for each in json.loads((tmp_path / "out/monitor.json").read_text())["features"]}
    assert all(found[feature]["is_drift"] and found[feature]["adjusted"] < 1e-3 for feature in expected), found
    assert run.main(monitor(directory, file)) == 0, "unless it is asked to fail"


def test_without_labels_and_beside_a_file(watched, tmp_path, capsys):
    """The same answers, however the rows are read; and a run without a profile is compared with rows of one's own."""
    folder, directory = watched
    plain = knowing.write(tmp_path / "plain.csv", [row[:1] for row in knowing.noisy(250, 7)], ("text",))
    tables = []
    for file, more in ((plain, ()), (folder / "new.csv", ("--labels", "none")), (folder / "new.csv", ())):
        assert run.main(monitor(directory, file, *more)) == 0
        said = capsys.readouterr().out
        tables.append({line.split("  ")[1]: line.split()[:-1] for line in said.splitlines() if line.startswith("  ")})
        assert ("accuracy" in said) == (file.name == "new.csv" and not more)
    assert tables[0] == tables[1] and {name: tables[2][name] for name in ("tokens", "confidence")} == {
        name: tables[0][name] for name in ("tokens", "confidence")
    }
    older = shutil.copytree(directory, tmp_path / "older")
    (older / profile.NAME).unlink()
    code, line = fails(monitor(older, plain), capsys)
    assert code == 2 and line.endswith("compare with a file of rows that it was not trained on: --reference FILE")
    for model in (older, folder / "model"):
        assert (
            run.main(monitor(model, folder / "new.csv", "--reference", str(folder / "held.csv"), "--task", "classification"))
            == 0
        )
        said = capsys.readouterr().out
        assert "250 rows of new.csv, compared with held.csv" in said and "no drift" in said and "(before: " in said


def test_what_is_refused(watched, tmp_path, capsys):
    folder, directory = watched
    new = folder / "new.csv"
    other = shutil.copytree(directory, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    document = json.loads((other / "run.json").read_text())
    document["files"]["model.safetensors"] = "0" * 64  # as a run with other weights writes it
    (other / "run.json").write_text(json.dumps(document))
    assert weights and fails(monitor(other, new), capsys) == (
        2, f"error: {other} has no profile of its data, as an older version, or another program, has made its model: compare "
           "with a file of rows that it was not trained on: --reference FILE"
    )  # fmt: skip
    for more, code, words in (
        (["--output", str(directory)], 2, "is not empty, and holds nothing of monitor"),
        (["--output", str(new)], 2, "is no folder"),
        (["--output", str(tmp_path / "no/where")], 2, "there is no such directory"),
        (["--alpha", "0"], 2, "--alpha must lie between 0 and 1"),
        (["--least-effect", "2"], 2, "--least-effect must be 0 to 1"),
        (["--label-column", "text"], 2, "different columns"),
        (["--text-column", "body"], 3, "no column 'body'"),
        (["--reference", str(tmp_path / "none.csv")], 3, "none.csv"),
    ):
        found, line = fails(monitor(directory, new, *more), capsys)
        assert found == code and words in line, (more, line)
    assert fails(["monitor", str(directory)], capsys)[1] == "error: --input must name a file of new rows, found ''"
    assert "compared with" not in capsys.readouterr().out and not (directory / "monitor.json").exists()
    tiny.save_model(tmp_path / "mlm")
    code, line = fails(["monitor", str(tmp_path / "mlm"), "--task", "mlm", "--input", str(new)], capsys)
    assert code == 2 and "--task mlm: data of this task are not watched; those of classification, yelp, imdb are" in line


# ---------------------------------------------------------------------------------------------------- what training leaves


def test_training_leaves_a_profile_of_training_rows_and_of_answers_to_others(project):
    found = profile.read(project / "run", read_run(project / "run").files)
    assert found is not None
    assert {name: (each.of, each.rows) for name, each in found.numbers.items()} == dict.fromkeys(
        ("tokens", "characters", "vocabulary", "unknown tokens"), ("training rows", 60)
    ) | {"confidence": ("evaluation rows", 30)}
    texts = [text for text, _ in tiny.texts(60, 0)]
    assert sorted(found.numbers["characters"].sample) == sorted(map(len, texts))
    assert sorted(found.numbers["tokens"].sample) == sorted(len(text.split()) + 2 for text in texts)
    assert found.shares["label"].rows == 60 and found.shares["predicted label"].rows == 30
    text = (project / "run" / profile.NAME).read_text()
    assert not any(f'"{word}' in text or f"{word} " in text for word in ("w3", "w10", "w41")), "no texts"
    assert found.vocabulary.rows == 60 and max(found.vocabulary.counts.values()) == 60


def test_it_is_of_the_model_that_was_kept(project, tmp_path, monkeypatch):
    """Of the best evaluation, not of the last; and where an earlier process has done it, it is done again, to the same profile."""
    given = command(
        project,
        "--eval-steps",
        "1",
        "--batch-size",
        "20",
        "--learning-rate",
        "3",
        "--best-metric",
        "loss",
        "--seed",
        "3",
        "--precision",
        "fp32",
    )
    assert run.main([*given, "--output-dir", str(tmp_path / "a")]) == 0
    kept = read_run(tmp_path / "a").kept
    assert kept.step == 1 < len(list((tmp_path / "a/metrics.jsonl").read_text().splitlines())), "the first, and not the last"
    confidences = np.array(profile.read(tmp_path / "a", read_run(tmp_path / "a").files).numbers["confidence"].sample)
    assert (
        run.main(
            [
                "predict",
                str(tmp_path / "a"),
                "--input",
                str(project / "eval.csv"),
                "--output",
                str(tmp_path / "p.jsonl"),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    scores = [json.loads(line)["score"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert np.sort(confidences) == pytest.approx(np.sort(scores), abs=2e-4)
    before = (tmp_path / "a" / profile.NAME).read_text()
    document = json.loads((tmp_path / "a/run.json").read_text())
    (tmp_path / "a/run.json").write_text(json.dumps(document | {"status": "running"}))
    (tmp_path / "a" / profile.NAME).unlink()
    assert run.main([*given, "--output-dir", str(tmp_path / "a"), "--resume"]) == 0
    again = profile.Profile.from_json(json.loads((tmp_path / "a" / profile.NAME).read_text()))
    first = profile.Profile.from_json(json.loads(before))
    assert again.shares == first.shares and again.numbers["tokens"] == first.numbers["tokens"]
    assert again.numbers["confidence"].sample == pytest.approx(first.numbers["confidence"].sample, abs=1e-4)


def test_it_changes_nothing_of_a_run_and_costs_it_no_failure(project, tmp_path, monkeypatch, capsys):
    from tasks.classification.task import Classification
    from tasks.classification.watch import Watched

    given = command(project, "--batch-size", "10", "--seed", "5")
    assert run.main([*given, "--output-dir", str(tmp_path / "with")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "watched", False)
        assert run.main([*given, "--output-dir", str(tmp_path / "without")]) == 0
    assert not (tmp_path / "without" / profile.NAME).exists()

    def broken(*_):
        raise RuntimeError("a subclass has other outputs")

    for name in ("update", "texts"):
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(Watched, name, broken)
            assert run.main([*given, "--output-dir", str(tmp_path / name)]) == 0
        assert capsys.readouterr().err.count("a subclass has other outputs") == 1
    one, *others = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without", "update", "texts"))
    assert all(torch.equal(one[key], other[key]) for other in others for key in one)


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_other_problems(tmp_path, capsys, problem):
    generator = np.random.default_rng(0)
    rows = [(text, "|".join(sorted({label, "abc"[generator.integers(3)]})) if problem == "multi_label" else "abc".index(label) + 0.5)
            for text, label in tiny.texts(220, 3)]  # fmt: skip
    tiny.save_model(tmp_path / "model", tiny.bert(num_labels=3 if problem == "multi_label" else 1))
    for name, part in (("train", rows[:60]), ("eval", rows[60:120]), ("new", rows[120:])):
        knowing.write(tmp_path / f"{name}.csv", part)
    assert run.main([*command(tmp_path), "--problem", problem, "--output-dir", str(tmp_path / "run")]) == 0
    found = profile.read(tmp_path / "run", read_run(tmp_path / "run").files)
    capsys.readouterr()
    assert run.main(monitor(tmp_path / "run", tmp_path / "new.csv")) == 0
    said = capsys.readouterr().out
    if problem == "multi_label":
        assert {"a", "a|b", "b|c"} <= {*found.shares["label"].counts} and found.shares["predicted label"].rows == 60
        assert "  label " in said and "  predicted label " in said and "over 8 features" in said
    else:
        assert found.shares == {} and found.numbers["value"].rows == found.numbers["predicted value"].rows == 60
        assert "  value " in said and "  predicted value " in said and "over 7 features" in said
    assert "no drift" in said


def test_training_leaves_where_the_evaluation_rows_stand(watched):
    """Mean and covariance of those of the model that was kept, computed again by hand."""
    from engine.data.collate import PADDED, arrange
    from engine.finished import open_model
    from engine.model.projected import random_lines
    from tasks import find

    directory = watched[1]
    found = profile.read(directory, read_run(directory).files).embedding
    task, model, _ = open_model(str(directory), find, device="cpu")
    rows = []
    with torch.inference_mode():
        for text, _ in knowing.noisy(250, 1):
            inputs = arrange([{"input_ids": np.array(task.tokenizer(text)["input_ids"])}], PADDED, task.tokenizer)[0]
            rows.append((model.base_model(**inputs).last_hidden_state[0].mean(0) @ random_lines(32)).numpy())
    assert found.rows == 250 and found.of == "evaluation rows" and len(found.mean) == 16
    assert found.mean == pytest.approx(np.mean(rows, 0), abs=1e-4)
    assert np.allclose(found.covariance, np.cov(np.array(rows), rowvar=False), atol=1e-4)


# ----------------------------------------------------------------------------------------------- what a server logs


def logged(directory, path, texts, **more):
    """The log of a server that has been asked these texts, some at a time."""
    from engine.findings.input_log import InputLog
    from tests.toys.served import served

    known = profile.read(directory, read_run(directory).files)
    log = InputLog(path, known.weights, known.vocabulary)
    with served(directory, profile_log=log, **more) as (client, service):
        for start in range(0, len(texts), 9):
            assert client.post("/predict", json={"inputs": texts[start : start + 9]}).status_code == 200
        service.batcher.close()
    log.close()
    return path


def test_the_log_of_a_server_says_what_the_file_would(watched, tmp_path, capsys):
    """The same features, to the last digit that is shown; and no text stands in it."""
    folder, directory = watched
    texts = [text for text, _ in knowing.noisy(250, 7)]
    log = logged(directory, tmp_path / "inputs.jsonl", texts)
    assert len(log.read_text().splitlines()) == 251 and "w1 " not in log.read_text(), (
        "without the example of the server's start"
    )
    found = []
    for file, more in ((folder / "new.csv", ("--labels", "none")), (log, ())):
        out = tmp_path / file.stem
        assert run.main(monitor(directory, file, "--output", str(out), "--fail-on-drift", *more)) == 0
        assert "no drift" in capsys.readouterr().out and (out / "report.html").exists()
        features = {each["name"]: each for each in json.loads((out / "monitor.json").read_text())["features"]}
        found.append(features)
    assert found[0].keys() == found[1].keys() == {
        "tokens", "characters", "unknown tokens", "vocabulary", "confidence", "predicted label", "embedding"
    }  # fmt: skip
    for name, expected in found[0].items():
        assert found[1][name]["rows"] == expected["rows"], name
        assert found[1][name]["effect"] == pytest.approx(expected["effect"], abs=0.005), name


def test_a_drift_of_what_a_server_is_asked_is_found_by_its_log(watched, tmp_path, capsys):
    directory = watched[1]
    change = PLANTED["shorter"][0]
    short = [change(i, *row)[0] for i, row in enumerate(knowing.noisy(250, 7))]
    log = logged(directory, tmp_path / "june.jsonl", short)
    code, line = fails(monitor(directory, log, "--fail-on-drift"), capsys)
    assert code == 8 and "tokens" in line and "characters" in line and "embedding" in line
    may = logged(directory, tmp_path / "may.jsonl", [text for text, _ in knowing.noisy(250, 8)])
    code, line = fails(monitor(directory, log, "--reference", str(may), "--fail-on-drift"), capsys)
    assert code == 8 and "tokens" in line
    assert run.main(monitor(directory, may, "--reference", str(may), "--fail-on-drift")) == 0
    assert "250 rows of may.jsonl, compared with may.jsonl" in capsys.readouterr().out


def test_the_temperature_of_the_answers_is_taken_back(watched, tmp_path, capsys):
    """The profile is of the logits alone, and so is the log."""
    directory = watched[1]
    calibrated = shutil.copytree(directory, tmp_path / "calibrated")
    config = json.loads((calibrated / "config.json").read_text())
    (calibrated / "config.json").write_text(json.dumps(config | {"calibration": {"temperature": 4.0}}))
    log = logged(calibrated, tmp_path / "inputs.jsonl", [text for text, _ in knowing.noisy(250, 7)])
    assert run.main(monitor(directory, log, "--fail-on-drift")) == 0
    plain = logged(directory, tmp_path / "plain.jsonl", [text for text, _ in knowing.noisy(250, 7)])
    both = [sorted(json.loads(line)["confidence"] for line in each.read_text().splitlines()[1:]) for each in (log, plain)]
    assert both[0] == pytest.approx(both[1], abs=1e-4)


def test_what_of_a_log_is_refused(watched, tmp_path, capsys):
    folder, directory = watched
    log = logged(directory, tmp_path / "inputs.jsonl", ["w1 w2", "w0"])
    content = log.read_text()
    other = tmp_path / "other.jsonl"
    other.write_text(content.replace(json.loads(content.splitlines()[0])["weights"], "0" * 32))
    broken = tmp_path / "broken.jsonl"
    broken.write_text(f"{content}oh\n")
    for file, more, code, words in (
        (log, ["--reference", str(folder / "new.csv")], 2, "a log of serve --profile-log holds no rows"),
        (folder / "new.csv", ["--reference", str(log)], 2, "a log of serve --profile-log holds no rows"),
        (log, ["--text-column", "text"], 2, "--text-column is for a file of rows"),
        (other, [], 3, "by a server of another model"),
        (broken, [], 3, "line 4: this is not what serve --profile-log writes"),
    ):
        found, line = fails(monitor(directory, file, *more), capsys)
        assert found == code and words in line, line


def test_what_serve_refuses_to_log(watched, tmp_path, capsys):
    folder, directory = watched
    older = shutil.copytree(directory, tmp_path / "older")
    (older / profile.NAME).unlink()
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"text": "mine"}\n')
    for model, more, words in (
        (older, ["--profile-log", str(tmp_path / "a.jsonl")], "--profile-log needs a run of this version"),
        (folder / "model", ["--profile-log", str(tmp_path / "a.jsonl")], "is no run"),
        (directory, ["--profile-log", str(tmp_path / "a.csv")], "must end in .jsonl"),
        (directory, ["--profile-log", str(directory / "metrics.jsonl")], "is a file of the model or run"),
        (directory, ["--profile-log", str(mine)], "is there, and not such a log"),
        (directory, ["--profile-log-texts"], "give that, too"),
    ):
        code, line = fails(["serve", str(model), "--port", "0", "--device", "cpu", *more], capsys)
        assert code == 2 and words in line, line
    assert mine.read_text() == '{"text": "mine"}\n' and not (tmp_path / "a.jsonl").exists()
