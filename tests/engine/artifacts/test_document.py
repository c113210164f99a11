"""run.json as a record: what is written is read back, and what a run does not write is refused in one line."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from bench.toys import tiny
from engine.artifacts.directory import holds_unfinished, is_finished, read_run, write_run
from engine.artifacts.document import FORMAT, VERSION, DataRecord, RunDocument, dumps, loads
from engine.checked import MOST_BYTES, MOST_DEPTH
from engine.config import TrainConfig
from engine.errors import ModelError, UsageError
from engine.fit import fit
from tests.toys.cli import command, fails

ROOT = Path(__file__).parent.parent.parent.parent
OLDER = json.loads((ROOT / "tests/fixtures/run-0.1.0/finished/run.json").read_text())


def test_the_version_is_that_of_the_project():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_a_run_writes_the_keys_of_older_runs_in_their_order(project):
    document = json.loads((project / "run/run.json").read_text())
    keys = ["format", "version", *OLDER]
    keys[keys.index("metrics") : keys.index("metrics") + 1] = ["sources", "kept", "files", "metrics", "classes"]
    assert list(document) == keys and document["format"] == FORMAT and document["version"] == VERSION
    assert list(document["data"]) == list(OLDER["data"]) and list(document["metrics"]) == list(OLDER["metrics"])
    assert loads((project / "run/run.json").read_bytes()).to_json() == document
    assert list(document["files"]) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("classes", [{"a": 1}, {"a": {"f1": "x"}}, [1]])
def test_figures_of_classes_are_numbers_by_name(classes):
    with pytest.raises(ValueError):
        RunDocument.from_json({**OLDER, "classes": classes})
    assert RunDocument.from_json({**OLDER, "classes": {"a": {"f1": None, "rows": 3}}}).classes


def test_an_older_document_is_of_format_0():
    document = RunDocument.from_json(OLDER)
    assert document.format == 0 and document.version == "0.1.0"
    assert {name: value for name, value in document.to_json().items() if name not in ("format", "version")} == OLDER


def test_a_running_document_has_no_metrics():
    document = RunDocument(settings={"epochs": 1}, data=DataRecord("a.csv", None, {"train": 3}, {"train": "ab"}, None))
    assert "metrics" not in document.to_json() and document.status == "running"
    ended = dataclasses.replace(document, metrics={"train_loss": 1.0, "eval_loss": None}, status="finished")
    for each in (document, ended):
        assert loads(dumps(each)) == each


def test_unknown_keys_of_a_known_format_are_ignored():
    found = RunDocument.from_json({**OLDER, "mood": "fine", "data": {**OLDER["data"], "smell": 1}}).to_json()
    assert "mood" not in found and "smell" not in found["data"]


def deep(levels: int) -> dict:
    return {"x": deep(levels - 1)} if levels else {}


WRONG = [
    ({"status": "done"}, "status cannot be 'done'"),
    ({"status": None}, "status cannot be None"),
    ({"settings": []}, "settings cannot be []"),
    ({"data": "x"}, "data cannot be 'x'"),
    ({"data": {"fingerprints": {"train": 1}}}, "fingerprints.train cannot be 1"),
    ({"data": {"num_examples": {"train": True}}}, "num_examples.train cannot be True"),
    ({"data": {"lengths": {"edges": [1, 2], "counts": [1, 2]}}}, "data.lengths is no histogram"),
    ({"data": {"lengths": {"edges": [1, 2], "counts": ["x"]}}}, "data.lengths is no histogram"),
    ({"data": {"lengths": {"edges": [1]}}}, "counts is missing"),
    ({"versions": {"torch": 2}}, "versions.torch cannot be 2"),
    ({"versions": None}, "versions cannot be None"),
    ({"metrics": {"train_loss": "low"}}, "metrics.train_loss cannot be 'low'"),
    ({"metrics": [1]}, "metrics cannot be [1]"),
    ({"base_model": {"license": 3}}, "base_model.license cannot be 3"),
    ({"model_config": 5}, "model_config cannot be 5"),
    ({"device": ["cpu"]}, "device cannot be ['cpu']"),
    ({"command": 7}, "command cannot be 7"),
    ({"precision": "evil"}, "precision cannot be 'evil'"),
    ({"files": "model.safetensors"}, "files cannot be 'model.safetensors'"),
    ({"files": ["config.json"]}, "files cannot be ['config.json']"), ({"files": {"config.json": 1}}, "files.config.json cannot be 1"),
    *(({"files": {"config.json": "", name: ""}}, f"files cannot hold {name!r}")
      for name in ("", "/etc/passwd", "../other/model.safetensors", "a/../../b", "a//b", "./a", "a/", "a\0b")),
    ({"format": "1"}, "format cannot be '1'"),
    ({"version": 1}, "version cannot be 1"),
    ({"model_config": deep(MOST_DEPTH)}, f"it is more than {MOST_DEPTH} levels deep"),
    ({"metrics": {"train_loss": float("nan")}}, "NaN is no JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_no_run_writes_is_one_line(tmp_path, changes, words):
    (tmp_path / "run.json").write_text(json.dumps(OLDER | changes))
    with pytest.raises(UsageError) as refused:
        read_run(tmp_path)
    assert f"is not a run's ({words})" in str(refused.value) and "\n" not in str(refused.value)
    assert "--overwrite" in str(refused.value)


@pytest.mark.parametrize("text", ["", "[1]", "3", "{}", '{"mine": 1}', "[" * 100_000, "\xff", '{"settings": {}, "data": {}}'])
def test_another_file_of_that_name_is_one_line(tmp_path, text):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match="is not a run's"):
        read_run(tmp_path)
    assert not holds_unfinished(tmp_path), "nothing that is known of a run"


def test_a_value_of_a_config_may_be_deep_but_not_too_deep():
    RunDocument.from_json(OLDER | {"model_config": deep(MOST_DEPTH - 2)})
    with pytest.raises(ValueError, match="levels deep"):
        RunDocument.from_json(OLDER | {"model_config": deep(MOST_DEPTH - 1)})


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "run.json", "wb") as stream:
        stream.truncate(MOST_BYTES + 1)
    with pytest.raises(UsageError, match="larger than 64 MiB"):
        read_run(tmp_path)


def test_a_newer_format_says_update(project, tmp_path, capsys):
    """Whatever else has changed in it; also of a model that lies there, whose run may be unfinished."""
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer/run.json").write_text(json.dumps({"format": FORMAT + 1, "version": "9.1", "all": "is new"}))
    line = f"was written by Plainloop 9.1 in format {FORMAT + 1}, this version reads up to {FORMAT}: update Plainloop"
    with pytest.raises(ModelError, match=line):
        is_finished(tmp_path / "newer")
    arguments = command(project, "--output-dir", str(tmp_path / "o"))
    arguments[arguments.index("--model") + 1] = str(tmp_path / "newer")
    for tried in (arguments, command(project, "--output-dir", str(tmp_path / "newer")), ["report", str(tmp_path / "newer")]):
        code, said = fails(tried, capsys)
        assert code == 4 and line in said
    with pytest.raises(ModelError):
        RunDocument.from_json({"format": FORMAT + 1, "version": 3})


def test_what_is_written_is_there_in_full(tmp_path):
    document = RunDocument.from_json(OLDER)
    write_run(tmp_path, document)
    assert read_run(tmp_path) == document and [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(("recorded", "said"), [("Z80", "'Z80'"), (None, "'not recorded'")])
def test_another_processor_may_add_up_in_another_order(tmp_path, recorded, said, capsys):
    """Though it has the same instructions: resuming there is not called exact, nor where the first one is not known."""
    task = tiny.TokenTask(train=tiny.token_rows(16))
    config = TrainConfig(output_dir=str(tmp_path / "run"), epochs=1, device="cpu", resume=True)
    fit(task, config, tiny.bert())
    found = json.loads((tmp_path / "run/run.json").read_text())
    found["status"], name = "running", found["versions"].pop("processor")
    found["versions"] |= {"processor": recorded} if recorded else {}
    (tmp_path / "run/run.json").write_text(json.dumps(found))
    fit(task, config, tiny.bert())
    assert f"not bitwise (processor: {said} -> {name!r})" in capsys.readouterr().out


@pytest.mark.parametrize("same", [True, False])
def test_another_transformers_may_know_other_keys_of_the_models_config(tmp_path, same, capsys):
    """A config that has gained a key with a new transformers is the same model; with the same one it is another."""
    task = tiny.TokenTask(train=tiny.token_rows(16))
    config = TrainConfig(output_dir=str(tmp_path / "run"), epochs=1, device="cpu", resume=True)
    fit(task, config, tiny.bert())
    found = json.loads((tmp_path / "run/run.json").read_text())
    found["status"] = "running"
    del found["model_config"]["hidden_act"]
    found["versions"]["transformers"] = found["versions"]["transformers"] if same else "5.0"
    (tmp_path / "run/run.json").write_text(json.dumps(found))
    if same:
        with pytest.raises(UsageError, match=r"other model \(hidden_act: None -> 'gelu'\)"):
            fit(task, config, tiny.bert())
    else:
        fit(task, config, tiny.bert())
        assert "not bitwise (transformers: '5.0' ->" in capsys.readouterr().out
