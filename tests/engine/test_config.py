"""What a run is told: default < task's default < file < flag, and whatever cannot be meant is refused in one line.

Rows of BAD_INPUTS: 1, 3-8, 9, 11, 12, 16, 19-25; all are UsageErrors, exit code 2.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.toys import tiny
from engine.checks import check_data
from engine.commands.flags import EvaluateConfig, PredictConfig, PushConfig
from engine.config import TrainConfig
from engine.data.sources import SourceConfig
from engine.errors import UsageError
from engine.settings.fields import Traits, differences, in_order, setting, settings_where, traits_of, user_path, with_defaults
from engine.settings.parser import make_parser, parse, read_settings, task_named
from tasks import COMMANDS, TASKS, attribute, find
from tasks.classification.task import ClassificationOptions
from tasks.flags import EvaluateFlags, PredictFlags

KINDS = [TrainConfig, SourceConfig, ClassificationOptions]
NAN, INF = float("nan"), float("inf")


def parsed(*argv, **defaults):
    """All settings, flat."""
    return {name: value for part in parse(argv, "run.py", KINDS, defaults) for name, value in vars(part).items()}


def refusal(*argv, **defaults) -> str:
    with pytest.raises(UsageError) as caught:
        parsed(*argv, **defaults)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value), "one line"
    return str(caught.value)


@pytest.fixture
def config_file(tmp_path):
    def write(content, name="settings.toml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


# ------------------------------------------------------------------------------------------------------ precedence


def test_a_flag_wins_over_the_file_the_file_over_the_task_the_task_over_the_default(config_file):
    path = config_file("epochs = 4\nseed = 4\n")
    task = {"epochs": 5, "seed": 5, "batch_size": 5}
    before = ("--epochs", "7", "--config", path)
    for argv in (before, before[2:] + before[:2]):
        found = parsed(*argv, **task)
        assert (found["epochs"], found["seed"], found["batch_size"], found["log_steps"]) == (7, 4, 5, 10)
    assert parsed(**task)["epochs"] == 5
    assert parsed("--config", path)["epochs"] == 4
    assert parsed()["epochs"] == TrainConfig().epochs == 3


def test_nothing_given_is_the_dataclasses_own_defaults():
    assert parse([], "run.py", KINDS, {}) == [TrainConfig(), SourceConfig(), ClassificationOptions()]


def test_a_flag_may_take_a_files_truth_back(config_file):
    path = config_file("resume = true\n")
    assert parsed("--config", path)["resume"] is True
    assert parsed("--config", path, "--resume", "no")["resume"] is False


def test_a_tasks_default_that_no_part_has_is_left_out():
    """A task's defaults may be meant for ``evaluate`` only."""
    assert parsed(no_such_setting=1) == parsed()


def test_a_tasks_default_passes_the_same_checks():
    assert refusal(learning_rate=-1.0) == "--learning-rate must be a positive finite number, found -1.0"


@pytest.mark.parametrize("spelling", [["--batch-size", "4"], ["--batch_size", "4"], ["--batch-size=4"], ["--batch_size=4"]])
def test_both_spellings_of_a_flag_work(spelling):
    assert parsed(*spelling)["batch_size"] == 4


@pytest.mark.parametrize("content", ['batch-size = 4\nmodel = "m"', 'batch_size = 4\nmodel = "m"'])
def test_both_spellings_work_in_a_file(config_file, content):
    found = parsed("--config", config_file(content))
    assert (found["batch_size"], found["model"]) == (4, "m")


def test_toml_and_json_say_the_same(config_file):
    values = {"epochs": 2, "learning_rate": 3e-5, "resume": True, "schedule": "cosine", "text_column": "--odd name"}
    toml = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()) + "max_grad_norm = inf\n"
    by_toml = parsed("--config", config_file(toml))
    by_json = parsed("--config", config_file(json.dumps(values | {"max_grad_norm": INF, "patience": None}), "settings.json"))
    assert by_toml == by_json == parsed() | values | {"max_grad_norm": INF}


@pytest.mark.parametrize("truth", [["--resume"], ["--resume", "true"], ["--resume=yes"], ["--resume", "1"], ["--resume=T"]])
def test_a_truth_may_be_given_with_and_without_its_value(truth):
    assert parsed(*truth)["resume"] is True


def test_bare_arguments_stand_before_or_after_the_flags():
    for argv in (["--model", "m", "one", "two"], ["one", "two", "--model", "m"]):
        config, texts = parse(argv, "run.py predict", [PredictConfig], {}, rest="texts")
        assert (config.model, texts) == ("m", ["one", "two"])
    assert parse(["--model", "m", "--", "--odd", "--odd"], "run.py", [PredictConfig], {}, rest="texts")[1] == ["--odd", "--odd"]


@pytest.mark.parametrize(
    "argv", [["--debug", "a text"], ["a text", "--debug"], ["--debug=true", "a text"], ["--debug", "yes", "a text"]]
)
def test_a_bare_truth_does_not_take_the_text_behind_it(argv):
    config, texts = parse(["--model", "m", *argv], "run.py predict", [PredictConfig], {}, rest="texts")
    assert config.debug is True and texts == ["a text"]
    config, texts = parse(["--model", "m", "--", "--debug"], "run.py predict", [PredictConfig], {}, rest="texts")
    assert config.debug is False and texts == ["--debug"]


# ------------------------------------------------------------------------------------- what cannot be meant (flags)


@pytest.mark.parametrize(("flag", "near"), [
    ("--epoch", "--epochs"), ("--learningrate", "--learning-rate"), ("--batchsize", "--batch-size"), ("--eval_file=x", None),
    ("--no-resume", "--resume"), ("--lables-column=x", "--label-column"), ("--resum", "--resume"),
])  # fmt: skip
def test_an_unknown_flag_is_refused_with_the_nearest_known(flag, near):
    if near is None:
        assert "--eval-file needs --train-file" in refusal(flag), "not unknown: the spelling with _ works"
    else:
        assert refusal(flag) == f"unknown argument {flag!r} (did you mean {near}?)"


def test_an_unknown_flag_like_no_other_points_to_the_help():
    assert refusal("--xyzzy", "3") == "unknown argument '--xyzzy'; see --help"
    assert refusal("yelp") == "unknown argument 'yelp'; see --help"


@pytest.mark.parametrize(
    "argv",
    [
        ["--epochs", "3", "--epochs", "4"],
        ["--epochs=3", "--epochs", "3"],
        ["--batch_size", "4", "--batch-size", "4"],
        ["--resume", "--resume"],
        ["--config", "a", "--config=b"],
    ],
)
def test_a_flag_given_twice_is_refused(argv):
    """argparse would take the last in silence."""
    assert refusal(*argv).endswith("is given twice: leave one of them out")


def test_values_may_repeat():
    assert parsed("--text-column", "a", "--data-config", "a", "--seed", "1", "--epochs", "1")["data_config"] == "a"


@pytest.mark.parametrize(("argv", "message"), [
    (["--batch-size", "1.5"], "--batch-size: invalid int value: '1.5'"),
    (["--epochs", "many"], "--epochs: invalid int value: 'many'"),
    (["--max_steps", "1e3"], "--max-steps: invalid int value: '1e3'"),
    (["--learning-rate", "fast"], "--learning-rate: invalid float value: 'fast'"),
    (["--epochs"], "--epochs: expected one argument"),
    (["--epochs="], "--epochs: invalid int value: ''"),
])  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_by_its_flag(argv, message):
    assert refusal(*argv) == message


def test_a_value_that_is_no_choice_is_refused_with_the_choices():
    message = refusal("--optimizer", "adam")
    assert message.startswith("--optimizer: ")
    assert all(choice in message for choice in ("'adam'", "adamw", "sgd", "adafactor", "muon"))
    message = refusal("--schedule", "sqrt")
    assert message.startswith("--schedule must be one of linear, cosine,") and message.endswith("found 'sqrt'")


@pytest.mark.parametrize("value", ["maybe", "2", ""])
def test_a_truth_given_as_another_text_is_refused(value):
    message = refusal(f"--resume={value}")
    assert message.startswith("--resume: ")
    assert "true/false" in message


# --------------------------------------------------------------------------------------------------- ranges of values

BAD_VALUES = {
    "reinit_layers": [-1],
    "batch_size": [0, -1],
    "eval_batch_size": [0, -1],
    "accumulation_steps": [0, -2],
    "epochs": [0, -1],
    "max_steps": [0, -1],
    "learning_rate": [0.0, -1e-5, NAN, INF, -INF],
    "weight_decay": [-0.1, NAN, INF],
    "warmup_ratio": [-0.1, 1.0, 1.5, NAN],
    "max_grad_norm": [0.0, -1.0, NAN],
    "workers": [-1],
    "seed": [-1, 2**32],
    "log_steps": [0, -1],
    "eval_steps": [-1],
    "save_steps": [-1],
    "keep_checkpoints": [0, -1, "all", "1.5"],
    "patience": [0, -1],
    "lora_rank": [0, -1],
    "lora_alpha": [0, -1],
    "lora_dropout": [-0.1, 1.0, NAN],
    "rank_timeout": [0.5, -1.0, INF, NAN],
    "adam_beta1": [-0.1, 1.0, NAN],
    "adam_beta2": [-0.1, 1.0, NAN],
    "adam_eps": [0.0, -1e-8, INF, NAN],
}
EDGES = {
    "reinit_layers": [0, 1],
    "batch_size": [1], "eval_batch_size": [1], "accumulation_steps": [1], "epochs": [1], "max_steps": [1, None],
    "learning_rate": [1e-45, 10.0], "weight_decay": [0.0, 1.0], "warmup_ratio": [0.0, 0.999], "max_grad_norm": [1e-9, INF],
    "workers": [0], "seed": [0, 2**32 - 1], "log_steps": [1], "eval_steps": [0], "save_steps": [0], "keep_checkpoints": [1, "best"],
    "patience": [1, None], "lora_rank": [1], "lora_alpha": [1], "lora_dropout": [0.0, 0.999], "rank_timeout": [1.0],
    "adam_beta1": [0.0, 0.999], "adam_beta2": [0.0, 0.9999], "adam_eps": [1e-30, 1.0],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values])
def test_a_value_out_of_its_range_is_refused_with_flag_rule_and_value(name, value):
    """In Python and on the command line alike."""
    with pytest.raises(UsageError) as caught:
        TrainConfig(**{name: value})
    flag = f"--{name.replace('_', '-')}"
    message = str(caught.value)
    assert message.startswith(f"{flag} must ")
    assert message.endswith(f", found {value!r}")
    assert refusal(f"{flag}={value}") == message


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in EDGES.items() for value in values])
def test_the_edges_of_the_ranges_are_inside(name, value):
    assert getattr(TrainConfig(**{name: value}, lora=name.startswith("lora_")), name) == value


def test_every_number_has_a_range():
    """A new setting that is a number needs a row in both tables."""
    numbers = {field.name for field in dataclasses.fields(TrainConfig) if type(field.default) in (int, float)}
    assert numbers | {"max_steps", "patience"} == BAD_VALUES.keys() == EDGES.keys()


@pytest.mark.parametrize(("kind", "settings", "flag"), [
    (ClassificationOptions, {"max_length": 0}, "--max-length"),
    (ClassificationOptions, {"max_length": -5}, "--max-length"),
    (ClassificationOptions, {"label_smoothing": 1.0}, "--label-smoothing"),
    (ClassificationOptions, {"label_smoothing": NAN}, "--label-smoothing"),
    (SourceConfig, {"max_train_examples": -1}, "--max-train-examples"),
    (SourceConfig, {"max_eval_examples": -1}, "--max-eval-examples"),
    (SourceConfig, {"eval_fraction": 0.0}, "--eval-fraction"),
    (SourceConfig, {"eval_fraction": 1.0}, "--eval-fraction"),
    (SourceConfig, {"eval_fraction": NAN}, "--eval-fraction"),
    (SourceConfig, {"data_seed": 2**32}, "--data-seed"),
    (EvaluateConfig, {"model": "m", "eval_batch_size": 0}, "--eval-batch-size"),
    (EvaluateConfig, {"model": "m", "workers": -1}, "--workers"),
])  # fmt: skip
def test_the_other_parts_have_ranges_too(kind, settings, flag):
    with pytest.raises(UsageError, match=f"^{flag} must "):
        kind(**settings)


@pytest.mark.parametrize("argv", [
    ["--resume", "--overwrite"],
    ["--train-file", "a.csv", "--data", "hub"],
    ["--eval-file", "a.csv"],
    ["--train-file", "a.csv", "--eval-file", "b.csv", "--eval-fraction", "0.1"],
    ["--problem", "regression", "--label-smoothing", "0.1"],
    ["--problem", "regression", "--class-weights", "balanced"],
    ["--problem", "multi_label", "--label-smoothing", "0.1"],
])  # fmt: skip
def test_flags_that_contradict_each_other_are_refused_by_name(argv):
    message = refusal(*argv)
    assert any(flag in message for flag in argv if flag.startswith("--"))


@pytest.mark.parametrize("setting", [{"eval_steps": 5}, {"best_metric": "accuracy"}, {"patience": 2}])
def test_an_evaluation_without_evaluation_data_is_refused_with_the_way_out(setting, capsys):
    examples = {"train": tiny.token_rows(5)}
    [name] = setting
    with pytest.raises(UsageError, match=f"^--{name.replace('_', '-')} asks for an evaluation.* --eval-fraction 0.1"):
        check_data(tiny.TokenTask(), TrainConfig(**setting), examples)
    check_data(tiny.TokenTask(), TrainConfig(), examples)
    assert "there is no evaluation data" in capsys.readouterr().err
    check_data(tiny.TokenTask(), TrainConfig(**setting), examples | {"eval": tiny.token_rows(5)})


def test_a_step_larger_than_the_data_is_warned_of(capsys):
    examples = {"train": tiny.token_rows(8), "eval": tiny.token_rows(5)}
    check_data(tiny.TokenTask(), TrainConfig(batch_size=4, accumulation_steps=2), examples)
    assert capsys.readouterr().err == ""
    check_data(tiny.TokenTask(), TrainConfig(batch_size=3, accumulation_steps=3), examples)
    assert "warning: a step of 9 examples is more than the 8 there are" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("name", "content", "line", "column"), [
    ("settings.toml", "epochs = 3\nseed = \n", 2, 8),
    ("settings.toml", "epochs = 3\nseed 4\n", 2, 6),
    ("settings.toml", "epochs = 3\n\nepochs = 4\n", 3, 11),
    ("settings.json", '{"epochs": 3,\n "seed" 4}', 2, 9),
    ("settings.json", '{"epochs": 3,\n "seed": 4', 2, 11),
    ("settings.json", "epochs = 3", 1, 1),
])  # fmt: skip
def test_a_malformed_file_is_refused_with_line_and_column(config_file, name, content, line, column):
    path = config_file(content, name)
    message = refusal("--config", path)
    kind = "JSON" if name.endswith("json") else "TOML"
    assert message.startswith(f"--config {path} is not valid {kind}: ")
    assert f"line {line}" in message
    assert f"column {column}" in message


def test_a_file_that_holds_no_settings_is_refused(config_file):
    assert refusal("--config", config_file("[1, 2]", "a.json")).endswith("must hold settings by name, found list")


def test_a_file_that_cannot_be_read_is_refused(config_file, tmp_path):
    assert "cannot be read" in refusal("--config", str(tmp_path / "none.toml"))
    assert "cannot be read" in refusal("--config", str(tmp_path))
    assert "cannot be read" in refusal("--config", config_file(b"\xff\xfe"))


def test_an_unknown_setting_of_a_file_is_refused_with_the_nearest_known(config_file):
    path = config_file("epoch = 3\n")
    assert refusal("--config", path) == f"--config {path}, line 1, column 1: unknown setting 'epoch' (did you mean epochs?)"
    assert "unknown setting 'training'" in refusal("--config", config_file("[training]\nepochs = 3\n"))
    assert "unknown setting 'config'" in refusal("--config", config_file("config = 'other.toml'\n"))


@pytest.mark.parametrize("content", [
    "epochs = 3.0", "epochs = true", "epochs = '3 times'", "resume = 'maybe'", "learning_rate = nan",
    "max_length = 0", "schedule = 'sqrt'", "seed = -1",
])  # fmt: skip
def test_a_files_values_pass_the_same_checks(config_file, content):
    name = content.split(" ")[0]
    assert refusal("--config", config_file(content)).startswith(f"--{name.replace('_', '-')}")


@pytest.mark.parametrize(
    "content", ['label_names = ["neg", "pos"]', "[label_names]\nneg = 1", "label_names = 1979-05-27", "label_names = []"]
)
def test_a_value_that_no_flag_can_have_is_refused_in_a_file(config_file, content):
    assert "label_names" in refusal("--config", config_file(content)).replace("-", "_")


@pytest.mark.parametrize(("name", "content"), [
    ("a.json", '{"epochs": 1, "epochs": 2}'),
    ("a.json", '{"batch-size": 1, "batch_size": 2}'),
    ("a.toml", "batch-size = 1\nbatch_size = 2"),
])  # fmt: skip
def test_a_setting_given_twice_in_a_file_is_refused(config_file, name, content):
    assert "twice" in refusal("--config", config_file(content, name))


# ------------------------------------------------------------------------------------------- read ahead: which task


def test_the_task_is_read_ahead_from_flag_or_file(config_file):
    path = config_file("task = 'imdb'\nepoch = 3\n")
    assert task_named(["--epochs", "3", "--task", "yelp", "--unknown"]) == "yelp"
    assert task_named(["--config", path]) == "imdb"
    assert task_named(["--config", path, "--task=yelp"]) == "yelp"
    assert task_named(["--epochs", "3"]) is None


def test_a_task_without_its_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--task: expected one argument"):
        task_named(["--task"])
    with pytest.raises(UsageError, match="cannot be read"):
        task_named(["--config", str(tmp_path / "none.toml")])


def test_a_file_is_a_dictionary_of_settings(config_file):
    assert read_settings(Path(config_file("batch-size = 4\n"))).values == {"batch_size": 4}


# -------------------------------------------------------------------------------------------------------- differences


def test_differences_name_what_changed():
    old = {"epochs": 3, "learning_rate": 1e-4, "model": "auto"}
    assert differences(old, dict(old)) == []
    assert differences(old, old | {"epochs": 4, "model": "m"}) == ["epochs: 3 -> 4", "model: 'auto' -> 'm'"]
    assert differences(old, {"epochs": 3, "learning_rate": 1e-4}) == ["model: 'auto' -> None"]
    assert differences({"epochs": 3}, {"epochs": 3, "new": 1}) == ["new: None -> 1"]


def test_what_an_older_run_does_not_have_counts_as_its_default():
    """Else every new setting would shut out all runs before it; a default in the form that JSON has for it."""
    new = {"epochs": 3, "max_grad_norm": "inf", "names": [], "seed": 42}
    grown = dataclasses.make_dataclass("Grown", [("epochs", int, setting(3, "")), ("max_grad_norm", float, setting(INF, "")),
                                                 ("names", list, dataclasses.field(default_factory=list)),
                                                 ("seed", int, setting(42, ""))])  # fmt: skip
    assert differences({"epochs": 3}, new, grown) == [] and differences({}, new, grown) == []
    assert differences({"epochs": 4}, new | {"seed": 1}, grown) == ["epochs: 4 -> 3", "seed: 42 -> 1"]
    assert with_defaults({"epochs": 9, "own": 1}, grown) == {**new, "epochs": 9, "own": 1}


NO_EFFECT_ON_WEIGHTS = {
    "eval_batch_size", "workers", "log_steps", "save_steps", "keep_checkpoints", "async_save", "output_dir", "resume",
    "overwrite", "debug", "device", "max_minutes", "push_to_hub", "shard", "gradient_checkpointing",
    "find_unused_parameters", "rank_timeout", "log_ranks", "explain", "profile", "write_to",
}  # fmt: skip


def test_differences_leave_out_what_does_not_change_the_weights_and_nothing_else():
    """The same weights come out with another log interval; not with another seed, batch size or precision."""
    settings = parsed()
    named = {line.split(":")[0] for line in differences(settings, dict.fromkeys(settings, "other"), *KINDS)}
    assert settings.keys() - named == NO_EFFECT_ON_WEIGHTS
    assert {
        "seed",
        "batch_size",
        "accumulation_steps",
        "precision",
        "learning_rate",
        "text_column",
        "data",
        "eval_steps",
    } <= named


def test_the_settings_say_of_themselves_what_the_lists_said():
    """The lists that were kept by hand, as they were."""
    assert set(settings_where(lambda traits: not traits.changes_weights, *KINDS)) == NO_EFFECT_ON_WEIGHTS
    assert set(settings_where(lambda traits: traits.local, *KINDS)) == {
        "output_dir", "resume", "overwrite", "debug", "push_to_hub",  # the model card had these, ...
        "device", "workers", "max_minutes", "explain", "profile", "write_to",  # ... and a run.json as --config all of them
    }  # fmt: skip
    assert set(settings_where(lambda traits: traits.in_card, *KINDS)) == {
        "epochs", "batch_size", "accumulation_steps", "learning_rate", "schedule", "warmup_ratio", "weight_decay",
        "max_grad_norm", "seed", "precision", "batching"
    }  # fmt: skip
    assert settings_where(lambda traits: traits.needs_evaluation, *KINDS) == ["eval_steps", "best_metric", "patience"]
    assert settings_where(lambda traits: traits.replaces_run, PredictConfig) == []
    assert settings_where(lambda traits: traits.replaces_run, PredictFlags) == [
        "text_column", "text_pair_column", "question_column", "context_column", "no_answer", "n_best", "source_column", "prefix",
        "source_lang", "target_lang", "num_beams", "max_new_tokens", "image_folder", "allow_urls"
    ]  # fmt: skip
    assert set(settings_where(lambda traits: traits.replaces_run, EvaluateFlags)) == {
        "text_column", "text_pair_column", "label_column", "label_values", "label_separator", "max_eval_examples",
        "question_column", "context_column", "answers_column", "no_answer", "delimiter", "encoding", "quoting", "column_names", "image_folder", "allow_urls",
        "prompt_column", "chosen_column", "rejected_column", "reference_model", "negatives_column", "source_column", "target_column", "prefix", "source_lang", "target_lang", "num_beams", "max_new_tokens",
    }  # fmt: skip


def test_every_setting_declares_itself():
    """Each is made by setting(), so that its traits stand beside it."""
    kinds = [TrainConfig, SourceConfig, PredictConfig, EvaluateConfig, PushConfig, *(find(name).Options for name in TASKS)]
    kinds += [attribute(flags) for flags, _, _ in COMMANDS.values()]
    for kind in kinds:
        for field in dataclasses.fields(kind):
            assert isinstance(field.metadata.get("traits"), Traits) and field.metadata["help"], f"{kind.__name__}.{field.name}"


def test_what_tasks_add_is_listed_where_it_belongs():
    """In the help and in saved settings alike; the fields of a dataclass stand behind those of its base."""
    names = [field.name for field in in_order(PredictFlags)]
    assert (
        names[:6] == ["model", "input", "output", "text_column", "text_pair_column", "question_column"]
        and names[8] == "id_column"
    )
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(PredictFlags))
    names = [field.name for field in in_order(EvaluateFlags)]
    columns = ["text_column", "text_pair_column", "question_column", "context_column", "answers_column", "label_column"]
    columns += ["prompt_column", "chosen_column", "rejected_column", "reference_model", "negatives_column"]
    columns += ["label_values", "label_separator", "source_column", "target_column"]
    at = names.index("max_eval_examples")
    assert names[at : at + 17] == ["max_eval_examples", *columns, "delimiter"]
    text = make_parser("run.py evaluate", [EvaluateFlags]).format_help()
    for found in (re.findall(r"\[--([a-z-]+)", text), re.findall(r"^  --([a-z-]+)", text, flags=re.MULTILINE)):
        assert [flag.replace("-", "_") for flag in found] == names
    assert "(default: classification)" in " ".join(text.split())


def test_a_setting_that_says_nothing_changes_the_weights():
    """The safe side: a run with another value of it is another run. Of a plain dataclass field, too."""
    own = dataclasses.make_dataclass("Own", [("made", int, setting(1, "")), ("plain", int, dataclasses.field(default=1))])
    assert all(traits_of(field) == Traits(changes_weights=True) for field in dataclasses.fields(own))
    assert differences({"made": 1, "plain": 1}, {"made": 2, "plain": 2}, own) == ["made: 1 -> 2", "plain: 1 -> 2"]
    with pytest.raises(AssertionError):
        Traits(changes_weights=True, local=True)


# --------------------------------------------------------------------------------------------------------------- help


def test_help_shows_one_spelling_of_every_flag_and_its_default(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"], "run.py", KINDS, {"epochs": 9})
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--batch-size" in text
    assert "--batch_size" not in text
    assert "(default: 9)" in text, "the task's own"
    assert "--config FILE" in text


def test_reading_the_settings_does_not_import_torch():
    """--help has to answer at once; importing torch takes seconds."""
    code = (
        "import sys\n"
        "from engine.config import TrainConfig; from engine.settings.parser import parse\n"
        "from engine.data.sources import SourceConfig\n"
        "parse(['--epochs', '1'], 'run.py', [TrainConfig, SourceConfig], {})\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
        "assert 'datasets' not in sys.modules, 'datasets'\n"
    )
    root = Path(__file__).parent.parent.parent
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_home_of_nobody_is_a_path_that_does_not_exist():
    assert user_path("~nosuchuser/x") == Path("~nosuchuser/x") and user_path("~/x") == Path.home() / "x"
