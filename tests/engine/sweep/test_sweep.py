"""``run.py sweep`` from end to end: a grid of 9 whose figures are recomputed with SciPy from the raw rows, what starting it again
does, folds, failures, losers, and optuna's draws."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from scipy import stats

import run
from bench.toys import tiny
from engine.sweep import command
from tests.toys.cli import fails
from tests.toys.killed import run_main
from tests.toys.sweeping import document, run_here, sweep, training

RATES = ["1e-05", "0.003", "0.03"]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with model and data, and nothing trained."""
    folder = tmp_path_factory.mktemp("place")
    tiny.save_model(folder / "model")
    tiny.save_texts(folder, train=150, eval=120)
    return folder, ""


@pytest.fixture(scope="session")
def nine(place):
    """Beside them ``s``: a finished sweep of three rates with three seeds; and what it printed."""
    folder, _ = place
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAINLOOP_CACHE", str(folder / "cache"))
        patch.setattr(command, "run_all", run_here)
        code, said = run_main(
            ["sweep", *training(folder, epochs=3), "--grid", "learning_rate=1e-5,3e-3,3e-2", "--output-dir", str(folder / "s")]
        )
    assert code == 0, said
    return folder, said


def raw(folder, rate: str, what: str) -> np.ndarray:
    """[3, N]: of each seed, from rows.json."""
    runs = [folder / f"s/runs/learning_rate={rate},seed={seed}" for seed in (42, 43, 44)]
    return np.array([json.loads((each / "rows.json").read_text())["sets"]["eval"][what] for each in runs], dtype=float)


def test_the_statistics_are_those_of_scipy_from_the_raw_rows(nine):
    folder, said = nine
    found = document(folder / "s")
    assert found["status"] == "finished" and found["figure"] == {"name": "accuracy", "split": "eval", "lower_is_better": False}
    settings = {row["learning_rate"]: row for row in found["settings"]}
    assert [*settings] == RATES
    right = {rate: raw(folder, rate, "right") for rate in RATES}
    best = max(RATES, key=lambda rate: right[rate].mean())
    assert found["best"]["setting"] == {"learning_rate": best} and found["best"]["chosen_on"] == right[best].shape[1] == 60
    p = {}
    for rate, row in settings.items():
        assert row["mean"] == pytest.approx(right[rate].mean(), abs=1e-7), "the figure of the runs is that of the rows"
        assert row["values"] == pytest.approx(right[rate].mean(1), abs=1e-7)
        assert row["standard_error"] == pytest.approx(stats.sem(right[rate].mean(1)), abs=1e-7)
        if rate != best:
            test = stats.ttest_rel(right[rate].mean(0), right[best].mean(0))
            p[rate] = test.pvalue
            assert row["p"] == pytest.approx(test.pvalue, rel=1e-6) and row["pairs"] == 60
            assert row["less_best"] == pytest.approx((right[rate] - right[best]).mean())
            assert row["error_of_difference"] == pytest.approx(stats.sem(right[rate].mean(0) - right[best].mean(0)))
    first, second = sorted(p, key=lambda rate: p[rate])
    assert settings[first]["p_holm"] == pytest.approx(min(1, 2 * p[first]))
    assert settings[second]["p_holm"] == pytest.approx(min(1, max(2 * p[first], p[second])))
    assert min(p.values()) < 0.05, "one of the rates learns nothing, or the test could not see a wrong p"
    with open(folder / "s/sweep.csv", newline="") as stream:
        assert [float(row["mean"]) for row in csv.DictReader(stream)] == [row["mean"] for row in found["settings"]]
    page = (folder / "s/sweep.html").read_text()
    assert "on rows that chose nothing" in page and "this is the figure to quote" in said


def test_the_best_is_measured_on_rows_that_no_run_has_seen(nine, monkeypatch):
    folder, said = nine
    monkeypatch.setenv("PLAINLOOP_CACHE", str(folder / "cache"))
    found = document(folder / "s")
    best = found["best"]["setting"]["learning_rate"]
    rows = []
    for seed in (42, 43, 44):
        directory = folder / f"s/runs/learning_rate={best},seed={seed}"
        settings = json.loads((directory / "run.json").read_text())
        assert settings["settings"]["eval_part"] == "1/2" and settings["data"]["num_examples"] == {"train": 150, "eval": 60}
        copy = folder / f"other-{seed}"
        shutil.copytree(directory, copy)
        settings["settings"]["eval_part"] = "2/2"
        (copy / "run.json").write_text(json.dumps(settings))
        assert run_main(["evaluate", str(copy), "--rows", str(copy / "rows.json")])[0] == 0
        rows.append(json.loads((copy / "rows.json").read_text())["sets"]["eval"]["right"])
    right = np.array(rows, dtype=float)
    reported = found["reported"]
    assert reported["values"] == pytest.approx(right.mean(1)) and reported["number"] == 60
    assert reported["over_rows"] == pytest.approx(stats.sem(right.mean(0)))
    assert reported["over_runs"] == pytest.approx(stats.sem(right.mean(1)))
    assert f"accuracy {right.mean():.4f}" in said


def test_started_again_it_trains_nothing_and_says_the_same(nine, monkeypatch):
    folder, _ = nine
    monkeypatch.setenv("PLAINLOOP_CACHE", str(folder / "cache"))
    before = document(folder / "s")
    again = [*training(folder, epochs=3), "--grid", "learning_rate=1e-5,3e-3,3e-2", "--output-dir", str(folder / "s")]

    def none(commands, at_once, ended):
        assert not commands, "a finished run is trained again"

    monkeypatch.setattr(command, "run_all", none)
    assert run_main(["sweep", *again])[0] == 0
    assert {**document(folder / "s"), "runs": None} == {**before, "runs": None}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seeds", "4"], "holds a sweep with other settings (seeds: 3 -> 4): choose another --output-dir"),
        (["--weight-decay", "0.1"], "holds a sweep with other settings (weight_decay: 0.01 -> 0.1): choose another"),
    ],
)
def test_a_directory_of_another_sweep_is_refused(nine, more, words, capsys):
    folder, _ = nine
    again = [*training(folder, epochs=3), "--grid", "learning_rate=1e-5,3e-3,3e-2", "--output-dir", str(folder / "s")]
    code, line = fails(["sweep", *again, *more], capsys)
    assert code == 2 and words in line
    code, line = fails(["sweep", *again[:-1], str(folder), *more], capsys)
    assert code == 2 and line.endswith("is not empty and holds no sweep: choose another")
    run_of = str(folder / "s/runs/learning_rate=0.003,seed=42")
    code, line = fails(["sweep", *again[:-1], run_of, *more], capsys)
    assert code == 2 and "holds a run" in line


def test_compare_pairs_the_runs_row_by_row(nine, monkeypatch, capsys, tmp_path):
    folder, _ = nine
    names = [str(folder / f"s/runs/learning_rate={rate},seed=42") for rate in RATES]
    assert run.main(["compare", *names, "--output", str(tmp_path / "c.html")]) == 0
    said = capsys.readouterr().out
    one, other = (raw(folder, rate, "right")[0].astype(bool) for rate in RATES[:2])
    apart = int((one ^ other).sum())  # none where a processor's roundings let both answer alike
    p = stats.binomtest(int((one & ~other).sum()), apart).pvalue if apart else 1.0
    line = next(line for line in said.splitlines() if "McNemar" in line and RATES[1] in line)
    assert f"{p:.2g}" in line.split() and f"{(other.mean() - one.mean()):+.4f}" in line.split()
    losses = [raw(folder, rate, "loss")[0] for rate in RATES[:2]]
    line = next(line for line in said.splitlines() if "paired t over rows" in line and RATES[1] in line)
    assert f"{stats.ttest_rel(losses[1], losses[0]).pvalue:.2g}" in line.split()
    assert "On the same rows" in (tmp_path / "c.html").read_text()


def test_folds_choose_on_the_training_rows_and_report_on_the_others(place, tmp_path, monkeypatch):
    """Each training row is evaluated once, by a model that has not seen it."""
    folder, _ = place
    assert sweep(*training(folder), "--folds", "3", "--seeds", "1", "--output-dir", str(tmp_path / "s")) == 0
    found = document(tmp_path / "s")
    sizes = [json.loads(path.read_text())["data"]["num_examples"] for path in sorted((tmp_path / "s").glob("runs/*/run.json"))]
    assert sizes == [{"train": 100, "eval": 50}] * 3
    assert found["best"]["chosen_on"] == 150 and found["reported"]["number"] == 120
    assert found["settings"][0]["runs"] == 3 and any("overlap" in line for line in found["said"])


def test_a_run_that_fails_is_named_and_the_others_choose(place, tmp_path, capsys):
    folder, _ = place
    given = [*training(folder), "--seeds", "1", "--output-dir", str(tmp_path / "s")]
    code, line = None, None
    capsys.readouterr()
    code = sweep(*given, "--grid", "learning_rate=1e-3,1e30")
    out, err = capsys.readouterr()
    line = err.strip().splitlines()[-1]
    assert code == 5 and line.startswith(
        "error: 1 of 2 runs failed, whose settings are out of the choice; the first, learning_rate=1e+30,seed=42: "
    )
    found = document(tmp_path / "s")
    assert found["runs"]["learning_rate=1e+30,seed=42"]["code"] == 5 and found["status"] == "finished"
    assert found["best"]["setting"] == {"learning_rate": "0.001"} and found["settings"][1]["note"].startswith("failed: ")
    assert "failed with exit code 5, and its setting is out of the choice" in out
    assert sweep(*given[:-1], str(tmp_path / "none"), "--grid", "learning_rate=1e30,2e30") == 5
    assert "no setting is left to choose" in capsys.readouterr().err


def test_losers_get_no_further_seeds(nine, tmp_path, capsys):
    folder, _ = nine
    given = [
        *training(folder, epochs=3),
        "--grid",
        "learning_rate=1e-5,3e-3,3e-2",
        "--stop-losers",
        "2",
        "--output-dir",
        str(tmp_path / "s"),
    ]
    shutil.copytree(folder / "s/runs", tmp_path / "s/runs")  # what the first sweep has trained
    (tmp_path / "s/sweep.json").write_text(json.dumps({"asked": document(folder / "s")["asked"] | {"stop_losers": 2.0}}))
    planted = {"1e-05": (0.38, 0.40, 0.39), "0.003": (0.70, 0.74, 0.72), "0.03": (0.50, 0.73, 0.60)}
    for rate, values in planted.items():  # what the trainings reach differs between processors
        for seed, value in zip((42, 43, 44), values, strict=True):
            directory = tmp_path / f"s/runs/learning_rate={rate},seed={seed}"
            (directory / "rows.json").unlink()
            found = json.loads((directory / "run.json").read_text())
            found["metrics"]["eval_accuracy"] = value
            (directory / "run.json").write_text(json.dumps(found))
    asked = []

    def counted(commands, at_once, ended):
        asked.extend(flags for flags, _ in commands)

    assert sweep(*given, runner=counted) == 0 and not asked
    worse = {rate: np.subtract(planted["0.003"], values)[:2] for rate, values in planted.items() if rate != "0.003"}
    lost = {rate for rate, each in worse.items() if each.mean() > 2 * stats.sem(each)}
    assert lost == {"1e-05"}, "a loser, and one whose difference may be chance"
    assert {row["learning_rate"]: row["note"] for row in document(tmp_path / "s")["settings"]} == {
        rate: "stopped after 2 of 3 runs" if rate in lost else "" for rate in RATES
    }


@pytest.mark.slow  # seven trainings
def test_what_optuna_draws_does_not_depend_on_a_stop(place, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    folder, _ = place
    grid = ["--grid", "learning_rate=1e-5,1e-2", "--grid", "batch_size=8,16,32"]
    given = [*training(folder, batch_size=None), *grid, "--seeds", "1", "--optuna", "3"]
    assert sweep(*given, "--output-dir", str(tmp_path / "whole")) == 0
    whole = document(tmp_path / "whole")["settings"]
    assert len(whole) == 3 and all(
        1e-5 <= float(row["learning_rate"]) <= 1e-2 and row["batch_size"] in ("8", "16", "32") for row in whole
    )
    assert len({row["learning_rate"] for row in whole}) == 3
    made = []

    def stopping(commands, at_once, ended):
        made.append(commands)
        if len(made) == 2:
            raise KeyboardInterrupt
        run_here(commands, at_once, ended)

    assert sweep(*given, "--output-dir", str(tmp_path / "parts"), runner=stopping) == 130
    with open(tmp_path / "parts/trials.jsonl", "a") as stream:
        stream.write('{"op_code": 4, "tri')  # half a line
    assert sweep(*given, "--output-dir", str(tmp_path / "parts")) == 0
    parts = document(tmp_path / "parts")["settings"]
    keep = ("learning_rate", "batch_size", "values", "less_best", "p", "note")
    assert [{name: row[name] for name in keep} for row in parts] == [{name: row[name] for name in keep} for row in whole]


TYPED = [
    (
        ["--grid", "lerning_rate=1,2"],
        "--grid lerning_rate: --task classification has no such setting (did you mean learning_rate?)",
    ),
    (["--grid", "mask_probability=0.1,0.2"], "--grid mask_probability: --task classification has no such setting"),
    (["--grid", "learning_rate=1e-5,high"], "--grid learning_rate=high: --learning-rate: invalid float value: 'high'"),
    (["--grid", "learning_rate=1e-5,-1"], "--grid learning_rate=-1: --learning-rate must be a positive finite number"),
    (["--grid", "learning_rate=1e-5,0.00001"], "--grid learning_rate: 0.00001 is given twice"),
    (["--grid", "learning_rate"], "--grid is NAME=VALUE,VALUE,..., found 'learning_rate'"),
    (["--grid", "learning_rate=1e-5,,1e-4"], "--grid is NAME=VALUE,VALUE,..., found"),
    (["--grid", "seed=1,2"], "--grid seed: seeds are nothing to choose: --seeds 3"),
    (["--grid", "eval_fraction=0.1,0.2"], "--grid eval_fraction changes which rows are evaluated"),
    (["--grid", "eval_batch_size=1,2"], "--grid eval_batch_size changes no model"),
    (["--grid", "epochs=1,2", "--epochs", "3"], "--grid epochs and --epochs say the same setting"),
    (
        ["--grid", "optimizer=sgd,adamw", "--grid", "momentum=0.5,0.9"],
        "--grid optimizer=adamw,momentum=0.5: --momentum is of sgd and muon",
    ),
    (["--grid", "batch_size=8,16", "--overwrite"], "--overwrite is of one run, and a sweep makes several"),
    (["--grid", "batch_size=8,16", "--seeds", "0"], "--seeds must be 1 to 100, found 0"),
    (["--grid", "batch_size=8,16", "--folds", "1"], "--folds must be 2 to 100, found 1"),
    (["--grid", "batch_size=8,16", "--seeds", "2", "--stop-losers", "2"], "--stop-losers looks at a setting after two runs"),
    (["--grid", "batch_size=16,8", "--optuna", "3"], "with --optuna two numbers are a range, the smaller one first"),
    (["--grid", "batch_size=8", "--optuna", "3"], "--optuna has nothing to draw"),
    ([], "--grid says what to choose among"),
    (["--grid", "batch_size=8,16", "--sedes", "3"], "unknown argument '--sedes'"),
]


@pytest.mark.parametrize(("more", "words"), TYPED)
def test_a_mistake_is_one_line_before_anything_trains(place, tmp_path, more, words, capsys):
    if "--optuna" in more:
        pytest.importorskip("optuna")
    folder, _ = place
    given = [flag for flag in training(folder) if not (flag.startswith("--epochs") and "--epochs" in more)]
    given = [flag for flag in given if not (flag.startswith("--batch-size") and any("batch_size" in each for each in more))]
    code, line = fails(["sweep", *given, "--output-dir", str(tmp_path / "s"), *more], capsys)
    assert code == 2 and words in line, line
    assert not (tmp_path / "s").exists()


def test_without_rows_to_report_on_it_is_refused(place, tmp_path, capsys):
    folder, _ = place
    given = [*training(folder, eval_file=None), "--grid", "batch_size=8,16"]
    given.remove("--batch-size=8")
    for more in ([], ["--folds", "3"]):
        code, line = fails(["sweep", *given, *more, "--output-dir", str(tmp_path / "s")], capsys)
        assert code == 2 and "--best-metric asks for an evaluation, and there is no evaluation data" in line
    code, line = fails(
        ["sweep", *[flag for flag in given if "best-metric" not in flag], "--output-dir", str(tmp_path / "s")], capsys
    )
    assert code == 3 and line.endswith("give --eval-file, or hold some out with --eval-fraction 0.2")
    assert fails(["sweep", *given], capsys) == (
        2,
        "error: --output-dir names the directory of the sweep: --output-dir sweeps/first",
    )
    assert fails(["sweep", "--grid", "batch_size=1,2"], capsys)[1].startswith("error: --task says what to learn")


def test_rows_are_not_written_where_they_must_not_be(nine, capsys):
    folder, _ = nine
    model = str(folder / "s/runs/learning_rate=0.003,seed=42")
    for name, words in (("x.csv", "--rows must end in .json"), (f"{model}/config.json", "is a file of the model or run")):
        code, line = fails(["evaluate", model, "--rows", name], capsys)
        assert code == 2 and words in line
    code, line = fails(["evaluate", model, "--rows", f"{model}/rows.json", "--calibrate"], capsys)
    assert code == 2 and "--calibrate changes what --rows writes" in line


def test_help_has_its_flags_and_says_where_the_others_are(capsys):
    with pytest.raises(SystemExit):
        run.main(["sweep", "--help"])
    out = capsys.readouterr().out
    assert "--stop-losers" in out and "python run.py --task TASK --help" in out
