"""A result in a notebook: its metrics and curves as HTML that needs nothing and hides nothing, and its report in a frame."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html import unescape

import pytest

from bench.toys import tiny
from engine.artifacts.chart import chart, svg, ticks
from engine.artifacts.result import Result
from engine.config import TrainConfig
from engine.errors import DataError, UsageError
from engine.fit import fit
from engine.record.log import read_log
from tests.toys.pages import parsed

EVIL = "<script>alert(1)</script>\"' onerror=alert(1)\x1b[2J"
CONFIG = {"batch_size": 4, "epochs": 2, "learning_rate": 1e-3, "log_steps": 2, "device": "cpu", "task": "toy"}


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Result:
    """Of a run of 16 steps with two evaluations."""
    directory = tmp_path_factory.mktemp("runs") / "toy"
    task = tiny.TokenTask(model=tiny.bert(), train=tiny.token_rows(30), evaluation=tiny.token_rows(20, seed=5))
    return fit(task, TrainConfig(**CONFIG, output_dir=str(directory)))


def points(html: str) -> list[int]:
    """How many points each curve has."""
    return [len(path.split()) for path in re.findall(r'<polyline points="([^"]*)"', html)]


def test_metrics_and_curves(result):
    html = result._repr_html_()
    for name, value in result.metrics.items():
        assert (
            f">{name}</td>" in html and f">{value:.4g}</td>" in html if isinstance(value, float) else f">{value}</td>" in html
        )
    kinds = [line.kind for line in read_log(result.directory / "metrics.jsonl").lines]
    assert points(html)[:2] == [kinds.count("train"), kinds.count("eval")] == [8, 2]
    assert re.findall("<b>(.*?)</b>", html) == ["Loss", "accuracy", "f1", "mcc", "Learning rate", "Gradient norm"]
    assert f"{result.directory}: finished" in unescape(html) and "cpu, fp32" not in html


def test_it_needs_nothing_and_fits_any_page(result):
    """No script, nothing that is loaded, no colour of a page: text has that of what is around it."""
    html = result._repr_html_()
    tags = parsed(html)
    assert {tag for tag, _ in tags} <= {"div", "span", "b", "table", "tr", "td", "svg", "path", "text", "polyline", "circle"}
    names = {name for _, attributes in tags for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "href", "class", "id")}
    assert "url(" not in html and "http" not in html and "background: #" not in html
    assert {attributes["fill"] for tag, attributes in tags if tag == "text"} == {"currentColor"}
    assert {attributes["stroke"] for tag, attributes in tags if tag == "path"} == {"currentColor"}


def test_texts_stay_texts(result, tmp_path):
    """Names of metrics, of the data, the model and the folder, each of which tries to break out."""
    folder = tmp_path / "<b onclick=x>"
    shutil.copytree(result.directory, folder)
    document = json.loads((folder / "run.json").read_text())
    document["model"] = document["data"]["source"] = EVIL
    (folder / "run.json").write_text(json.dumps(document))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line | {EVIL: 0.5} if line["kind"] == "eval" else line for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html = Result(folder, {f"eval_{EVIL}": 0.5}, None)._repr_html_()
    assert {tag for tag, _ in parsed(html)} <= {tag for tag, _ in parsed(result._repr_html_())}
    assert not [name for _, attributes in parsed(html) for name in attributes if name.startswith("on")]
    clean = EVIL.replace("\x1b", " ")
    assert f"<b>{EVIL}" not in html and unescape(html).count(clean) >= 4 and "\x1b" not in html


def test_what_else_a_result_may_be(result, tmp_path):
    """Found finished, only explained, or of a directory that has gone or is damaged: what is known is shown."""
    assert "finished before, not trained again" in replace(result, skipped=True, model=None)._repr_html_()
    planned = Result(tmp_path / "none", {}, None)._repr_html_()
    assert "nothing was trained" in planned and "<table" not in planned and "<svg" not in planned
    gone = Result(tmp_path / "none", result.metrics, None)._repr_html_()
    assert "eval_accuracy" in gone and "<svg" not in gone
    shutil.copytree(result.directory, tmp_path / "damaged")
    (tmp_path / "damaged/metrics.jsonl").write_text("no log\n")
    damaged = Result(tmp_path / "damaged", result.metrics, None)._repr_html_()
    assert "eval_accuracy" in damaged and "<svg" not in damaged


def test_a_run_without_evaluation(tmp_path):
    task = tiny.TokenTask(model=tiny.bert(), train=tiny.token_rows(12))
    found = fit(task, TrainConfig(**CONFIG, output_dir=str(tmp_path / "run")))
    assert "train_loss" in found._repr_html_() and points(found._repr_html_())[0] == 3


def test_the_report_in_a_frame(result, tmp_path):
    """The page as it is, whose script cannot reach the notebook."""
    [(tag, attributes)] = parsed(result.report(height=500)._repr_html_())
    assert tag == "iframe" and attributes["srcdoc"] == (result.directory / "report.html").read_text()
    assert attributes["sandbox"] == "allow-scripts" and "height: 500px" in attributes["style"]
    assert "<" not in repr(result.report()) and set(attributes) == {"sandbox", "style", "srcdoc"}
    with pytest.raises(UsageError, match=r"report\.html is not there: a run writes it when it is finished"):
        Result(tmp_path, {}, None).report()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0.0, 0.2, 1.0]), (10.0, 63.0, [20.0, 40.0, 60.0]), (-0.3, 0.7, [0.0, 0.6]), (2.1e-5, 9.9e-5, [4e-5, 6e-5, 8e-5])],
)  # fmt: skip
def test_ticks_are_round(low, high, expected):
    found = ticks(low, high, 5)
    assert set(expected) <= {*found} and len(found) <= 6 and all(low <= each <= high for each in found)


def test_a_curve_of_one_height_is_drawn():
    """And one of a single point beside another."""
    html = svg(chart("Flat", "", {"a": [[1.0, 0.5], [2.0, 0.5]], "b": [[2.0, 0.5]]}))
    assert points(html) == [2, 1] and "nan" not in html


def test_an_error_is_one_line_in_ipython():
    """Its hook for exceptions that say themselves what is to be seen; the line is that of the command line."""
    assert DataError("row 3 is empty\nfill it")._render_traceback_() == ["error: row 3 is empty fill it"]
