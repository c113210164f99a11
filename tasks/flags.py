"""The settings of the tasks' own commands, and what the tasks add to those of ``predict`` and ``evaluate``.

No torch in here: ``python run.py COMMAND --help`` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from engine.commands.flags import EXCEL_SAFE, EvaluateConfig, PredictConfig, require_csv
from engine.data.form import COLUMN_NAMES, DELIMITER, ENCODING, QUOTING
from engine.errors import UsageError
from engine.settings.fields import require, setting
from tasks.options import ALLOW_URLS, DEFAULT_TASK, IMAGE_FOLDER, N_BEST, NO_ANSWER

TASK = f"for a task of your own FILE.py:CLASS; for a model without run.json its task (default: {DEFAULT_TASK})"


def column(of: str, before: str) -> str | None:
    """The setting of a column of the data, listed before another setting."""
    return setting(None, f"column of {of} (default: as in training)", replaces_run=True, before=before)  # type: ignore[no-any-return]


def no_answer() -> Any:
    """The setting of whether there may be no answer."""
    return setting(None, NO_ANSWER.format("as in training"), replaces_run=True, before="task")


def pictures(default: Any, what: str) -> Any:
    """A setting of what the names of pictures in the data may stand for."""
    return setting(default, what, replaces_run=True, before="task")


@dataclass(frozen=True)
class PredictFlags(PredictConfig):
    """Settings of ``predict``, with the columns of the tasks."""

    task: str | None = setting(None, TASK)
    text_column: str | None = column("the text", before="id_column")
    text_pair_column: str | None = column("the second text", before="id_column")
    question_column: str | None = column("the question", before="id_column")
    context_column: str | None = column("the text that it is asked of", before="id_column")
    no_answer: Literal["yes", "no"] | None = no_answer()
    n_best: int | None = setting(None, N_BEST, replaces_run=True, before="task")
    image_folder: str | None = pictures(None, IMAGE_FOLDER)
    allow_urls: bool = pictures(False, ALLOW_URLS)


@dataclass(frozen=True)
class EvaluateFlags(EvaluateConfig):
    """Settings of ``evaluate``, with the columns of the tasks."""

    task: str | None = setting(None, TASK)
    text_column: str | None = column("the text", before="delimiter")
    text_pair_column: str | None = column("the second text", before="delimiter")
    question_column: str | None = column("the question", before="delimiter")
    context_column: str | None = column("the text that it is asked of", before="delimiter")
    answers_column: str | None = column("the answers", before="delimiter")
    label_column: str | None = column("the label", before="delimiter")
    label_values: Literal["auto", "names", "ids", "onehot"] | None = setting(
        None, "what label cells hold (default: as in training)", replaces_run=True, before="delimiter"
    )
    label_separator: str | None = setting(
        None, "between the labels in a CSV cell (default: as in training)", replaces_run=True, before="delimiter"
    )
    no_answer: Literal["yes", "no"] | None = no_answer()
    image_folder: str | None = pictures(None, IMAGE_FOLDER)
    allow_urls: bool = pictures(False, ALLOW_URLS)


@dataclass(frozen=True)
class FillConfig:
    """Settings of ``fill``."""

    model: str = setting("", "directory of a finished run, or any masked language model's directory or Hub name")
    top_k: int = setting(5, "tokens shown for each mask")
    task: str = setting("mlm", "mlm, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require(self, "top_k", self.top_k >= 1, "must be at least 1")


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of ``generate``."""

    model: str = setting("", "directory of a finished run, or any causal language model's directory or Hub name")
    max_new_tokens: int = setting(50, "tokens written at most")
    temperature: float | None = setting(None, "draw at random, the more freely the higher (default: the most probable token)")
    top_p: float | None = setting(None, "draw at random from the most probable tokens that make up this share")
    no_repeat_ngram_size: int = setting(0, "no sequence of so many tokens occurs twice; 0: any may")
    num_return_sequences: int = setting(1, "texts for each prompt")
    seed: int = setting(42, "of what is drawn")
    chat: bool = setting(False, "the prompt is a user's message, in the model's own chat template; prints the answer alone")
    task: str = setting("clm", "clm, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_return_sequences"):
            require(self, name, getattr(self, name) >= 1, "must be at least 1")
        require(self, "no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "must not be negative")
        require(self, "temperature", self.temperature is None or 0 < self.temperature < float("inf"), "must be positive")
        require(self, "top_p", self.top_p is None or 0 < self.top_p <= 1, "must be positive and at most 1")
        if self.num_return_sequences > 1 and not self.sampled:
            raise UsageError("--num-return-sequences: the most probable text is one; draw some with --temperature or --top-p")

    @property
    def sampled(self) -> bool:
        """Is anything drawn at random?"""
        return self.temperature is not None or self.top_p is not None


@dataclass(frozen=True)
class SearchConfig:
    """Settings of ``search``."""

    corpus: str = setting(
        "", "CSV, TSV, JSON, JSONL, Parquet, Arrow or text file (a text a line) to search in, or several", several=True
    )
    model: str = setting("auto", "directory of a finished run, any model directory or Hub name; auto: all-MiniLM-L6-v2")
    top_k: int = setting(5, "texts found for each query")
    text_column: str | None = setting(None, "column of the text (default: text, or the only one)")
    output: str | None = setting(None, "CSV or JSONL file for what is found (default: print it)")
    excel_safe: bool = setting(False, EXCEL_SAFE)
    delimiter: str | None = setting(None, DELIMITER)
    encoding: str | None = setting(None, ENCODING)
    quoting: Literal["csv", "none", "backslash"] | None = setting(None, QUOTING)
    column_names: str | None = setting(None, COLUMN_NAMES)
    task: str = setting("embeddings", "embeddings, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require(self, "corpus", bool(self.corpus), "must name a file to search in")
        require(self, "top_k", self.top_k >= 1, "must be at least 1")
        require_csv(self.excel_safe, self.output)


SENTENCES = (
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "She took the car to watch the match.",
)


@dataclass(frozen=True)
class CompareConfig:
    """Settings of ``compare-models``."""

    models: list[str] = setting([], "model directories or Hub names; auto: all-MiniLM-L6-v2")  # noqa: RUF009 - each gets its own
    sentences: list[str] = setting(SENTENCES, "what to embed (default: four sentences, two and two alike)")  # noqa: RUF009
    picture: str | None = setting(None, "PNG, SVG or PDF file for the similarities, side by side")
    task: str = setting("embeddings", "embeddings, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require(self, "models", bool(self.models), "must name one or more models")
        require(self, "sentences", len(self.sentences) > 1, "must be two or more")
        from tasks.text import checked_texts  # which needs torch

        checked_texts(self.sentences, "--sentences")


@dataclass(frozen=True)
class CaptionConfig:
    """Settings of ``caption``."""

    model: str = setting("microsoft/git-base-coco", "directory of a finished run, any model directory or Hub name")
    num_beams: int | None = setting(None, "captions that are followed at once; 1: greedy (default: as in training)")
    max_new_tokens: int | None = setting(None, "tokens that are written at most (default: as in training)")
    output: str | None = setting(None, "CSV or JSONL file for the captions (default: print them)")
    excel_safe: bool = setting(False, EXCEL_SAFE)
    task: str = setting("captioning", "captioning, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require_csv(self.excel_safe, self.output)
        for name in ("num_beams", "max_new_tokens"):
            require(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "must be at least 1")
