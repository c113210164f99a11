"""The model card of a finished run: read by the Hub's own library, rendered by a Markdown library, its code and command run."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, metadata_load
from markdown_it import MarkdownIt

import run
from bench.toys import tiny
from engine.artifacts import card
from engine.config import TrainConfig
from engine.data.sources import Source, SourceConfig
from engine.fit import fit
from tasks import find
from tasks.offline import minilm, packaged_minilm
from tasks.samples import shapes
from tests.toys import answers
from tests.toys.cli import command
from tests.toys.language import make_model, make_task
from tests.toys.pages import code_in


def test_the_library_reads_the_figures_of_the_run(project):
    document = json.loads((project / "run/run.json").read_text())
    data = ModelCard.load(project / "run/README.md").data
    measured = {result.metric_type: result.metric_value for result in data.eval_results}
    assert measured == {name: document["metrics"][f"eval_{name}"] for name in ("loss", "accuracy", "f1", "mcc")}
    assert {(r.task_type, r.dataset_name) for r in data.eval_results} == {
        ("text-classification", "train.csv (60 rows), eval.csv (30 rows)")
    }
    raw = metadata_load(project / "run/README.md")
    assert raw["library_name"] == "transformers" and raw["pipeline_tag"] == "text-classification"
    assert raw["model-index"][0]["name"] == "run"
    text = (project / "run/README.md").read_text()
    for said in (
        document["device"].split()[0],
        document["versions"]["torch"],
        "60 train, 30 eval",
        "| learning rate | 2e-05 |",
    ):
        assert said in text, said


def test_the_curves_are_those_of_the_log(project, tmp_path):
    assert run.main(command(project, "--output-dir", str(tmp_path / "long"), "--max-steps", "30", "--eval-steps", "1")) == 0
    log = [json.loads(line) for line in (tmp_path / "long/metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in log if line["kind"] == "eval"]
    rows = [line for line in (tmp_path / "long/README.md").read_text().splitlines() if line.startswith("| ")]
    head = rows.index("| epoch | step | training loss | loss | accuracy | f1 | mcc |")
    steps = [int(row.split("|")[2]) for row in rows[head + 2 : head + 2 + card.MAX_ROWS]]
    assert steps[0] == 1 and steps[-1] == 30 and steps == sorted(set(steps)) and len(evaluations) == 30
    assert rows[head + 2].split("|")[4].strip() == f"{evaluations[0]['loss']:.4g}"


def test_its_command_repeats_the_run(project, tmp_path, monkeypatch):
    """From another folder that holds the same files under the same names; a value that needs quotes, and one that begins with -."""
    changed = [
        "--epochs",
        "2",
        "--learning-rate",
        "0.003",
        "--label-separator=-; '",
        "--max-grad-norm",
        "inf",
        "--deterministic",
    ]
    assert run.main(command(project, *changed[2:], "--output-dir", str(tmp_path / "first"))) == 0
    words = shlex.split(code_in((tmp_path / "first/README.md").read_text(), "bash"))
    assert words[:2] == ["python", "run.py"]
    monkeypatch.chdir(project)
    assert run.main([*words[2:], "--device", "cpu", "--output-dir", str(tmp_path / "again")]) == 0
    first, again = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again"))
    assert first == again
    settings = [json.loads((tmp_path / name / "run.json").read_text())["settings"] for name in ("first", "again")]
    for name in ("output_dir", "model", "train_file", "eval_file", "device"):  # whoever repeats it has another machine
        assert all(each.pop(name) for each in settings)
    assert settings[0] == settings[1]


def test_its_code_loads_the_model(project, monkeypatch):
    monkeypatch.chdir(project)
    names: dict = {}
    exec(code_in((project / "run/README.md").read_text(), "python"), names)
    assert names["model"]("w0 w7")[0]["label"] in ("a", "b", "c")


def test_no_folder_of_the_machine_stands_in_it(project):
    assert str(project) in (project / "run/run.json").read_text(), "there it may"
    text = (project / "run/README.md").read_text()
    assert str(project.parent) not in text and project.name not in text
    assert "train.csv" in text and "folder model" in text


HOSTILE = [
    "<script>alert(1)</script>",
    "[click](http://evil.example)",
    "a | b\n\n# c",
    "```\n---\n<b>x</b>",
    "_x_ *y* ![i](http://e)",
]


def test_labels_and_names_cannot_drive_the_page(project, tmp_path):
    folder = tmp_path / "[n](http://evil.example) `<b>"
    with open(tmp_path / "t.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *((f"w{i} w{i % 7}", HOSTILE[i % 5]) for i in range(40))])
    arguments = ["--task", "classification", "--model", str(project / "model"), "--train-file", str(tmp_path / "t.csv")]
    assert run.main([*arguments, "--epochs", "1", "--output-dir", str(folder), "--class-weights=1,1,1,1,1"]) == 0
    text = (folder / "README.md").read_text()
    assert ModelCard.load(folder / "README.md").data.pipeline_tag == "text-classification"
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("\n---\n", 1)[1])
    for tag in ("<script", "<b>", "<a ", "<img", "<em>"):
        assert tag not in page, tag
    for shown in ("&lt;script&gt;alert(1)&lt;/script&gt;", "[click](http://evil.example)", "a | b  # c"):
        assert shown in page, shown
    assert page.count("<h1>") == 1 and page.count("<h2>") == 4
    names: dict = {}
    exec(code_in(text, "python").split("model =")[0], names)
    assert names["name"] == folder.name


def test_a_run_from_python_without_evaluation(tmp_path):
    task = tiny.TokenTask(train=tiny.token_rows(40))
    fit(task, TrainConfig(output_dir=str(tmp_path / "run"), epochs=1, device="cpu"), tiny.bert())
    text = (tmp_path / "run/README.md").read_text()
    assert "Made from Python" in text and "Not evaluated" in text and "BertForSequenceClassification.from_pretrained" in text
    assert ModelCard.load(tmp_path / "run/README.md").data.eval_results is None


def test_base_model_and_licence_come_from_the_checkpoints_card(tmp_path):
    def base(path: str) -> dict:
        source = Source(SourceConfig(model=path))
        source.model(None)
        return card.base_of(source)

    if (taken := minilm()) is not None:
        source = Source()
        source.model("org/none", minilm)  # the Hub is out of reach
        licence = metadata_load(Path(taken.path) / "README.md")["license"]
        assert card.base_of(source) == {"base_model": "sentence-transformers/all-MiniLM-L6-v2", "license": licence}
    folder = tiny.save_model(tmp_path / "model")
    assert base(str(folder)) == {"base_model": None, "license": None}
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: org/first\n---\n\n# a run of ours\n")
    assert base(str(folder)) == {"base_model": "org/first", "license": "mit"}
    (folder / "README.md").write_text("---\n: [ not YAML\n---\n")
    assert base(str(folder)) == {"base_model": None, "license": None}
    assert card.base_of(Source()) == {"base_model": None, "license": None}
    (folder / "README.md").write_text('---\nlicense: "mit\\n---\\n\\e[2J"\nbase_model: "%s"\n---\n' % ("x" * 10**5))
    assert base(str(folder)) == {"base_model": "x" * 200, "license": "mit ---  [2J"}, "one line, and not a long one"
    (tmp_path / "notes.md").write_text("---\nlicense: of another file of this machine\n---\n")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "notes.md")
    assert base(str(folder)) == {"base_model": None, "license": None}, "a link that leads out"
    (folder / "README.md").unlink()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n" + "x" * (1 << 20))
    assert base(str(folder)) == {"base_model": None, "license": None}, "more than a card is read"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/a/t.csv", True), ("../t.csv", True), ("lists/t.csv", True), ("mine/task.py:Mine", True), ("org/name", False),
     ("t.csv", False), ("auto", False), ("|", False), ("/", False), ("a/b/c,d", False)],
)  # fmt: skip
def test_what_is_taken_for_a_path(value, expected):
    assert card.is_path(value) is expected


def test_labels_are_shown_where_the_task_has_them():
    """The config of a language model that was made from a classifier still has its labels; its card says nothing of them."""
    model = tiny.bert(num_labels=2)
    model.config.id2label = {1: "good*", 0: "bad"}
    classifier, other = (find(name)(find(name).Options(), Source()) for name in ("classification", "mlm"))
    assert card.usage(classifier, model, "m").endswith("\n\nLabels, in order: bad, good\\*.")
    assert "Labels" not in card.usage(other, model, "m")
    model.config.id2label = {0: "LABEL_0"}  # a number
    assert "Labels" not in card.usage(classifier, model, "m")


@pytest.mark.parametrize("kind", ["mlm", "clm", "sft"])
def test_the_code_of_a_language_model_loads_it(kind, tmp_path, monkeypatch):
    task, model = make_task(kind), make_model(kind)
    model.save_pretrained(tmp_path / "m")
    task.tokenizer.save_pretrained(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code_in(card.usage(task, model, "m"), "python"), names)
    assert names["model"].task == task.pipeline_tag and type(names["model"].model) is type(model)


def test_the_code_of_a_model_without_a_pipeline_loads_it(tmp_path):
    pytest.importorskip("sentence_transformers")
    if (start := packaged_minilm()) is None:
        pytest.skip("the offline extra is not installed")
    answers.model().save_pretrained(tmp_path / "qa")
    answers.tokenizer().save_pretrained(tmp_path / "qa")
    for kind, path in (("embeddings", start), ("captioning", shapes.small_captioner(["a b"])[0]), ("qa", str(tmp_path / "qa"))):
        task = find(kind)(find(kind).Options(), Source(SourceConfig(model=path)))
        task.may_be_none = False  # what the data say
        model = task.build_model()
        names: dict = {}
        exec(code_in(card.usage(task, model, path), "python"), names)
        loaded = sorted(parameter.numel() for parameter in names["model"].parameters())
        assert loaded == sorted(parameter.numel() for parameter in model.parameters())
