"""The command line: what it prints, how fast, and one line with the mend for every mistake.

Most calls are made in this process (run.main returns the exit code); the start-up times are those of a new one.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import run
from bench.toys import tiny
from engine.console import quiet_libraries
from tests.toys.cli import command, fails

ROOT = Path(__file__).parent.parent


def without_evaluation(arguments: list[str]) -> list[str]:
    at = arguments.index("--eval-file")
    return arguments[:at] + arguments[at + 2 :]


def processor_seconds(arguments: list[str], code: int, limit: float) -> tuple[float, subprocess.CompletedProcess]:
    """What a new process costs: its processor time, because other programs run on the machine, too. Best of six."""
    times = [float("inf")]
    while len(times) < 7 and min(times) >= limit:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert result.returncode == code
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times), result


@pytest.fixture(scope="module")
def seconds_of_torch():
    """What importing torch costs on this machine: the measure of a start without it."""
    return min(processor_seconds(["-c", "import torch"], 0, limit=float("inf"))[0] for _ in range(2))


def test_help_answers_before_torch_would_be_imported(seconds_of_torch):
    seconds, result = processor_seconds(["run.py", "--help"], 0, limit=seconds_of_torch)
    assert seconds < seconds_of_torch
    for word in ("yelp", "imdb", "classification", "--accumulation-steps", "--train-file", "predict", "(default: 2e-05)"):
        assert word in result.stdout
    assert "--batch_size" not in result.stdout, "one spelling of each flag"


def test_help_of_a_task_and_of_the_commands(capsys):
    for arguments, words in (
        (["--task", "yelp", "--help"], ("--stars", "--max-length", "(default: 5000)")),
        (["predict", "--help"], ("--input", "--output", "texts")),
        (["evaluate", "--help"], ("--file", "--max-eval-examples")),
    ):
        with pytest.raises(SystemExit) as stop:
            run.main(arguments)
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words), shown


def test_a_bad_flag_is_found_as_fast(seconds_of_torch):
    seconds, result = processor_seconds(["run.py", "--task", "yelp", "--lerning-rate", "1"], 2, limit=seconds_of_torch)
    assert seconds < seconds_of_torch
    assert result.stderr == "error: unknown argument '--lerning-rate' (did you mean --learning-rate?)\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--task says what to learn; there are: yelp, imdb, classification"),
        (["frob"], "unknown command 'frob'"),
        (["predct", "x"], "unknown command 'predct' (did you mean predict?)"),
        (["yelp"], "unknown command 'yelp': it is a task, train it with --task yelp"),
        (["--tsk", "yelp"], "unknown argument '--tsk' (did you mean --task?)"),
        (["--task", "yelp", "--lr", "1e-3"], "unknown argument '--lr' (did you mean --learning-rate?)"),
        (["--task", "yelp", "--lora-rank", "4"], "--lora-rank needs --lora"),
        (["report"], "report draws one run, and 0 are named"),
        (["--task", "nowhere.py:Mine"], "there is no file nowhere.py"),
        (["--task", "classification"], "give --train-file FILE or --data HUB_NAME"),
        (["predict", "text"], "no text to predict with text: give some behind the model"),
        (["--task", "yelp", "--output-dir", ""], "--output-dir must not be empty"),
        (["--task", "yelp", "--model="], "--model must not be empty"),
        (["--task", "yelp", "--output-dir", "a\0b"], "--output-dir must not be text with a NUL in it"),
        (["--task", "yelp", "--data", "sample", "--output-dir", "x" * 300], "File name too long"),
        (["--task", "broken.py:Mine"], "broken.py cannot be imported: SyntaxError: "),
        (["--task", "lacking.py:Mine"], "lacking.py cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        (["--task", "yelp", "--max-minutes", "0"], "--max-minutes must be a positive number of minutes, found 0.0"),
        (["--task", "yelp", "--tokens-per-batch", "0"], "--tokens-per-batch must be at least 1, found 0"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("class Mine(:")
    Path("lacking.py").write_text("import no_such_module")
    code, line = fails(arguments, capsys)
    assert code == 2 and words in line
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} <= {"broken.py", "lacking.py", "runs"}


def test_debug_shows_the_traceback(project):
    from engine.errors import UsageError

    with pytest.raises(UsageError):
        run.main(["--task", "yepl", "--debug"])


def test_a_config_file_and_flags_over_it(project, tmp_path):
    (tmp_path / "c.toml").write_text('task = "classification"\nlearning-rate = 3e-4\nbatch_size = 4\n')
    arguments = [
        *command(project)[2:],
        "--config",
        str(tmp_path / "c.toml"),
        "--batch-size",
        "8",
        "--output-dir",
        str(tmp_path / "o"),
    ]
    assert run.main(arguments) == 0
    settings = json.loads((tmp_path / "o/run.json").read_text())["settings"]
    assert (settings["learning_rate"], settings["batch_size"], settings["task"]) == (3e-4, 8, "classification")


def test_a_task_of_ones_own(project, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from tasks.classification.task import Classification, ClassificationOptions\n\n"
        "@dataclass(frozen=True)\nclass Mine_(ClassificationOptions):\n    shout: bool = False\n\n"
        "class Mine(Classification):\n    Options = Mine_\n    defaults = {'learning_rate': 5e-3}\n"
    )
    arguments = command(project, "--output-dir", str(tmp_path / "o"))
    arguments[1] = f"{tmp_path / 'mine.py'}:Mine"
    assert run.main(arguments) == 0
    assert json.loads((tmp_path / "o/run.json").read_text())["settings"]["learning_rate"] == 5e-3
    assert run.main(["predict", "--model", str(tmp_path / "o"), "--task", arguments[1], "w0 w5"]) == 0
    arguments[1] = f"{tmp_path / 'mine.py'}:Other"
    assert "defines no subclass" in fails(arguments, capsys)[1]


def test_no_evaluation_data_is_said(project, tmp_path, capsys):
    arguments = without_evaluation(command(project, "--output-dir", str(tmp_path / "o")))
    assert run.main(arguments) == 0
    assert "the last model is kept" in capsys.readouterr().err


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_the_other_problems_train_and_predict(project, tmp_path, capsys, problem):
    labels = {"multi_label": ["insult|threat", "", "insult"], "regression": ["0.5", "-2", "3.25"]}[problem]
    with open(tmp_path / "t.csv", "w") as stream:
        stream.write("text,label\n" + "".join(f"w{i % 90} w{i % 7},{labels[i % 3]}\n" for i in range(48)))
    arguments = ["--task", "classification", "--problem", problem, "--model", str(project / "model"), "--train-file"]
    arguments += [str(tmp_path / "t.csv"), "--eval-fraction", "0.25", "--epochs", "1", "--output-dir", str(tmp_path / "o")]
    assert run.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"eval_{name}" in shown for name in {"multi_label": ("f1_micro", "f1_macro", "average_precision"),
                                                     "regression": ("rmse", "pearson", "spearman")}[problem])  # fmt: skip
    assert run.main(["predict", "--model", str(tmp_path / "o"), "--input", str(tmp_path / "t.csv"), "--output",
                     str(tmp_path / "p.jsonl")]) == 0  # fmt: skip
    first = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    if problem == "regression":
        assert isinstance(first["predicted_value"], float)
    else:
        assert set(first["probabilities"]) == {"insult", "threat"} and isinstance(first["predicted_label"], list)


def test_sentence_pairs(project, tmp_path, capsys):
    with open(tmp_path / "t.jsonl", "w") as stream:
        stream.writelines(json.dumps({"a": f"w{i}", "b": f"w{i + 1}", "label": i % 2}) + "\n" for i in range(40))
    arguments = ["--task", "classification", "--text-column", "a", "--text-pair-column", "b", "--model", str(project / "model")]
    arguments += ["--train-file", str(tmp_path / "t.jsonl"), "--eval-fraction", "0.2", "--epochs", "1"]
    assert run.main([*arguments, "--output-dir", str(tmp_path / "o")]) == 0
    capsys.readouterr()
    assert run.main(["predict", "--model", str(tmp_path / "o"), "--input", str(tmp_path / "t.jsonl")]) == 0
    assert "w0 | w1" in capsys.readouterr().out
    code, line = fails(["predict", "--model", str(tmp_path / "o"), "only one"], capsys)
    assert code == 2 and "two texts" in line


def test_class_weights_are_kept_with_the_model(project, tmp_path):
    """ "balanced" needs the training data's counts; a finished model remembers what came of them."""
    arguments = command(project, "--output-dir", str(tmp_path / "o"), "--class-weights", "balanced")
    assert run.main(arguments) == 0
    figures = json.loads((tmp_path / "o/run.json").read_text())["metrics"]
    again = ["evaluate", "--model", str(tmp_path / "o"), "--file", str(project / "eval.csv"), "--device", "cpu"]
    assert run.main([*again, "--output", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["eval_loss"] == pytest.approx(figures["eval_loss"], rel=1e-5)


def test_yelp_takes_a_users_own_rows_as_they_are(project, tmp_path):
    """Only the Hub's and the sample's rows are filtered for restaurants."""
    with open(tmp_path / "t.csv", "w") as stream:
        stream.write("text,label\n" + "".join(f"w{i} w{i + 1},{i % 2}\n" for i in range(40)))
    arguments = ["--task", "yelp", "--model", str(project / "model"), "--train-file", str(tmp_path / "t.csv")]
    arguments += ["--eval-fraction", "0.25", "--epochs", "1", "--device", "cpu", "--output-dir", str(tmp_path / "o")]
    assert run.main(arguments) == 0
    assert json.loads((tmp_path / "o/run.json").read_text())["data"]["num_examples"] == {"train": 30, "eval": 10}


def test_clipping_off_trains(project, tmp_path):
    assert run.main(command(project, "--output-dir", str(tmp_path / "o"), "--max-grad-norm", "inf")) == 0
    assert json.loads((tmp_path / "o/run.json").read_text())["settings"]["max_grad_norm"] == "inf"
    assert run.main(command(project, "--output-dir", str(tmp_path / "o"), "--max-grad-norm", "inf")) == 0, "recognised again"


def test_a_model_without_its_tokenizer_is_refused(project, tmp_path, capsys):
    tiny.bert().save_pretrained(tmp_path / "m")
    arguments = command(project, "--output-dir", str(tmp_path / "o"))
    arguments[3] = str(tmp_path / "m")
    code, line = fails(arguments, capsys)
    assert code == 4 and "no tokenizer files" in line


def test_a_text_that_is_its_own_label_is_refused(project, tmp_path, capsys):
    code, line = fails(command(project, "--output-dir", str(tmp_path / "o"), "--text-column", "label"), capsys)
    assert code == 2 and "must be different columns" in line


def test_overwrite_mends_a_damaged_run_json(project, tmp_path, capsys):
    arguments = command(project, "--output-dir", str(tmp_path / "o"))
    assert run.main(arguments) == 0
    for text in ("{", "[]", '{"status": "finished"}'):
        (tmp_path / "o/run.json").write_text(text)
        assert fails(arguments, capsys)[0] == 2
        assert run.main([*arguments, "--overwrite"]) == 0


def test_a_foreign_run_json_is_left_alone(project, tmp_path, capsys):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/run.json").write_text('{"mine": 1}')
    assert fails(command(project, "--output-dir", str(tmp_path / "o")), capsys)[0] == 2
    assert (tmp_path / "o/run.json").read_text() == '{"mine": 1}'


def test_a_name_that_is_neither_a_folder_nor_a_hub_name(project, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("engine.data.hub.reachable", lambda: False)
    monkeypatch.setattr("engine.data.hub.go_offline", lambda: None)
    arguments = command(project, "--output-dir", str(tmp_path / "o"))
    arguments[3] = "my model"
    code, line = fails(arguments, capsys)
    assert code == 4 and "no such directory" in line


@pytest.mark.parametrize("left_over", [{"RANK": "1"}, {"RANK": "3", "WORLD_SIZE": "2"}, {"RANK": "1", "WORLD_SIZE": "1"}])
def test_a_left_over_rank_does_not_mute_errors(left_over, capsys, monkeypatch):
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    code, line = fails(["--task", "yepl"], capsys)
    assert code == 2 and "yepl" in line


def test_examples_that_cannot_be_tried_do_not_fail_a_finished_run(project, tmp_path, capsys, monkeypatch):
    """A model of so few positions, say, that the examples do not fit: what is saved stands, and is pushed."""
    pushed = []
    monkeypatch.setattr("engine.commands.push.push_run", lambda directory, repo: pushed.append(directory.name))
    monkeypatch.setattr("tasks.classification.task.Classification.try_it", ["w1 w2"])
    monkeypatch.setattr("tasks.classification.task.Classification.predict", lambda *a: next(iter([])))
    assert run.main(command(project, "--output-dir", str(tmp_path / "r"))) == 0
    assert "could not be tried: StopIteration" in capsys.readouterr().err
    assert pushed == ["r"] and (tmp_path / "r/model.safetensors").exists()


OWN = "from tasks.classification.task import Classification\n{first}\n\nclass Mine(Classification):\n    {body}\n"


@pytest.mark.parametrize(
    ("first", "body", "words"),
    [
        ("import no_such_package", "pass", "No module named 'no_such_package' (mine.py, line 2)"),
        ("import its_helper", "pass", "name 'nothing' is not defined ({helper}, line 2, from mine.py, line 2)"),
        ("from its_helper_of_syntax import x", "pass", "invalid syntax (its_helper_of_syntax.py, line 1)"),
        ("from tasks.classification.task import NoSuch", "pass", "cannot import name 'NoSuch' from 'tasks.classification.task'"),
        ("", "def examples(self):\n        import no_such_package", "mine.py, line 6: No module named 'no_such_package': install it"),
        ("", "def save(self, model, directory):\n        from its_helper import x", "{helper}, line 2"),
        ("", "def collate(self, rows, layout):\n        import no_such_package", "No module named 'no_such_package'"),
    ],
)  # fmt: skip
def test_an_import_that_fails_in_code_of_ones_own_names_the_file_and_the_import(
    project, tmp_path, monkeypatch, capsys, first, body, words
):
    """When the file is read, and later, when a method is called."""
    (tmp_path / "mine.py").write_text(OWN.format(first=first, body=body))
    (tmp_path / "its_helper.py").write_text("import os\nraise ImportError('name \\'nothing\\' is not defined')\n")
    (tmp_path / "its_helper_of_syntax.py").write_text("x = = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    code, line = fails(
        [*command(project, "--output-dir", str(tmp_path / "run"), "--task", f"{tmp_path / 'mine.py'}:Mine")[2:]], capsys
    )
    assert code in (2, 3) and words.format(helper=tmp_path / "its_helper.py") in line, line


def test_a_librarys_warning_cannot_drive_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("warnings.formatwarning", warnings.formatwarning)
    quiet_libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        sys.stderr.write(warnings.formatwarning("\x1b]0;owned\x07 a key", UserWarning, "file.py", 3))
    assert capsys.readouterr().err == "UserWarning:  ]0;owned  a key\n"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [(["predict", "./nowhere", "a"], 4, "--model ./nowhere: there is no such directory"),
     (["evaluate", "--model", "/nowhere/at/all"], 4, "--model /nowhere/at/all: there is no such directory"),
     (["predict", "auto", "--input", "nowhere.csv"], 3, "nowhere.csv does not exist"),
     (["evaluate", "auto", "--file", "dev=nowhere.csv"], 3, "nowhere.csv does not exist"),
     (["search", "a", "--corpus", "nowhere.csv"], 3, "nowhere.csv does not exist"),
     (["compare-models", "--models", "auto", "./nowhere"], 4, "--model ./nowhere: there is no such directory")],
)  # fmt: skip
def test_what_is_not_there_is_told_before_the_command_is_imported(argv, code, words, capsys, monkeypatch):
    """And torch with it, which takes seconds."""
    imported = []
    real = run.attribute
    monkeypatch.setattr(run, "attribute", lambda name: imported.append(name) or real(name))
    assert run.main(argv) == code
    assert words in capsys.readouterr().err and not imported
