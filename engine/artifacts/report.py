"""report.html: what a run did, as one file that loads nothing, for a browser, a phone, or paper.

It is drawn from run.json and metrics.jsonl alone, so it can be made again at any time (commands/report.py has the commands).
Whatever comes from data or a user is escaped by the template beside this file, whose Content-Security-Policy forbids every
request. Next: fit.py, which writes it at the end of a run.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader

from engine.artifacts.chart import MOST_CHARTS, Chart, chart, cut, drawable
from engine.artifacts.document import RunDocument
from engine.artifacts.profiled import boxes, operations, profiled, read_profile
from engine.checked import open_regular
from engine.config import TrainConfig
from engine.data.sources import SourceConfig
from engine.errors import DataError
from engine.findings import paired
from engine.findings.document import Findings
from engine.findings.document import read as read_findings
from engine.findings.rows import RowFigures
from engine.findings.rows import read as read_rows
from engine.record.figures import by_set, figures_in_line, figures_in_metrics
from engine.record.log import Log, LogLine, read_log
from engine.settings.fields import with_defaults

NUM_BARS = 30
DRIVING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # a terminal, or a text's direction
NO_LOG = Log()
PROFILE, MISTAKES = "profile/profile.json", "errors.csv"  # of a run: what --profile and a task's review() have found
SLICES = "errors.slices.csv"  # beside it
NUM_MISTAKES, NUM_SLICES = 10, 30  # shown, of those in the file
MOST_MISTAKES_BYTES = 64 << 20  # in which the first rows must lie
MOST_CLASSES = 200  # in the table
TAKEN = "as "  # begins the name of a figure of a class: how many of its rows were taken for that class
PAIRED = "On the same rows: each run beside the first, with Holm's correction"
CONFUSION = "Confusion: how many rows of each class were taken for which"


@dataclass(frozen=True)
class Record:
    """A run as it stands in its directory. ``document``: run.json; ``log``: metrics.jsonl; where they are there:
    ``profile``: profile/profile.json; ``mistakes``: errors.csv, header and rows; ``findings``: findings.json; ``rows``:
    rows.json."""

    name: str
    document: RunDocument
    log: Log = NO_LOG
    profile: Mapping[str, Any] | None = None
    mistakes: Sequence[Sequence[str]] = ()
    findings: Findings | None = None
    rows: Mapping[str, RowFigures] = field(default_factory=dict)

    def of_kind(self, kind: str) -> list[LogLine]:
        return [line for line in self.log.lines if line.kind == kind]

    def points(self, kind: str, key: str, scale: float = 1.0) -> list[list[float]]:
        """``[step, value]`` of the lines that have it."""
        found = [(line.step, line.values.get(key)) for line in self.of_kind(kind)]
        return [[step, value * scale] for step, value in found if value is not None]


def record_in(directory: Path, document: RunDocument, name: str) -> Record:
    """What a directory holds beside its run.json. Raises DataError for what a run does not write."""
    log = read_log(directory / "metrics.jsonl")
    mistakes = read_mistakes(directory / MISTAKES)
    profile = read_profile(directory / PROFILE)
    return Record(name, document, log, profile, mistakes, read_findings(directory), read_rows(directory))


def read_mistakes(path: Path) -> list[list[str]]:
    """The header and first rows of errors.csv; [] without one. Raises DataError."""
    csv.field_size_limit(MOST_MISTAKES_BYTES)  # texts of any length
    try:
        with open_regular(path) as stream:
            content = stream.read(MOST_MISTAKES_BYTES)
        start = codecs.getincrementaldecoder("utf-8")().decode(content, final=len(content) < MOST_MISTAKES_BYTES)
        if path.stat().st_mtime < (path.parent / "run.json").stat().st_mtime:
            return []  # of a model that was there before
        return list(islice(csv.reader(io.StringIO(start, newline="")), 1 + NUM_MISTAKES))
    except FileNotFoundError:
        return []
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is not what evaluate --errors writes ({error}): remove it, or write it anew") from error


def render(records: Sequence[Record]) -> str:
    """The page for one run, or for several laid over each other."""
    only = records[0] if len(records) == 1 else None
    return page(
        only.name if only else " and ".join(record.name for record in records),
        [*(subtitles(only.document) if only else []), *filter(None, map(thinned, records))],
        tiles(only.document.metrics) if only and only.document.metrics else [],
        sections(records),
        tables(only) if only else comparison(records),
        [command for record in records if (command := record.document.command)],
        advice=only.profile.get("advice", []) if only and only.profile else [],
        flame=boxes(only.profile) if only and only.profile else [],
    )


def page(
    title: str,
    subtitles: Sequence[str],
    tiles: Sequence[tuple[str, str]],
    sections: Sequence[tuple[str, Sequence[Chart]]],
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    commands: Sequence[str] = (),
    **more: Any,
) -> str:
    """The page itself: lines under its title, figures, charts and tables, each with a heading; and how it is repeated.

    ``more``: what the template shows of a profiled run.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    found = environment.get_template("report.html").render(
        title=title,
        subtitles=subtitles,
        tiles=tiles,
        sections=[(heading, shown) for heading, charts in sections if (shown := drawable(charts))],
        tables=tables,
        confusion=CONFUSION,
        commands=commands,
        **more,
    )
    return DRIVING.sub("\ufffd", found)


# ----------------------------------------------------------------------------------------------------------------- texts


def subtitles(document: RunDocument) -> list[str]:
    sizes = ", ".join(f"{number:,} {split}" for split, number in document.data.num_examples.items())
    facts = [document.status, document.device, document.precision, document.batching]
    return [
        f"Model: {document.model or 'given in Python'}",
        *([f"Data: {document.data.source} ({sizes} examples)"] if sizes else []),
        ", ".join(fact for fact in facts if fact),
    ]


def thinned(record: Record) -> str:
    """What a page has to say of a long log; "" of one that is drawn in full."""
    kept, num_lines = len(record.log.lines), record.log.num_lines
    return "" if kept == num_lines else f"{record.name}: the curves and tables show {kept:,} of {num_lines:,} log lines"


def tiles(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The evaluation's figures, and how long it took."""
    wanted = [f"eval_{name}" for name in figures_in_metrics(metrics)]
    wanted += ["train_loss", "train_runtime", "train_samples_per_second"]
    named = {"train_runtime": "train runtime, seconds"}
    return [
        (named.get(name, name.replace("_", " ")), figure(metrics[name])) for name in wanted if metrics.get(name) is not None
    ]


def figure(value: Any) -> str:
    """A number with four significant digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tables(record: Record) -> list[tuple[str, list[str], list[list[str]]]]:
    """(heading, columns, rows): evaluations, settings that were changed, all settings and versions."""
    found = []
    evaluations = record.of_kind("eval")
    if evaluations:
        names = list(figures_in_line(evaluations[0].values))[:MOST_CHARTS]
        rows = [[figure(e.epoch), str(e.step), *(figure(e.values.get(name)) for name in names)] for e in evaluations]
        found.append(("Evaluations", ["epoch", "step", *names], rows))
    if classes := record.document.classes:
        heads = [head for head in next(iter(classes.values())) if not head.startswith(TAKEN)]
        each = [[cut(name), *(figure(row.get(head)) for head in heads)] for name, row in islice(classes.items(), MOST_CLASSES)]
        more = f" (the first {MOST_CLASSES} of {len(classes)}; run.json has all)" if len(classes) > MOST_CLASSES else ""
        found.append((f"Classes{more}", ["class", *heads], each))
        if names := [head for head in next(iter(classes.values())) if head.startswith(TAKEN)][:MOST_CHARTS]:
            each = [
                [cut(name), *(figure(row.get(head)) for head in names)] for name, row in islice(classes.items(), MOST_CLASSES)
            ]
            found.append((CONFUSION, ["class", *map(cut, names)], each))
    if record.profile:
        found.append(("Hottest operations", *operations(record.profile)))
    if len(record.mistakes) > 1:
        header, *rows = [[cut(cell) for cell in row] for row in record.mistakes]
        what = "Largest errors" if header[-1] == "error" else "Most confident mistakes"
        heading = (
            f"{what} (the first {len(rows)} of {MISTAKES}; they hold texts of the data, which others may not be meant to see)"
        )
        found.append((heading, header, rows))
    if record.findings and record.findings.slices:
        found.append(slice_table(record.findings))
    defaults = with_defaults({}, TrainConfig, SourceConfig)
    settings = sorted(record.document.settings.items(), key=lambda each: each[1] == defaults.get(each[0]))  # stable
    rows = [[cut(name), "" if value is None else cut(str(value))] for name, value in settings]
    found.append(("Settings (first those that are not the engine's defaults)", [], rows))
    found.append(("Versions", [], [[name, str(value)] for name, value in record.document.versions.items()]))
    return [table for table in found if table[2]]


def slice_table(findings: Findings) -> tuple[str, list[str], list[list[str]]]:
    """(heading, columns, rows): where the model is worse, or better, than elsewhere."""
    heads = ["part of the rows", "value", "rows", "accuracy", "standard error", "others", "p", "p, Holm", "found"]
    rows = []
    for part in findings.slices[:NUM_SLICES]:
        *_, found = part.line()
        figures = [f"{each:.4f}" for each in (part.accuracy, part.error, part.rest)]
        rows.append([cut(part.kind), cut(part.value), str(part.rows), *figures, f"{part.p:.2g}", f"{part.adjusted:.2g}", found])
    return f"Slices{of_rows(findings.about)}: Fisher's exact test against all other rows, Holm's correction", heads, rows


def comparison(records: Sequence[Record]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Final figures side by side, and the settings in which the runs differ: what an older one does not have is its default."""
    names = list(dict.fromkeys(name for record in records for name in record.document.metrics or {}))
    figures = [[name, *(figure((record.document.metrics or {}).get(name, "-")) for record in records)] for name in names]
    settings = [with_defaults(record.document.settings, TrainConfig, SourceConfig) for record in records]
    names = [name for name in dict.fromkeys(key for each in settings for key in each)
             if any(each.get(name) != settings[0].get(name) for each in settings)]  # fmt: skip
    changed = [[name, *(str(each.get(name)) for each in settings)] for name in names]
    columns = ["", *(record.name for record in records)]
    found = [("Figures", columns, figures), ("Settings that differ", columns, changed)]
    if all(record.rows for record in records) and find_spec("scipy"):
        heads, rows = paired.table({record.name: record.rows for record in records})
        found.append((PAIRED, heads, rows))
    return [each for each in found if each[2] or each[0] != PAIRED]


# ---------------------------------------------------------------------------------------------------------------- charts


def sections(records: Sequence[Record]) -> list[tuple[str, list[Chart]]]:
    """(heading, charts). With several runs each chart has a line for each, and the stacked ones are left out."""
    only = len(records) == 1

    def each(kind: str, key: str, name: str, scale: float = 1.0) -> dict[str, list[list[float]]]:
        return {(name if only else f"{record.name} {name}".strip()): record.points(kind, key, scale) for record in records}

    def measured(name: str) -> dict[str, list[list[float]]]:
        """A figure of the evaluations: of several sets a line for each."""
        plain = "evaluation" if name == "loss" else "" if only else name
        found: dict[str, list[list[float]]] = {}
        for each_set in metrics[name]:
            found |= each("eval", f"{each_set}/{name}" if each_set else name, each_set or plain)
        return found

    metrics: dict[str, dict[str, None]] = {"loss": {}}  # the evaluation sets that have it
    for line in (line for record in records for line in record.of_kind("eval")):
        for each_set, figures in by_set(figures_in_line(line.values)).items():
            for name in figures:
                metrics.setdefault(name, {})[each_set] = None
    learning = [
        chart("Loss", "mean over items", each("train", "loss", "training") | measured("loss")),
        *(chart(name, "evaluation", measured(name)) for name in islice(metrics, 1, MOST_CHARTS)),
        chart("Learning rate", "of the step", each("train", "learning_rate", "" if not only else "learning rate")),
        chart("Gradient norm", "2-norm before clipping", each("train", "grad_norm", "" if not only else "gradient norm")),
    ]
    speed = [
        chart("Throughput", "real tokens a second", each("train", "tokens_per_second", "" if not only else "tokens/s")),
        chart("Model FLOPs", "GFLOP/s", each("train", "tflops", "" if not only else "GFLOP/s", 1000)),
        chart("Model FLOPs utilisation", "% of the device's peak", each("train", "mfu", "" if not only else "MFU", 100)),
        chart("Memory", "GiB at most so far", each("train", "memory_gb", "" if not only else "GiB")),
    ]
    found = [("Learning", learning), ("Where the time goes", speed)]
    if only:
        speed[:0] = single(records[0])
        if records[0].findings and (records[0].findings.curves or records[0].findings.learned):
            found.insert(1, (f"How sure it may be{of_rows(records[0].findings.about)}", reliability(records[0].findings)))
    return found


def of_rows(about: str) -> str:
    return f" ({about})" if about else ""


def reliability(findings: Findings) -> list[Chart]:
    """How often what is claimed is so, beside how often it would be if it were claimed rightly; and how much is claimed."""
    found = {**{name or "model": bins for name, bins in findings.curves.items()}, **findings.learned}
    curves = {name: [[claimed / number, so / number] for number, claimed, so in bins if number] for name, bins in found.items()}
    counts = {name: [[(i + 0.5) / len(bins), row[0]] for i, row in enumerate(bins)] for name, bins in found.items()}
    how = {"x": "confidence", "fractions": True}
    return [
        chart("Reliability", "share that is right, by confidence", {"as claimed": [[0.0, 0.0], [1.0, 1.0]]} | curves, **how),
        *(chart(f"Confidence, {name}", "answers", {name: points}, bars=True, **how) for name, points in counts.items()),
    ]


def single(record: Record) -> list[Chart]:
    """Charts that make sense for one run only."""
    lines = record.of_kind("train")
    phases = dict.fromkeys(name for line in lines for name in line.seconds)
    time = {
        name: [[line.step, 1000 * line.seconds.get(name, 0.0) / line.num_steps] for line in lines]
        for name in islice(phases, MOST_CHARTS)
    }
    waste = {
        "padding": record.points("train", "padding_waste", 100),
        "if padded to the longest row": record.points("train", "waste_if_padded", 100),
    }
    charts = [
        chart("Time of a step", "ms, by phase", time, stacked=True),
        chart("Padding", "% of the tokens computed", waste),
    ]
    if record.profile:
        charts += profiled(record.profile)
    lengths = record.document.data.lengths
    if lengths:
        middles = [(a + b) / 2 for a, b in zip(lengths["edges"], lengths["edges"][1:], strict=False)]
        points = [[x, y] for x, y in zip(middles, lengths["counts"], strict=True)]
        charts.append(chart("Lengths", "training examples", {"examples": points}, bars=True, x="tokens"))
    return charts


def histogram(lengths: np.ndarray) -> dict[str, list[float]]:
    """Counts of token counts in at most 30 bins of whole tokens, for run.json."""
    width = max(1, -(-(int(lengths.max()) - int(lengths.min()) + 1) // NUM_BARS))
    edges = np.arange(int(lengths.min()), int(lengths.max()) + 1 + width, width)
    counts, _ = np.histogram(lengths, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
