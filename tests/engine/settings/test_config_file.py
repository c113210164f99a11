"""--config in every format, a run's run.json as --config, and --save-config: what is written comes back the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import run
from bench.toys import tiny
from engine.config import TrainConfig
from engine.data.sources import SourceConfig
from engine.errors import UsageError
from engine.settings.config_file import from_yaml
from engine.settings.fields import settings_where
from engine.settings.parser import parse, read_settings
from tasks import COMMANDS, TASKS, attribute, flags_of
from tasks.flags import CompareConfig
from tasks.options import ClassificationOptions
from tests.toys.cli import fails

KINDS = [TrainConfig, SourceConfig, ClassificationOptions]
OLD = (
    Path(__file__).parent.parent.parent / "fixtures/run-df41346.json"
)  # of --epochs 1 --batch-size 8 --learning-rate 1e-3 --seed 7 ...
LOCAL = set(settings_where(lambda traits: traits.local, TrainConfig))
ODD = '--it\'s\t"ödd" \\ no: # [x] {y} *& \x7f \u2028 😀 %'


def parsed(*argv, kinds=None, **defaults):
    return {name: value for part in parse(argv, "run.py", kinds or KINDS, defaults) for name, value in vars(part).items()}


def refusal(*argv, kinds=None) -> str:
    with pytest.raises(UsageError) as caught:
        parsed(*argv, kinds=kinds)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def config_file(tmp_path):
    def write(content, name="settings.yaml"):
        path = tmp_path / name
        path.write_text(content)
        return str(path)

    return write


# ---------------------------------------------------------------------------------------------------------------- YAML


def test_yaml_says_what_toml_says(config_file):
    yaml = config_file(
        "# a comment\nepochs: 2\nlearning-rate: 2e-5\nwarmup_ratio: .1\nresume: true\nschedule: cosine\n"
        "text_column: '--odd: name'\nlabel_names: no,yes\nmax_grad_norm: .inf\npatience: ~\nseed: 1_000\n"
    )
    toml = config_file(
        'epochs = 2\nlearning-rate = 2e-5\nwarmup_ratio = 0.1\nresume = true\nschedule = "cosine"\n'
        'text_column = "--odd: name"\nlabel_names = "no,yes"\nmax_grad_norm = inf\nseed = 1_000\n',
        "settings.toml",
    )
    assert parsed("--config", yaml) == parsed("--config", toml)
    assert parsed("--config", yaml)["learning_rate"] == 2e-5 and parsed("--config", yaml)["seed"] == 1000


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("learning_rate: 1e-5", "learning_rate", 1e-5),  # a text in YAML 1.1
        ("label_names: no", "label_names", "no"),  # False in YAML 1.1
        ("text_column: on", "text_column", "on"),
        ("cuda_graph: off", "cuda_graph", "off"),
        ("resume: no", "resume", False),
        ("resume: yes", "resume", True),
        ("text_column: 1979-05-27", "text_column", "1979-05-27"),
        ("text_column: 010", "text_column", "010"),
        ("text_column: 'true'", "text_column", "true"),
        ('text_column: "null"', "text_column", "null"),
        ("text_column: 12:30", "text_column", "12:30"),  # 750 in YAML 1.1
        ("patience: null", "patience", None),
        ("patience:", "patience", None),
        ("max_steps: !!int 3", "max_steps", 3),
    ],
)
def test_a_yaml_value_is_the_word_that_stands_there(config_file, line, name, value):
    assert parsed("--config", config_file(line))[name] == value


def test_an_empty_yaml_file_says_nothing(config_file):
    assert parsed("--config", config_file("# nothing\n", "a.yml")) == parsed()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("epochs: 1\nseed: [1, 2\n", "line 3, column 1"),
        ("epochs: 1\n  seed: 2\n", "line 2, column 7"),
        ("epochs: 1\n\tseed: 2\n", "line 2, column 1"),
        ("epochs: 1\nseed: 3\nepochs: 2\n", "epochs is given twice: leave one of them out (line 3, column 1)"),
        ("batch-size: 1\nbatch_size: 2\n", "line 2, column 1: batch_size is given twice"),
        ("- 1\n- 2\n", "it must hold settings by name (line 1, column 1)"),
        ("3", "it must hold settings by name (line 1, column 1)"),
        ("epochs: 1\ndata: {a: 1}\n", "data must be one text, number or truth, or a list of texts (line 2, column 7)"),
        (
            "epochs: 1\ndata: !!python/object/apply:os.system ['touch hacked']\n",
            "found python/object/apply:os.system (line 2, column 7)",
        ),
        ("!!python/object:os.system\nepochs: 1\n", "it must hold settings by name (line 1, column 1)"),
        ("data: !!python/name:os.system x\n", "found python/name:os.system (line 1, column 7)"),
        ("data: !mine x\n", "found !mine (line 1, column 7)"),
        ("data: &a x\nmodel: *a\n", "a setting cannot refer to another one"),
        ("epochs: 1\n---\nepochs: 2\n", "line 2, column 1"),
        ("data: \x00\n", "line 1, column 7"),
        ("[1]: 2\n", "line 1, column 1"),
        ("epochs: [1, 2]\n", "epochs must be one text, number or truth, found ['1', '2']"),
        ("epohcs: 1\n", "line 1, column 1: unknown setting 'epohcs' (did you mean epochs?)"),
    ],
)
def test_a_yaml_file_that_is_wrong_is_one_line_with_its_place(config_file, content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal("--config", config_file(content))
    assert message.startswith(f"--config {tmp_path}/settings.yaml") and words in message, message
    assert not (tmp_path / "hacked").exists()


def test_a_yaml_bomb_is_refused_at_once():
    bomb = "a: &a [x,x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(24))
    with pytest.raises(ValueError, match="cannot refer to another"):
        from_yaml(bomb)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '{"seed": 1,\n "epochs": 1, "epochs": 2}', ", line 2, column 15: epochs is given twice"),
        ("a.json", '{"batch-size": 1,\n"batch_size": 2}', ", line 2, column 1: batch_size is given twice"),
        ("a.toml", "batch-size = 1\n batch_size = 2", ", line 2, column 2: batch_size is given twice"),
        ("a.toml", "epochs = 1\n\nlabel_names = []\n", ", line 3, column 1: label_names must be one text"),
        ("a.json", '{"epochs": 1,\n  "epohcs": 2}', ", line 2, column 3: unknown setting 'epohcs' (did you mean epochs?)"),
        (
            "a.toml",
            "per_device_train_batch_size = 8\n",
            "unknown setting 'per_device_train_batch_size', of Trainer's; here: --batch-size",
        ),
    ],
)
def test_faults_of_the_other_formats_have_a_place_too(config_file, name, content, words):
    assert words in refusal("--config", config_file(content, name))


def test_a_byte_order_mark_is_no_setting(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"epochs": 4}')
    assert parsed("--config", str(tmp_path / "a.json"))["epochs"] == 4


def test_lists_in_a_file_are_for_flags_that_take_several(config_file):
    for name, content in (
        ("a.toml", 'models = ["a", "--b"]'),
        ("a.yaml", "models: [a, --b]"),
        ("a.json", '{"models": ["a", "--b"]}'),
    ):
        assert parsed("--config", config_file(content, name), kinds=[CompareConfig])["models"] == ["a", "--b"]
        assert parsed("--config", config_file(content, name), "--models", "c", kinds=[CompareConfig])["models"] == ["c"]


# ------------------------------------------------------------------------------------------------------------ run.json


def test_a_run_json_of_an_older_version_gives_its_settings(capsys):
    found = parsed("--config", str(OLD))
    settings = json.loads(OLD.read_text())["settings"]
    expected = settings | {"max_grad_norm": float("inf"), "output_dir": None, "overwrite": False, "device": "auto"}
    assert {name: found[name] for name in expected} == expected and found["seed"] == 7
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("left out: device, output_dir, overwrite, which belong to where it ran")
    assert parsed("--config", str(OLD), "--seed", "8")["seed"] == 8, "flags win"
    assert set(settings) >= LOCAL, "each is a setting"


def test_a_run_json_trains_the_same_again(tmp_path, monkeypatch, capsys):
    """The run that commit df41346 made, and the one that its run.json starts here, are asked for the same."""
    monkeypatch.chdir(tmp_path)
    tiny.save_model(tmp_path / "m", tiny.distilbert(num_labels=2).distilbert)
    for name, number, seed in (("train", 48, 0), ("eval", 16, 1)):
        rows = "".join(f"{text},{int(label == 'a')}\n" for text, label in tiny.texts(number, seed))
        Path(f"{name}.csv").write_text(f"text,label\n{rows}")
    assert run.main(["--config", str(OLD), "--output-dir", "again", "--device", "cpu"]) == 0
    then, now = (json.loads(Path(path).read_text())["settings"] for path in (OLD, "again/run.json"))
    assert {n: v for n, v in now.items() if n not in LOCAL and n in then} == {n: v for n, v in then.items() if n not in LOCAL}
    capsys.readouterr()
    assert run.main(["--config", "again/run.json", "--output-dir", "again", "--device", "cpu"]) == 0
    assert "training skipped" in capsys.readouterr().out


def changed_run(tmp_path, **settings) -> str:
    document = json.loads(OLD.read_text())
    document["settings"] |= settings
    (tmp_path / "run.json").write_text(json.dumps(document))
    return str(tmp_path / "run.json")


def test_settings_that_are_no_more_are_one_line(tmp_path, capsys):
    path = changed_run(tmp_path, gone=3, lost="x", empty=None, output_dir=None, overwrite=False, device="auto")
    assert parsed("--config", path)["seed"] == 7
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"--config {path}: of that run's settings, left out: gone, lost, which are no settings here"


def test_a_run_json_brings_no_code_along(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('hacked', 'w')\nfrom tasks.classification.task import Classification as Mine")
    path = changed_run(tmp_path, task="evil.py:Mine", write_to="evil.py:Mine", resume=True, push_to_hub="me/mine")
    for argv in (["--config", path], ["--config", path, "--explain"]):
        code, line = fails(argv, capsys)
        assert code == 2 and line.endswith(
            "its task is code of somebody's own, evil.py:Mine: give it by hand, --task FILE.py:CLASS"
        )
    found = parsed("--config", path, "--task", "classification")
    assert (found["task"], found["write_to"], found["resume"], found["push_to_hub"]) == ("classification", None, False, None)
    with pytest.raises(UsageError, match="code of somebody's own"):
        parsed("--config", path)
    assert not (tmp_path / "hacked").exists()
    assert fails(["--config", path, "--task", "evil.py:Mine", "--train-file", "none.csv"], capsys)[0] == 3, "by hand it is run"
    assert (tmp_path / "hacked").exists()


def test_a_run_json_is_for_training_only():
    message = refusal("--config", str(OLD), kinds=[attribute(COMMANDS["predict"][0])])
    assert message == f"--config {OLD}: it holds the settings of a training, for --task; this command takes the run as --model"


# ------------------------------------------------------------------------------------------------------- --save-config


def other_than_the_default(kind: type) -> dict:
    """A value for every field that is not its default, and that the checks let pass."""
    special = {
        "warmup_ratio": 0.25, "lora": True, "shard": False, "resume": True, "overwrite": False, "find_unused_parameters": True,
        "freeze": "a|b", "eval_fraction": None, "group_column": None, "train_file": "t.csv", "eval_file": "e.csv", "data": "auto", "eval_metric": None,
        "fold": "2/5", "eval_part": None,
        "optimizer": "muon", "momentum": 0.8, "warmup_steps": None, "schedule": "cosine", "schedule_options": "num_cycles=0.3",
        "min_learning_rate": 1e-9, "class_weights": None, "label_smoothing": 0.25, "max_grad_norm": float("inf"), "workers": 1, "stream": False, "lora_dropout": 0.5,
        "problem": "single_label", "output": "o.csv", "errors": "e.csv", "mask_probability": 0.5, "top_p": 0.5, "loss": "contrastive",
        "num_return_sequences": 2, "sentences": ["a", "b: c"], "models": ["m", "--n"],
    }  # fmt: skip
    values = {}
    for field in dataclasses.fields(kind):
        hint = get_type_hints(kind)[field.name]
        choices = [a for part in (hint, *get_args(hint)) for a in get_args(part) if isinstance(a, str)]
        kinds = [a for a in get_args(hint) if isinstance(a, type)] or [hint]
        if field.name in special:
            values[field.name] = special[field.name]
        elif choices:
            values[field.name] = next(a for a in choices if a != field.default)
        elif bool in kinds:
            values[field.name] = not field.default
        elif int in kinds:
            values[field.name] = (field.default or 0) + 3
        elif float in kinds:
            values[field.name] = (field.default or 0.0) + 1.23456789e-5
        else:
            values[field.name] = f"{field.name} {ODD}"
    if kind.__name__ == "SearchConfig":  # it searches in a file, or in sentences
        values["sentences"] = []
    return values


def flags_for(values: dict) -> list[str]:
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in values.items()
        if value is not None and not isinstance(value, list)
    ]
    for name, value in values.items():
        if isinstance(value, list) and value:
            flags += [f"--{name}", *(item for item in value if not item.startswith("-"))]
    return flags


WHAT = [[TrainConfig, SourceConfig, flags_of(name)[0]] for name in TASKS] + [[attribute(c[0])] for c in COMMANDS.values()]


@pytest.mark.parametrize("suffix", ["toml", "yaml", "yml", "json"])
@pytest.mark.parametrize("kinds", WHAT, ids=lambda kinds: kinds[-1].__name__)
def test_every_setting_comes_back(tmp_path, kinds, suffix, capsys):
    values = {name: value for kind in kinds for name, value in other_than_the_default(kind).items()}
    flags, path = flags_for(values), str(tmp_path / f"saved.{suffix}")
    for argv in ([], flags):
        try:
            expected = parse(argv, "run.py", kinds, {}, rest="texts")[:-1]
        except UsageError as error:
            assert not argv and "must name" in str(error), "a command that needs to be told something"
            continue
        with pytest.raises(SystemExit) as end:
            parse([*argv, "--save-config", path], "run.py", kinds, {}, rest="texts")
        assert end.value.code == 0 and "settings written to" in capsys.readouterr().out
        assert parse(["--config", path], "run.py", kinds, {}, rest="texts")[:-1] == expected
        Path(path).unlink()
    same = [f.name for part in expected for f in dataclasses.fields(part) if getattr(part, f.name) == f.default]
    assert set(same) <= {
        "shard",
        "overwrite",
        "eval_fraction",
        "eval_part",
        "group_column",
        "data",
        "class_weights",
        "stream",
        "sentences",
        "warmup_steps",
        "problem",
        "loss",
    }, same


def test_what_is_written_says_what_it_means(tmp_path):
    for suffix, line, unset in (("toml", "seed = 7", "# patience ="), ("yaml", "seed: 7", "# patience:")):
        with pytest.raises(SystemExit):
            parsed("--seed", "7", "--save-config", str(tmp_path / f"a.{suffix}"))
        lines = (tmp_path / f"a.{suffix}").read_text().splitlines()
        assert line in lines and lines[lines.index(line) - 1] == "# of the new head, the order of the examples and dropout"
        assert unset in lines


def test_a_task_with_its_own_defaults_is_written_and_nothing_else_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run.main(["--task", "yelp", "--stars", "--save-config", "a.toml"])
    assert end.value.code == 0 and [path.name for path in tmp_path.iterdir()] == ["a.toml"]
    assert capsys.readouterr().out == "settings written to a.toml, nothing else was done: --config takes them\n"
    values = read_settings(Path("a.toml")).values
    assert (values["task"], values["stars"], values["max_train_examples"]) == ("yelp", True, 5000)


def test_one_format_becomes_another(tmp_path, config_file):
    with pytest.raises(SystemExit):
        parsed("--config", config_file("epochs: 5\n"), "--save-config", str(tmp_path / "b.json"))
    assert json.loads((tmp_path / "b.json").read_text())["epochs"] == 5


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.txt", "must end in .toml, .json, .yaml, .yml"), ("there.toml", "is there already: name another file, or remove it"),
     ("no/such/a.toml", "cannot be written: No such file or directory"), ("", "must end in")],
)  # fmt: skip
def test_where_it_cannot_be_written(tmp_path, name, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.toml").write_text("mine")
    assert words in refusal("--save-config", name)
    assert Path("there.toml").read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["there.toml"]


def test_a_wrong_setting_is_not_written(tmp_path):
    assert "--epochs must be" in refusal("--epochs", "0", "--save-config", str(tmp_path / "a.toml"))
    assert "--save-config is given twice" in refusal("--save-config", "a.toml", "--save-config=b.toml")
    assert "a setting holds what is no text" in refusal("--text-column", "a\ud800", "--save-config", str(tmp_path / "a.toml"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv", [["--train-file", "a.csv", "--train-file=b.csv"], ["--train_file", "a.csv", "--train-file", "b.csv"]]
)
def test_a_setting_of_several_things_may_be_given_more_than_once(argv):
    source, _ = parse([*argv, "--epochs", "2"], "run.py", [SourceConfig, TrainConfig], {})
    assert source.train_file == "a.csv,b.csv"


def test_in_a_file_it_may_be_a_list(tmp_path):
    (tmp_path / "s.toml").write_text('train_file = ["a.csv", "b.csv"]\n')
    source, _ = parse(["--config", str(tmp_path / "s.toml")], "run.py", [SourceConfig, TrainConfig], {})
    assert source.train_file == "a.csv,b.csv"
    (tmp_path / "s.toml").write_text('model = ["a", "b"]\n')
    with pytest.raises(UsageError, match="model must be one text"):
        parse(["--config", str(tmp_path / "s.toml")], "run.py", [SourceConfig, TrainConfig], {})


def test_a_flag_of_several_things_without_a_value_is_a_slip():
    with pytest.raises(UsageError, match="expected one argument"):
        parse(["--train-file", "--epochs", "2"], "run.py", [SourceConfig, TrainConfig], {})
