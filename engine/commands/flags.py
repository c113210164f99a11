"""The settings of the engine's own commands. No torch in here: ``--help`` answers at once.

What ``predict`` and ``evaluate`` are told about a task's data, the tasks add in subclasses of PredictConfig and
EvaluateConfig: settings with ``replaces_run``, which take the place of those of the same name in the finished run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from engine.data.files import check_form
from engine.data.form import COLUMN_NAMES, DELIMITER, ENCODING, QUOTING, Form
from engine.data.model_settings import refuse_missing_model
from engine.data.places import sets_of
from engine.data.remote import check_address
from engine.errors import UsageError
from engine.installed import program
from engine.settings.fields import most_workers, require, setting, settings_where, user_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

EXCEL_SAFE = "put a ' before CSV cells that a spreadsheet would take for a formula"


def require_csv(excel_safe: bool, name: str | None, flag: str = "--output") -> None:
    """Raises UsageError for ``--excel-safe`` without a CSV file."""
    if excel_safe and not (name or "").lower().endswith(".csv"):
        raise UsageError(f"--excel-safe is for CSV files: give {flag} FILE.csv")


@dataclass(frozen=True)
class PredictConfig:
    """Settings of ``predict``; what a subclass adds with ``replaces_run`` are names of columns of ``input``."""

    model: str = setting("", "directory of a finished run, or any model directory or Hub name; or bare, first")
    input: str | None = setting(
        None,
        "CSV, TSV, JSON, JSONL, Parquet, Arrow or text file to predict, or several; - for lines of text from standard input",
        several=True,
    )
    output: str | None = setting(None, "CSV or JSONL file for the predictions (default: print them)")
    id_column: str | None = setting(None, "column that names the rows, no two alike (default: id, where there is one)")
    excel_safe: bool = setting(False, EXCEL_SAFE)
    delimiter: str | None = setting(None, DELIMITER)
    encoding: str | None = setting(None, ENCODING)
    quoting: Literal["csv", "none", "backslash"] | None = setting(None, QUOTING)
    column_names: str | None = setting(None, COLUMN_NAMES)
    resume: bool = setting(False, "go on where a call with this --output was stopped; the file is the same to the byte")
    num_processes: int | None = setting(
        None,
        "processes that predict a file, each with one thread; how many changes speed only (default: this one, its threads)",
    )
    task: str | None = setting(None, "for a task of your own FILE.py:CLASS; for a model without run.json its task")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require_csv(self.excel_safe, self.output)
        number = self.num_processes
        require(self, "num_processes", number is None or 1 <= number <= most_workers(), f"must be 1 to {most_workers()} here")
        if self.resume and not self.output:
            raise UsageError("--resume goes on with a file: give the --output FILE of the call that was stopped")


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of ``evaluate``."""

    model: str = setting("", "directory of a finished run, or any model directory or Hub name; or bare, first")
    file: str | None = setting(
        None,
        "labelled file to evaluate on, or several; NAME=FILE for each of several sets (default: the run's own evaluation data)",
        several=True,
    )
    output: str | None = setting(None, "JSON file for the figures (they are printed in any case)")
    errors: str | None = setting(
        None,
        "CSV file for the rows that are wrong, the surest first (of numbers the furthest off); errors.csv in the model's "
        "directory is shown in its report",
    )
    rows: str | None = setting(
        None,
        "JSON file for the loss of each row, and whether it is right; rows.json in the model's directory is what compare pairs "
        "runs by",
    )
    slice: str | None = setting(
        None,
        "with --errors: column of the data, or several: for which of its values is the model worse?",
        several=True,
    )
    excel_safe: bool = setting(False, f"{EXCEL_SAFE}, in --errors")
    calibrate: bool = setting(
        False,
        "learn from one half of the rows the temperature that makes probabilities worth believing, show on the other half what "
        "it does, and keep it with the model",
    )
    threshold: Literal["auto", "none"] | None = setting(
        None,
        "auto: the same for the probabilities above which a label counts, of several labels each, or of two classes the "
        "second: where F1 is highest; none: 0.5 again",
    )
    max_eval_examples: int | None = setting(
        None, "evaluate on a random subset of this size; 0: all (default: as in training)", replaces_run=True
    )
    delimiter: str | None = setting(None, DELIMITER, replaces_run=True)
    encoding: str | None = setting(None, ENCODING, replaces_run=True)
    quoting: Literal["csv", "none", "backslash"] | None = setting(None, QUOTING, replaces_run=True)
    column_names: str | None = setting(None, COLUMN_NAMES, replaces_run=True)
    task: str | None = setting(None, "for a task of your own FILE.py:CLASS; for a model without run.json its task")
    eval_batch_size: int = setting(32, "examples per batch; changes speed only")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting("auto", "auto: that of the training run, if the device has it")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    workers: int = setting(0, "processes that load data")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require_csv(self.excel_safe, self.errors, "--errors")
        if self.slice is not None and not self.errors:
            raise UsageError("--slice says which parts of the data --errors looks at: give --errors FILE.csv, too")
        require(self, "eval_batch_size", self.eval_batch_size >= 1, "must be at least 1")
        require(self, "workers", 0 <= self.workers <= most_workers(), f"must be 0 to {most_workers()} on this machine")


@dataclass(frozen=True)
class MonitorConfig:
    """Settings of ``monitor``."""

    tasks: ClassVar[tuple[str, ...]] = ()  # whose data can be watched, by their names

    model: str = setting("", "directory of a finished run, or any model directory or Hub name; or bare, first")
    input: str = setting("", "CSV, TSV, JSON, JSONL, Parquet, Arrow or text file of new rows, or several", several=True)
    reference: str | None = setting(
        None,
        "file, or several, that the new rows are compared with, last month's say: rows that the model was not trained on "
        "(default: the profile that training has left in the run)",
        several=True,
    )
    output: str | None = setting(None, "folder for report.html and monitor.json; made if it is not there (default: print only)")
    fail_on_drift: bool = setting(False, "exit with 8 where a drift is called")
    alpha: float = setting(0.001, "a drift is called where p, after Holm's correction over all features, is below this ...")
    least_effect: float = setting(0.1, "... and the distance of the distributions, 0 to 1, is at least this")
    labels: Literal["auto", "none"] = setting(
        "auto",
        "auto: where the new rows have the label's column, they are compared, and the model is measured; none: it is left",
    )
    delimiter: str | None = setting(None, DELIMITER, replaces_run=True)
    encoding: str | None = setting(None, ENCODING, replaces_run=True)
    quoting: Literal["csv", "none", "backslash"] | None = setting(None, QUOTING, replaces_run=True)
    column_names: str | None = setting(None, COLUMN_NAMES, replaces_run=True)
    task: str | None = setting(None, "for a task of your own FILE.py:CLASS; for a model without run.json its task")
    eval_batch_size: int = setting(32, "examples per batch; changes speed only")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting("auto", "auto: that of the training run, if the device has it")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    workers: int = setting(0, "processes that load data")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require(self, "input", bool(self.input), "must name a file of new rows")
        require(self, "alpha", 0 < self.alpha < 1, "must lie between 0 and 1")
        require(self, "least_effect", 0 <= self.least_effect <= 1, "must be 0 to 1")
        require(self, "eval_batch_size", self.eval_batch_size >= 1, "must be at least 1")
        require(self, "workers", 0 <= self.workers <= most_workers(), f"must be 0 to {most_workers()} on this machine")


@dataclass(frozen=True)
class UpdateConfig:
    """Settings of ``update``."""

    tasks: ClassVar[tuple[str, ...]] = ()  # whose models can be updated, by their names

    model: str = setting("", "directory of a finished run; or bare, first")
    train_file: str | None = setting(
        None, "labelled file of new rows to train on, or several, in the form of the run's own", several=True
    )
    old_rows: Literal["same", "all", "none"] = setting(
        "same",
        "of the run's own training rows: as many as there are new ones, drawn at random, so that what was learned is not "
        "forgotten; all; or none",
    )
    eval_file: str | None = setting(
        None, "labelled file, or several, on which the new model must not be worse, either (always: the run's evaluation rows)",
        several=True,
    )  # fmt: skip
    margin: float = setting(
        0.0, "the new model is kept if its accuracy is at most so much lower, with 95% confidence; 0: it has to be shown to be "
        "no worse at all",
    )  # fmt: skip
    epochs: int = setting(1, "passes over these rows; with several the best is kept, by the run's own metric")
    learning_rate: float | None = setting(None, "peak learning rate (default: the run's)")
    rollback: bool = setting(False, "put back the model that the last update has replaced, which stands beside it")
    overwrite: bool = setting(False, "begin anew where an update with other rows was not kept, or not finished")
    task: str | None = setting(None, "for a task of your own FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    workers: int = setting(0, "processes that load data")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require(self, "margin", 0 <= self.margin < 1, "must be at least 0 and less than 1")
        require(self, "epochs", self.epochs >= 1, "must be at least 1")
        require(self, "workers", 0 <= self.workers <= most_workers(), f"must be 0 to {most_workers()} on this machine")
        rate = self.learning_rate
        require(self, "learning_rate", rate is None or 0 < rate < float("inf"), "must be a positive finite number")
        require(
            self,
            "train_file",
            bool(self.train_file or self.rollback),
            "must name a file of new rows, unless --rollback is given",
        )


@dataclass(frozen=True)
class ServeConfig:
    """Settings of ``serve``."""

    watched: ClassVar[tuple[str, ...]] = ()  # tasks whose inputs can be logged, by their names

    model: str = setting("", "directory of a finished run, or any model directory or Hub name; or bare, first")
    format: Literal["onnx"] | None = setting(
        None,
        "onnx: the model is a folder that export --format onnx has written, computed by onnxruntime (default: by torch)",
    )
    host: str = setting("127.0.0.1", "address to listen at: this machine alone; 0.0.0.0: all that reach it")
    port: int = setting(8000, "port to listen at; 0: any that is free")
    token_file: str | None = setting(
        None, "file with the token that requests must bring (default: the environment variable PLAINLOOP_TOKEN; else none)"
    )
    allow_host: str | None = setting(
        None, "name under which the server may be called, or several (default: of this machine; any, at another --host)",
        several=True,
    )  # fmt: skip
    max_batch: int = setting(32, "inputs computed together at most; 1: one by one")
    queue: int = setting(1024, "inputs that may wait; more are answered with 429")
    max_body: int = setting(1 << 20, "bytes of a request's body at most")
    max_texts: int = setting(128, "inputs of a request at most")
    max_characters: int = setting(50_000, "characters of an input at most")
    max_connections: int = setting(512, "connections at most; more are answered with 503")
    timeout: float = setting(30.0, "seconds of a request at most, from its head to its answer")
    quiet: bool = setting(False, "no line for each request")
    profile_log: str | None = setting(
        None,
        "JSONL file for numbers that describe each input (length, rarity of its words, answer ...), and no text: monitor "
        "--input compares it with the run",
    )
    profile_log_texts: bool = setting(False, "with --profile-log: the texts themselves, too")
    task: str | None = setting(None, "for a task of your own FILE.py:CLASS; for a model without run.json its task")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form, and where a request fails")

    def __post_init__(self) -> None:
        require(self, "port", 0 <= self.port <= 65535, "must be 0 to 65535")
        for name in ("max_batch", "max_body", "max_texts", "max_characters", "max_connections"):
            require(self, name, getattr(self, name) >= 1, "must be at least 1")
        require(self, "timeout", 0 < self.timeout <= 86400, "must be positive, and at most 86400")
        if self.profile_log_texts and not self.profile_log:
            raise UsageError("--profile-log-texts says what stands in --profile-log FILE: give that, too")
        if self.queue < max(self.max_texts, self.max_batch):
            raise UsageError(
                f"--queue must have room for a request and a batch: at least --max-texts {self.max_texts} and "
                f"--max-batch {self.max_batch}, found {self.queue}"
            )


@dataclass(frozen=True)
class PushConfig:
    """Settings of ``push``."""

    model: str = setting("", "directory of a finished run")
    repo: str = setting("", "name on the Hub: NAME or ORGANISATION/NAME; made if it is not there")
    dry_run: bool = setting(False, "list what would go, with sizes and hashes, and what would be refused; nobody is asked")
    public: bool = setting(False, "let everybody see it (default: a private repository)")
    with_metrics: bool = setting(False, "push metrics.jsonl, too")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require(self, "model", bool(self.model), "must name the directory of a finished run")
        require(self, "repo", bool(self.repo) or self.dry_run, "must name a repository on the Hub")


@dataclass(frozen=True)
class ExportConfig:
    """Settings of ``export``."""

    tasks: ClassVar[tuple[str, ...]] = ()  # that can be exported, by their names

    model: str = setting("", "directory of a finished run; or bare, first")
    format: Literal["onnx", "torch"] = setting("onnx", "onnx: for onnxruntime; torch: a torch.export program")
    int8: bool = setting(False, "weights of matrix products in 8 bits (onnxruntime's dynamic quantisation)")
    max_loss: float = setting(0.01, "by how much --int8 may make the run's metric worse; above it nothing is written")
    output: str = setting("", "folder to make")
    file: str | None = setting(
        None, "labelled file to check on, or several (default: the run's own evaluation data)", several=True
    )
    max_eval_examples: int | None = setting(None, "check on a random subset of this size; 0: all (default: as in training)")
    task: str | None = setting(None, "for a task of your own FILE.py:CLASS; for a model without run.json its task")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require(self, "output", bool(self.output), "must name a folder to make")
        require(self, "max_loss", self.max_loss >= 0, "must be a number of at least 0")


@dataclass(frozen=True)
class ReportConfig:
    """Settings of ``report``."""

    model: str = setting("", "directory of a run, finished or not")
    output: str | None = setting(None, "HTML file (default: report.html in the directory)")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")


@dataclass(frozen=True)
class CompareConfig:
    """Settings of ``compare``."""

    output: str = setting("compare.html", "HTML file")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")


@dataclass(frozen=True)
class EnvConfig:
    """Settings of ``env``."""

    output_dir: str = setting("runs", "the directory whose disk is looked at")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")


C = TypeVar("C", bound="DataclassInstance")


def with_model(config: C, texts: Sequence[str], example: str) -> tuple[C, Sequence[str]]:
    """The model by --model, or bare and first: ``predict runs/mine "a text"``. Raises UsageError where there is none."""
    if config.model:  # type: ignore[attr-defined]
        return config, texts
    if not texts:
        raise UsageError(f"name a model: {program()} {example}")
    name = texts[0]
    if any(letter.isspace() for letter in name) and not user_path(name).exists():
        raise UsageError(f"{name!r} is no model, and the model comes first: {program()} {example}")
    return replace(config, model=name), texts[1:]  # type: ignore[arg-type]


def refuse_missing_files(config: Any, texts: Sequence[str]) -> None:
    """Raises ModelError, DataError for a model's folder or a file that a command is to read, and that is not there.

    Before the command is imported, and torch with it, which takes seconds. ``texts``: of which the first may be the model.
    """
    if hasattr(config, "device"):  # it uses a model
        names = getattr(config, "models", None) or [getattr(config, "model", "") or next(iter(texts), "")]
        for name in (name for name in names if not any(letter.isspace() for letter in name)):
            refuse_missing_model(name)
    form = Form.of(config) if hasattr(config, "delimiter") else Form()
    for flag in ("input", "file", "corpus", "reference", "train_file", "eval_file"):
        if flag == "input" and len(texts) > (0 if getattr(config, "model", "") else 1):
            continue  # one of the two is too many, which the command says
        if (value := getattr(config, flag, None)) and value != "-":
            name_of = f"--{flag.replace('_', '-')}"
            for name in sets_of(value, name_of).values() if flag in ("file", "eval_file") else [value]:
                check_form(name, name_of, form, fetch=check_address)


def changes_in(config: PredictConfig | EvaluateConfig | MonitorConfig | ServeConfig) -> dict[str, Any]:
    """What a command says in place of the run's own settings; None: nothing."""
    return {name: getattr(config, name) for name in settings_where(lambda traits: traits.replaces_run, type(config))}
