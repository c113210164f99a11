"""report.html: everything drawn, everything escaped, nothing loaded."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.reliability.mutations import ESCAPE, leaves
from bench.toys import tiny
from engine.artifacts.directory import read_run
from engine.artifacts.document import RunDocument
from engine.artifacts.report import Record, histogram, render
from engine.commands.report import CompareConfig, ReportConfig, compare, report
from engine.config import TrainConfig
from engine.errors import DataError, UsageError
from engine.fit import fit
from engine.record.log import MOST_KEPT, Log, read_log
from run import main
from tests.toys.pages import parsed

ROOT = Path(__file__).parents[3]
EVIL = "<script>alert(1)</script></script>\"' onerror=alert(1) {{ 7 * 7 }}"
CONFIG = {"batch_size": 4, "epochs": 2, "learning_rate": 1e-3, "log_steps": 2, "device": "cpu", "task": "toy"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of 2 epochs."""
    directory = tmp_path_factory.mktemp("runs") / "toy"
    task = tiny.TokenTask(model=tiny.bert(), train=tiny.token_rows(30), evaluation=tiny.token_rows(20, seed=5))
    fit(task, TrainConfig(**CONFIG, output_dir=str(directory)))
    return directory


def charts_of(page: str) -> dict[str, dict]:
    """The charts by title, as the browser gets them."""
    found = [json.loads(html.unescape(text)) for text in re.findall(r"data-chart='([^']*)'", page)]
    return {chart["title"]: chart for chart in found}


def test_a_finished_run_has_a_report_with_every_logged_value(run):
    charts = charts_of((run / "report.html").read_text())
    lines = [line for line in read_log(run / "metrics.jsonl").lines if line.kind == "train"]
    [training, evaluation] = charts["Loss"]["series"]
    assert training["points"] == [[line.step, line.values["loss"]] for line in lines]
    assert [step for step, _ in evaluation["points"]] == [8, 16]
    assert {"accuracy", "Learning rate", "Gradient norm", "Time of a step", "Padding", "Throughput", "Lengths"} <= charts.keys()
    assert "Model FLOPs utilisation" not in charts  # a CPU has no peak to compare with: left out, not drawn empty


def test_the_stacked_phases_are_milliseconds_a_step(run):
    lines = [line for line in read_log(run / "metrics.jsonl").lines if line.kind == "train"]
    [forward] = [s for s in charts_of((run / "report.html").read_text())["Time of a step"]["series"] if s["name"] == "forward"]
    assert forward["points"][1] == [4, pytest.approx(1000 * lines[1].seconds["forward"] / 2)]


def evil_record(run: Path) -> Record:
    """A run whose every text, names of metrics and settings included, tries to break out."""
    document = json.loads((run / "run.json").read_text())
    document["settings"][EVIL] = EVIL
    document["data"]["source"] = document["model"] = document["device"] = document["versions"][EVIL] = EVIL
    document["metrics"][f"eval_{EVIL}"] = 0.5
    lines = [
        replace(line, values={**line.values, EVIL: 0.5}) if line.kind == "eval" else line
        for line in read_log(run / "metrics.jsonl").lines
    ]
    return Record(EVIL, RunDocument.from_json(document), Log(lines, len(lines)))


def test_texts_stay_texts(run):
    page = render([evil_record(run)])
    clean = render([Record("toy", read_run(run), read_log(run / "metrics.jsonl"))])
    tags = [(tag, sorted(attributes)) for tag, attributes in parsed(page)]
    assert {tag for tag, _ in tags} == {tag for tag, _ in [(t, a) for t, a in parsed(clean)]}
    assert sum(tag == "script" for tag, _ in tags) == 1
    assert not any(name.startswith("on") for _, names in tags for name in names)
    assert EVIL in charts_of(page)  # and yet it is all there
    assert "49" not in re.sub(r"[\d.]+", lambda m: m[0] if m[0] == "49" else "", page)


def test_nothing_is_loaded(run):
    page = (run / "report.html").read_text()
    policy = next(a["content"] for tag, a in parsed(page) if tag == "meta" and "content" in a and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert not {"src", "href"} & {name for _, attributes in parsed(page) for name in attributes}
    assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"]  # the name of a namespace


def test_the_command_is_the_model_cards(run):
    """Quoted for a shell there, escaped for HTML here; none for a run made in Python."""
    document = read_run(run)
    assert "How to repeat" not in render([Record("toy", replace(document, command=None))])
    page = render([Record("toy", replace(document, command="python run.py --task yelp '--freeze=<b>'"))])
    assert "<pre>python run.py --task yelp &#39;--freeze=&lt;b&gt;&#39;</pre>" in page


def test_histogram_counts_each_row_once():
    lengths = np.random.default_rng(0).integers(3, 500, 1000)
    found = histogram(lengths)
    assert sum(found["counts"]) == 1000 and len(found["counts"]) <= 31
    for low, high, count in zip(found["edges"], found["edges"][1:], found["counts"], strict=False):
        assert count == sum(low <= n < high for n in lengths)


def test_compare_lays_runs_over_each_other(run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    document = json.loads((other / "run.json").read_text())
    document["settings"]["learning_rate"] = 0.5
    (other / "run.json").write_text(json.dumps(document))
    compare(CompareConfig(output=str(tmp_path / "c.html")), [str(run), str(other)], None)
    printed = capsys.readouterr().out
    assert re.search(r"learning_rate +0.001 +0.5", printed) and "batch_size" not in printed
    loss = charts_of((tmp_path / "c.html").read_text())["Loss"]["series"]
    assert [s["name"] for s in loss] == [f"{d} {k}" for k in ("training", "evaluation") for d in (run, other)]


def test_the_report_of_an_unfinished_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "cut")
    lines = (tmp_path / "cut/metrics.jsonl").read_bytes()
    (tmp_path / "cut/metrics.jsonl").write_bytes(lines[: len(lines) // 2])  # in the middle of a line
    report(ReportConfig(model=str(tmp_path / "cut")), [], None)
    assert len(charts_of((tmp_path / "cut/report.html").read_text())["Loss"]["series"][0]["points"]) >= 2


@pytest.mark.parametrize("call", [
    lambda d: report(ReportConfig(model=str(d)), [], None),
    lambda d: report(ReportConfig(model=str(d)), ["text"], None),
    lambda d: compare(CompareConfig(), [str(d)], None),
    lambda d: compare(CompareConfig(), [str(d), str(d)], None),
])  # fmt: skip
def test_what_is_no_run_is_refused(call, tmp_path):
    with pytest.raises(UsageError):
        call(tmp_path)


def test_a_profile_and_mistakes_are_shown_when_they_are_there(run, tmp_path):
    page = (run / "report.html").read_text()
    assert "Profiled steps" not in page and "Hottest operations" not in page and "mistakes" not in page
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/profile").mkdir()
    steps = [{"step": step, "seconds": 0.3, "phases": {"forward": 0.1 * step, "backward": 0.2},
              "memory_gb": {"forward": 2.0, "backward": 1.5}} for step in (4, 5)]  # fmt: skip
    operations = [{"name": EVIL, "milliseconds": 1.234, "calls": 2.5, "share": 0.25}]
    profile = {"device": "cuda", "steps": steps, "operations": operations, "busy": None}
    (tmp_path / "run/profile/profile.json").write_text(json.dumps(profile))
    rows = [
        ["row", "text", "label", "prediction", "confidence"],
        *([str(i), EVIL + "y" * 700, "a", "b", "0.9"] for i in range(30)),
    ]
    with open(tmp_path / "run/errors.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    report(ReportConfig(model=str(tmp_path / "run")), [], None)
    page = (tmp_path / "run/report.html").read_text()
    charts = charts_of(page)
    assert charts["Profiled steps"]["series"][0] == {"name": "forward", "points": [[4, 400.0], [5, 500.0]]}
    assert charts["Memory in the profiled steps"]["unit"] == "GiB allocated"
    assert ">1.23<" in page and ">25.0<" in page
    assert (
        "Most confident mistakes (the first 10 of errors.csv; they hold texts of the data" in page
        and page.count("yyy ...") == 10
    )
    assert (
        sum(tag == "script" for tag, _ in parsed(page)) == 1
        and html.escape(EVIL).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
    )


def test_whatever_numbers_and_names_a_profile_has_the_page_is_drawn(run, tmp_path):
    """An infinity ended the drawing of all charts behind it; steps on a recorded graph have other phases, and were refused."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/profile").mkdir()
    names = [f"phase {i}" for i in range(5000)]
    steps = [{"step": step, "phases": {"forward": 1e308, **dict.fromkeys(names, 0.1)}, "memory_gb": {after: 1.5, EVIL: 1e308}}
             for step, after in ((4, "forward"), (5, "graph"), (6, "graph"))]  # fmt: skip
    operations = [{"name": EVIL + "z" * 5000, "milliseconds": 1e308, "calls": 1e308, "share": 1e308}] * 5000
    profile = {"device": "cuda", "steps": steps, "operations": operations, "busy": None}
    (tmp_path / "run/profile/profile.json").write_text(json.dumps(profile))
    report(ReportConfig(model=str(tmp_path / "run")), [], None)
    page = (tmp_path / "run/report.html").read_text()
    charts = charts_of(page)
    assert "Infinity" not in page and len(page) < 1_000_000
    assert len(charts["Profiled steps"]["series"]) == 99 and "forward" not in str(charts["Profiled steps"]["series"])
    memory = {series["name"]: series["points"] for series in charts["Memory in the profiled steps"]["series"]}
    assert memory["after forward"] == [[4, 1.5]] and memory["after graph"] == [[5, 1.5], [6, 1.5]]


@pytest.mark.parametrize("within", ["settings", "versions", "metrics", "files", "sources", "data.num_examples"])
def test_a_run_json_of_very_many_entries_is_refused(run, tmp_path, within):
    """push searched a million of them for a minute, and compare printed each."""
    shutil.copytree(run, tmp_path / "run")
    document = json.loads((tmp_path / "run/run.json").read_text())
    *above, name = within.split(".")
    holder = document[above[0]] if above else document
    holder[name] = dict.fromkeys(map(str, range(10_001)), 1 if name in ("metrics", "num_examples") else "1")
    (tmp_path / "run/run.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=f"{name} has 10,001 entries, and 10,000 are the most"):
        report(ReportConfig(model=str(tmp_path / "run")), [], None)


def test_mistakes_that_cannot_be_read_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/errors.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"errors.csv is not what evaluate --errors writes"):
        report(ReportConfig(model=str(tmp_path / "run")), [], None)


def test_mistakes_may_be_of_any_length(run, tmp_path):
    """csv's own limit is 131,072 characters a cell, and per process."""
    shutil.copytree(run, tmp_path / "run")
    before = csv.field_size_limit(131_072)
    with open(tmp_path / "run/errors.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("row", "text"), (3, "word " * 50_000)])
    report(ReportConfig(model=str(tmp_path / "run")), [], None)
    csv.field_size_limit(before)


STRANGE = {  # what a stranger's files may hold, and what is said of it
    "metrics.jsonl": [
        "5", "[]", "null", '"x"', '{"step": 1, "epoch": 1}', '{"kind": 3, "step": 1, "epoch": 1}', '{"kind": "train", "epoch": 1}',
        '{"kind": "train", "step": "1", "epoch": 1}', '{"kind": "train", "step": -1, "epoch": 1}',
        '{"kind": "train", "step": 1, "epoch": null}', '{"kind": "train", "step": 1, "epoch": 1, "loss": "low"}',
        '{"kind": "train", "step": 1, "epoch": 1, "loss": NaN}', '{"kind": "train", "step": 1, "epoch": 1, "loss": 1e999}',
        '{"kind": "train", "step": 1, "epoch": 1, "seconds": 3}', '{"kind": "train", "step": 1, "epoch": 1, "seconds": {"a": []}}',
        '{"kind": "train", "step": 1, "epoch": 1, "loss": 1' + "0" * 400 + "}", "[" * 100_000, "x" * 100_000, "\xff", "",
        '{"kind": "train", "step": 1, "epoch": 1, "x": ' + "[" * 60 + "]" * 60 + "}",
    ],
    "profile/profile.json": [
        "5", "[]", "{", '{"device": "cpu", "steps": [], "operations": []}', '{"device": "cpu", "steps": [3], "operations": []}',
        '{"device": "cpu", "steps": [{"step": 1, "phases": {"a": "x"}, "memory_gb": {}}], "operations": []}',
        '{"device": "cpu", "steps": [{"step": 1, "phases": {"a": 1}, "memory_gb": {}}, {"step": 1, "phases": {}, "memory_gb": {}}],'
        ' "operations": []}',
        '{"device": "cpu", "steps": [{"step": 1, "phases": {}, "memory_gb": {}}], "operations": [{"name": "a", "calls": "x"}]}',
    ],
    "errors.csv": ["a\xff", "\xfe" * 70_000_000],
    "run.json": ["5", "[]", "{}", '{"settings": 1, "data": {}, "status": "finished"}', "[" * 100_000],
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, contents in STRANGE.items() for content in contents],
                         ids=lambda text: text[:40])  # fmt: skip
def test_a_strangers_file_is_refused_in_one_line(name, content, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / name
    path.parent.mkdir(exist_ok=True)
    before = path.read_bytes() if name == "metrics.jsonl" else b""
    path.write_bytes(before + content.encode("latin-1") + b"\n")
    for call in (lambda: report(ReportConfig(model=str(tmp_path / "run")), [], None),
                 lambda: compare(CompareConfig(output=str(tmp_path / "c.html")), [str(run), str(tmp_path / "run")], None)):  # fmt: skip
        with pytest.raises(DataError if name != "run.json" else UsageError) as raised:
            call()
        assert str(path) in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 600
        if name == "metrics.jsonl":
            assert f"line {len(before.splitlines()) + 1}: " in str(raised.value)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "errors.csv", "profile/profile.json"])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused(name, run, tmp_path):
    """Opening a pipe waits until somebody writes to it; /dev/zero never ends."""
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        shutil.copytree(run, tmp_path / "run")
        path = tmp_path / "run" / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        make(path)
        with pytest.raises((DataError, UsageError), match=r"it is (no regular file|a link that leads out)"):
            report(ReportConfig(model=str(tmp_path / "run")), [], None)
        shutil.rmtree(tmp_path / "run")


def test_a_document_that_is_too_large_is_not_read(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    os.truncate(tmp_path / "run/run.json", 1 << 40)  # sparse
    with pytest.raises(UsageError, match="larger than 64 MiB"):
        report(ReportConfig(model=str(tmp_path / "run")), [], None)


@pytest.mark.slow
def test_an_escape_sequence_in_any_field_never_reaches_the_terminal(run, tmp_path, capsys):
    """Each text and each name in run.json and in the log, one by one, through compare and report: shown, or refused."""
    shutil.copytree(run, tmp_path / "run")
    for name in ("run.json", "metrics.jsonl"):
        path = tmp_path / "run" / name
        before = path.read_text()
        document = json.loads(before if name == "run.json" else before.splitlines()[-1])
        for *above, key in leaves(document):
            for as_name in (False, True):
                changed = json.loads(json.dumps(document))
                inner = changed
                for step in above:
                    inner = inner[step]
                if as_name and isinstance(inner, dict):
                    inner[ESCAPE] = inner.pop(key)
                else:
                    inner[key] = ESCAPE
                path.write_text(json.dumps(changed) + "\n")
                code = main(["compare", str(run), str(tmp_path / "run"), "--output", str(tmp_path / "c.html")])
                said = capsys.readouterr()
                assert code in (0, 2, 3) and "\x1b" not in said.out + said.err, (name, above, key)
        path.write_text(before)


def long_log(path: Path, num_lines: int) -> None:
    """Train lines with a loss that falls, and an evaluation each tenth line."""
    with open(path, "w") as stream:
        for step in range(1, num_lines + 1):
            line = {"kind": "train", "step": step, "epoch": step / 100, "loss": 1 / step, "grad_norm": 1.0,
                    "learning_rate": 1e-3, "tokens_per_second": 1e4, "padding_waste": 0.1, "waste_if_padded": 0.2,
                    "mfu": None, "tflops": 0.1, "memory_gb": 1.0,
                    "seconds": {"data": 0.001, "forward": 0.002, "backward": 0.003}}  # fmt: skip
            stream.write(json.dumps(line) + "\n")
            if step % 10 == 0:
                line = {"kind": "eval", "split": "eval", "step": step, "epoch": step / 100, "loss": 2 / step, "f1": 0.5}
                stream.write(json.dumps(line) + "\n")


def test_a_long_log_is_thinned_and_the_page_says_so(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    long_log(tmp_path / "run/metrics.jsonl", 25_000)
    log = read_log(tmp_path / "run/metrics.jsonl")
    trained, evaluated = ([line for line in log.lines if line.kind == kind] for kind in ("train", "eval"))
    assert MOST_KEPT / 2 <= len(trained) <= MOST_KEPT + 1 and MOST_KEPT / 2 <= len(evaluated) <= MOST_KEPT + 1
    assert trained[0].step == 1 and trained[-1].step == evaluated[-1].step == 25_000 and log.num_lines == 27_500
    assert [line.step for line in trained[:3]] == [1, 17, 33] and all(line.num_steps == 1 for line in trained)
    assert all(line.values["loss"] == 1 / line.step for line in trained)
    assert all(line.training_loss == 1 / line.step for line in evaluated)  # of the line right before, kept or not
    assert [line.step for line in log.lines] == sorted(line.step for line in log.lines)
    report(ReportConfig(model=str(tmp_path / "run")), [], None)
    page = (tmp_path / "run/report.html").read_text()
    assert len(page) < 1_000_000 and f"the curves and tables show {len(log.lines):,} of 27,500 log lines" in page
    time = charts_of(page)["Time of a step"]["series"][0]["points"]
    assert all(value == pytest.approx(1) for _, value in time)  # milliseconds of one step, though 16 lie between two points


def test_a_short_log_is_drawn_in_full(run):
    log = read_log(run / "metrics.jsonl")
    assert len(log.lines) == log.num_lines and "log lines" not in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_million_lines_take_little_memory_and_a_small_page(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    long_log(tmp_path / "run/metrics.jsonl", 1_000_000)
    code = "import run; run.main(['report', '--model', 'run']); print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert int(done.stdout.split("VmHWM:")[1].split()[0]) < 500 << 10, done.stdout
    assert (tmp_path / "run/report.html").stat().st_size < 5_000_000


PROBE = """<script>
addEventListener("load", () => {
  const svg = document.querySelector("svg"), box = svg.getBoundingClientRect();
  const at = (type, share) => svg.dispatchEvent(new PointerEvent(type, {bubbles: true, pointerType: "mouse",
    clientX: box.left + share * box.width, clientY: box.top + box.height / 2}));
  at("pointermove", 0.5);
  document.body.dataset.hover = document.querySelector(".value").textContent;
  const before = svg.querySelectorAll("circle").length;
  at("pointerdown", 0.2); at("pointermove", 0.5); at("pointerup", 0.5);
  document.body.dataset.zoomed = svg.querySelectorAll("circle").length < before;
  svg.dispatchEvent(new Event("dblclick"));
  document.body.dataset.back = svg.querySelectorAll("circle").length === before;
  document.body.dataset.requests = performance.getEntriesByType("resource").length;
  document.body.dataset.narrow = document.documentElement.scrollWidth <= innerWidth;
});
</script></body>"""


POINT = """<script>
addEventListener("load", () => {
  const svg = document.querySelector("svg[aria-label^='Memory over']"), box = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: box.right - 1, clientY: box.top + 9}));
  document.body.dataset.hover = svg.parentElement.querySelector(".value").textContent;
});
</script></body>"""


def in_browser(page: Path, profile: Path, width: int) -> subprocess.CompletedProcess[str]:
    """What stands in the page once it is drawn, and what it has said. Needs Debian's chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser, "no chromium here: apt-get install chromium"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--log-level=0",
               f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom", page.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_real_browser(run, tmp_path, width):
    """Drawn, hover and zoom work, no error, no request."""
    page = tmp_path / "page.html"
    page.write_text(render([evil_record(run)]).replace("</body>", PROBE))
    done = in_browser(page, tmp_path / "profile", width)
    assert "CONSOLE" not in done.stderr, done.stderr
    [body] = [attributes for tag, attributes in parsed(done.stdout) if tag == "body"]
    assert body["data-hover"].startswith("step ") and "training" in body["data-hover"]
    assert body["data-zoomed"] == body["data-back"] == body["data-narrow"] == "true"
    svgs = done.stdout.count("<svg")
    assert svgs == len(charts_of(page.read_text())) > 8
    assert "alert(1)" in html.unescape(done.stdout) and done.stdout.count("<script") == 2
    assert body["data-requests"] == "0"


@pytest.mark.browser
def test_phases_are_named_above_the_memory_of_a_step(run, tmp_path):
    """Where there is room; the others are named when pointed at. A time that stands twice is not stacked upon itself."""
    memory = {"step": 4, "ms": [0.0, 100.0, 100.0, 300.0, 400.0], "above_gb": [0.0, 2.0, 2.0, 1.0, 0.0], "gradients_gb": [0.0] * 5,
              "phases": [["data", 0.0], ["forward", 1.0], ["backward", 150.0], ["clip", 398.0], ["optimizer", 399.0]]}  # fmt: skip
    step = {"step": 4, "phases": {"forward": 0.1}, "memory_gb": {"forward": 2.0}}
    profile = {"device": "cpu", "steps": [step], "operations": [], "memory_over_time": memory}
    page = tmp_path / "page.html"
    record = Record("toy", read_run(run), read_log(run / "metrics.jsonl"), profile)
    page.write_text(render([record]).replace("</body>", POINT))
    done = in_browser(page, tmp_path / "profile", 390)
    assert "CONSOLE" not in done.stderr, done.stderr
    [drawn] = re.findall(r'<svg [^>]*aria-label="Memory over the time of step 4".*?</svg>', done.stdout, flags=re.DOTALL)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert [word for word in words if word.isalpha()] == ["ms", "forward", "backward"], words
    assert max(float(word) for word in words if re.fullmatch(r"[\d.]+", word) and float(word) < 50) == 2, words
    assert 'data-hover="ms 400 (optimizer): gradients 0, activations and all else 0"' in done.stdout


def test_the_settings_that_are_not_the_defaults_come_first():
    """The others are there, too, in their order."""
    settings = {"task": "x", "batch_size": 16, "epochs": 7, "seed": 42}
    page = render([Record("a", RunDocument(settings=settings))])
    assert [page.index(f"<td>{name}</td>") for name in ("task", "epochs", "batch_size", "seed")] == sorted(
        page.index(f"<td>{name}</td>") for name in settings
    )
