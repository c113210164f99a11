"""The model card: README.md of a finished run, which the Hub shows, and which says how to load and how to repeat it.

It is made from run.json and metrics.jsonl, so it claims nothing that does not stand there. Names and labels come from
data: they are escaped. Folders of the machine stay out of it; a file keeps its name. Next: commands/push.py, which uploads it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from engine.artifacts.document import RunDocument, dumps, loads
from engine.checked import read_bytes
from engine.config import TrainConfig
from engine.data.hub import quietly
from engine.data.places import is_there
from engine.data.sources import Source, SourceConfig
from engine.findings.slices import Slice
from engine.installed import program
from engine.model import lora
from engine.optimizer import describe_optimizer
from engine.record.figures import by_set, figures_in_line, figures_in_metrics
from engine.record.log import LogLine
from engine.settings.fields import is_address, settings_where, user_path
from engine.task import Task

MAX_ROWS, MAX_LABELS, MAX_WEAKNESSES = 20, 100, 5
MOST_CARD_BYTES, MOST_NAME = 1 << 20, 200  # of a card that somebody else has written; characters of a name in it
SPECIAL = re.compile(r"[\\`*{}\[\]<>#|~&$@]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.")  # Markdown, HTML and bare links


def make(task: Task[Any], model: nn.Module, name: str, document: RunDocument, log: Sequence[LogLine]) -> str:
    """The card of the run called ``name``: ``document`` is its run.json, ``log`` the lines of its metrics.jsonl."""
    from huggingface_hub import ModelCard

    document = without_folders(document)
    parts = [introduction(name, document), usage(task, model, name), results(document, log), training(task, document)]
    return str(ModelCard(f"---\n{metadata(task, model, name, document)}\n---\n\n" + "\n\n".join(parts) + "\n"))


def base_of(source: Source) -> dict[str, str | None]:
    """``{"base_model": its name on the Hub, "license": ...}`` of the checkpoint that training starts from; None: unknown.

    Both come from the checkpoint's own card, in its folder or on the Hub: one line each, whatever stands there.
    """
    from huggingface_hub import ModelCard

    if (taken := source.taken_model) is None:  # a model built in Python
        return {"base_model": None, "license": None}
    path = taken.path
    try:
        if Path(path).is_dir():
            data = ModelCard(read_bytes(Path(path) / "README.md", MOST_CARD_BYTES).decode("utf-8-sig")).data
        else:
            data = quietly(ModelCard.load)(path).data
    except Exception:  # no card, or one that nobody can read: the libraries raise a dozen kinds
        data = {}
    found = {key: data.get(key) for key in ("base_model", "license")}
    found["base_model"] = taken.hub_name or found["base_model"]
    return {key: one_line(value)[:MOST_NAME] if isinstance(value, str) else None for key, value in found.items()}


def hub_name(source: Source, path: str) -> str | None:
    """What the Hub calls the checkpoint that was loaded from ``path``; None for a folder of the user's."""
    if (taken := source.taken_model) is not None and taken.path == path:
        return taken.hub_name
    return None if Path(path).is_dir() else path


# --------------------------------------------------------------------------------------------------------- its parts


def metadata(task: Task[Any], model: nn.Module, name: str, document: RunDocument) -> str:
    """The YAML block that the Hub reads."""
    from huggingface_hub import EvalResult, ModelCardData
    from transformers import PreTrainedModel

    settings, base = document.settings, document.base_model
    dataset, figures = document.data.hub_name, figures_of(document)
    library = task.library if isinstance(model, PreTrainedModel) else "peft" if lora.plain(model) is not model else None
    where: dict[str, Any] = {
        "task_type": task.pipeline_tag,
        "dataset_type": dataset or "other",
        "dataset_name": one_line(dataset or document.data.source or "given in Python"),
        "dataset_config": settings.get("data_config"),
        "dataset_revision": settings.get("data_revision"),
    }
    measured = [
        EvalResult(**where, dataset_split=each or None, metric_type=metric, metric_value=value)
        for each, found in by_set(figures).items()
        for metric, value in found.items()
    ]
    return ModelCardData(  # type: ignore[no-any-return]
        base_model=base.get("base_model"),
        license=base.get("license"),
        datasets=[dataset] if dataset else None,
        library_name=library,
        pipeline_tag=task.pipeline_tag,
        metrics=list(dict.fromkeys(each.metric_type for each in measured if each.metric_type != "loss")) or None,
        tags=["plainloop"],
        model_name=one_line(name),
        eval_results=measured if measured and task.pipeline_tag else None,
    ).to_yaml()


def introduction(name: str, document: RunDocument) -> str:
    start, source = document.model or "a model built in Python", document.data.source or "data given in Python"
    named = document.base_model.get("license")
    licence = f" (licence: {escaped(named)})" if named else ""
    sizes = ", ".join(f"{number:,} {split}" for split, number in document.data.num_examples.items())
    return f"# {escaped(name)}\n\nFine-tuned from {escaped(start)}{licence} on {escaped(source)}: {sizes} examples."


def usage(task: Task[Any], model: nn.Module, name: str) -> str:
    """Code that loads the model, and the labels it gives."""
    plain = lora.plain(model)
    kind = type(plain).__name__
    code = [f"name = {name!r}  # this folder, or the model's name on the Hub"]
    if plain is not model:
        base = hub_name(task.source, plain.name_or_path) or Path(plain.name_or_path).name
        code = ["from peft import PeftModel", f"from transformers import AutoConfig, {kind}", "", *code,
                f"base = {kind}.from_pretrained({base!r}, config=AutoConfig.from_pretrained(name))",
                "model = PeftModel.from_pretrained(base, name)"]  # fmt: skip
    else:
        of_pipeline = "from transformers import pipeline", f"pipeline({task.pipeline_tag!r}, model=name)"
        of_class = f"from transformers import {kind}", f"{kind}.from_pretrained(name)"
        imports, loaded = task.loading or (of_pipeline if task.pipeline_tag else of_class)
        code = [imports, "", *code, f"model = {loaded}"]
    names = task.label_names(model)
    shown = ", ".join(escaped(str(name)) for name in names[:MAX_LABELS])
    more = f" and {len(names) - MAX_LABELS} more" if len(names) > MAX_LABELS else ""
    labels = f"\n\nLabels, in order: {shown}{more}." if names else ""
    return "## Use\n\n" + fenced("\n".join(code), "python") + labels


def results(document: RunDocument, log: Sequence[LogLine]) -> str:
    """The figures of the model that was kept, and how they came about."""
    metrics, figures = document.metrics or {}, figures_of(document)
    title = "## Results\n\n"
    if figures:
        title += f"On the evaluation data:\n\n{table(list(figures), [list(figures.values())])}\n\n"
    else:
        title += f"Not evaluated; the mean training loss was {shown_as(metrics['train_loss'])}.\n\n"
    return f"{title}In the course of training ({metrics['num_steps']} steps):\n\n{curves(log)}"


def weaknesses(slices: Sequence[Slice], about: str) -> str:
    """What evaluate --errors has found to be worse than elsewhere, beyond chance; "" for nothing."""
    worse = [part for part in slices if part.is_worse][:MAX_WEAKNESSES]
    lines = [
        f"- {escaped(part.kind)} {escaped(part.value[:MOST_NAME])}: accuracy {part.accuracy:.3f} ± {part.error:.3f} on "
        f"{part.rows:,} rows, {part.rest:.3f} on the others (p = {part.adjusted:.1g})"
        for part in worse
    ]
    how = (
        f"Of {escaped(about)}, {len(slices)} parts were tested (Fisher's exact test, Holm's correction). Worse than elsewhere:"
    )
    return "\n".join([how, "", *lines]) if lines else ""


def curves(log: Sequence[LogLine]) -> str:
    """A row for each evaluation (or epoch, without any), with the training loss logged last; some, if many."""
    kind = "eval" if any(line.kind == "eval" for line in log) else "epoch"
    rows = [
        {"epoch": line.epoch, "step": line.step, "training loss": line.training_loss}
        | (figures_in_line(line.values) if kind == "eval" else {})
        for line in log
        if line.kind == kind
    ]
    if len(rows) > MAX_ROWS:
        rows = [rows[round(i * (len(rows) - 1) / (MAX_ROWS - 1))] for i in range(MAX_ROWS)]
    return table(list(rows[0]), [list(row.values()) for row in rows]) if rows else "(nothing was logged)"


def training(task: Task[Any], document: RunDocument) -> str:
    """Settings, machine, versions, and the command."""
    metrics, settings = document.metrics or {}, document.settings
    shown = {name: settings.get(name) for name in settings_where(lambda traits: traits.in_card, TrainConfig)}
    shown |= changed(task, TrainConfig, settings) | changed(task, type(task).Options, settings)
    shown |= {"max_length": task.max_length, "precision": document.precision, "batching": document.batching}
    said = [[name.replace("_", " "), value] for name, value in shown.items() if value is not None and name != "task"]
    versions = ", ".join(f"{escaped(package)} {escaped(number)}" for package, number in document.versions.items())
    decay = settings.get("ema_decay")
    averaged = "" if decay is None else f" Saved is an exponential moving average of the weights (decay {decay:g})."
    again = command(task, settings)
    how = fenced(again, "bash") if again else "Made from Python, with `engine.fit.fit` and the settings above."
    for until, epochs in (document.plans or {}).items():
        how += f"\n\nUp to step {until} it was a run of {epochs} epochs, with its learning rates; `--resume` made it longer."
    return (
        f"## Training\n\n{table(['setting', 'value'], said)}\n\n"
        f"The optimizer is {describe_optimizer(settings)}.{averaged} {metrics['train_runtime']:.1f} s of training on "
        f"{escaped(document.device or '?')}. Versions: {versions}.\n\n## Repeat\n\n{how}"
    )


def command(task: Task[Any], settings: Mapping[str, Any]) -> str | None:
    """What to type for the same run, or None if no command makes it."""
    if settings.get("task") is None or task.source.given is not None:
        return None
    words = program().split()
    for kind in (TrainConfig, SourceConfig, type(task).Options):
        for name, value in changed(task, kind, settings).items():
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [f"{flag}={value}"] if str(value)[:1] in ("-", "") else [flag, str(value)]
    return shlex.join(words)


def changed(task: Task[Any], kind: type[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one dataclass that are not the task's defaults, without the local ones."""
    defaults = {field.name: task.defaults.get(field.name, field.default) for field in dataclasses.fields(kind)}
    local = settings_where(lambda traits: traits.local, kind)
    names = [name for name in defaults if name not in local and settings.get(name) is not None]
    return {name: settings[name] for name in names if settings[name] != defaults[name]}


# ----------------------------------------------------------------------------------------------------- what is shown


def figures_of(document: RunDocument) -> dict[str, float]:
    """The evaluation's figures of the model that was kept, without its timings."""
    return {name: value for name, value in figures_in_metrics(document.metrics or {}).items() if value is not None}


def without_folders(document: RunDocument) -> RunDocument:
    """run.json with the paths among its settings cut to their last name, wherever they stand in it.

    Each of several files is cut by itself, and the address of one loses what may be a secret: its user, and what follows a "?".
    """
    lists = settings_where(lambda traits: traits.several, SourceConfig)
    values = {name: value for name, value in document.settings.items() if isinstance(value, str)}
    pieces = [each for name, value in values.items() for each in (files_in(value) if name in lists else [value])]
    short = {path: Path(path).name for path in pieces if not is_address(path) and is_path(path)}
    short |= {str(user_path(path)): name for path, name in short.items()}
    short |= {file: without_secrets(file) for name in lists for file in files_in(values.get(name, "")) if is_address(file)}
    text = dumps(document)
    for path in sorted(short, key=len, reverse=True):
        text = text.replace(json.dumps(path)[1:-1], json.dumps(short[path])[1:-1])
    return loads(text)


def files_in(value: str) -> list[str]:
    """The files of a setting that names several, without the names of evaluation sets, as they stand there."""
    return [value] if is_there(value) else [re.sub(r"^[\w-]+=", "", piece) for piece in value.split(",")]


def without_secrets(address: str) -> str:
    """An address without its user, and without what follows a "?"."""
    return re.sub(r"(?<=://)[^/@]*@", "", address.partition("?")[0].partition("#")[0])


def is_path(value: str) -> bool:
    """``/data/t.csv``, ``../t.csv``, ``lists/t.csv`` if it is there; not the name of a Hub model."""
    if not Path(value).name or Path(value).name == value:
        return False
    suffixed = Path(value.partition(":")[0]).suffix in (".py", ".csv", ".tsv", ".jsonl", ".parquet", ".txt")
    return value.startswith(("/", "~/", "./", "../")) or suffixed or Path(value).exists()


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    cells = [[escaped(shown_as(cell)) for cell in row] for row in (head, *rows)]
    lines = [cells[0], ["---"] * len(head), *cells[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown_as(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def one_line(text: str) -> str:
    """The text without line breaks, control characters and half characters."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def escaped(text: str) -> str:
    """Text that Markdown shows as it stands: one line, no links, no HTML, no table cell that ends early."""
    return SPECIAL.sub(r"\\\g<0>", one_line(text))


def fenced(code: str, language: str) -> str:
    """A code block whose fence no line of it can close."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    clean = "".join(c if c.isprintable() or c == "\n" else " " for c in code)
    return f"{fence}{language}\n{clean}\n{fence}"
