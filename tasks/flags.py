"""The settings of the tasks' own commands, and what the tasks add to those of ``predict`` and ``evaluate``.

No torch in here: ``python run.py COMMAND --help`` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from engine.commands.flags import (
    EXCEL_SAFE,
    EvaluateConfig,
    ExportConfig,
    MonitorConfig,
    PredictConfig,
    ServeConfig,
    UpdateConfig,
    require_csv,
)
from engine.data.form import COLUMN_NAMES, DELIMITER, ENCODING, QUOTING
from engine.data.sources import SourceConfig
from engine.errors import UsageError
from engine.settings.fields import require, setting
from tasks.options import (
    ALLOW_URLS,
    DEFAULT_TASK,
    IMAGE_FOLDER,
    MAX_NEW_TOKENS,
    N_BEST,
    NEGATIVES,
    NO_ANSWER,
    NUM_BEAMS,
    PREFIX,
    PROMPT,
    SOURCE_LANG,
    TARGET_LANG,
)

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


def writing(what: str) -> Any:
    """A setting of how a text is written from another."""
    return setting(None, what.format("as in training"), replaces_run=True, before="task")


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
    source_column: str | None = column("the text that another is written from", before="id_column")
    prefix: str | None = writing(PREFIX)
    source_lang: str | None = writing(SOURCE_LANG)
    target_lang: str | None = writing(TARGET_LANG)
    num_beams: int | None = writing(NUM_BEAMS)
    max_new_tokens: int | None = writing(MAX_NEW_TOKENS)
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
    prompt_column: str | None = setting(None, f"{PROMPT} (default: as in training)", replaces_run=True, before="delimiter")
    chosen_column: str | None = column("the better answer", before="delimiter")
    rejected_column: str | None = column("the worse answer", before="delimiter")
    reference_model: str | None = setting(
        None, "of dpo, the model that was to be stayed near (default: as in training)", replaces_run=True, before="delimiter"
    )
    negatives_column: str | None = setting(
        None, f"{NEGATIVES}; none: there are labels (default: as in training)", replaces_run=True, before="delimiter"
    )
    label_values: Literal["auto", "names", "ids", "onehot"] | None = setting(
        None, "what label cells hold (default: as in training)", replaces_run=True, before="delimiter"
    )
    label_separator: str | None = setting(
        None, "between the labels in a CSV cell (default: as in training)", replaces_run=True, before="delimiter"
    )
    no_answer: Literal["yes", "no"] | None = no_answer()
    source_column: str | None = column("the text that another is written from", before="delimiter")
    target_column: str | None = column("the text that is to be written", before="delimiter")
    prefix: str | None = writing(PREFIX)
    source_lang: str | None = writing(SOURCE_LANG)
    target_lang: str | None = writing(TARGET_LANG)
    num_beams: int | None = writing(NUM_BEAMS)
    max_new_tokens: int | None = writing(MAX_NEW_TOKENS)
    image_folder: str | None = pictures(None, IMAGE_FOLDER)
    allow_urls: bool = pictures(False, ALLOW_URLS)


@dataclass(frozen=True)
class ServeFlags(ServeConfig):
    """Settings of ``serve``, with those of the tasks that change an answer."""

    watched = ("classification", "yelp", "imdb")
    task: str | None = setting(None, TASK)
    no_answer: Literal["yes", "no"] | None = no_answer()
    n_best: int | None = setting(None, N_BEST, replaces_run=True, before="task")
    prefix: str | None = writing(PREFIX)
    source_lang: str | None = writing(SOURCE_LANG)
    target_lang: str | None = writing(TARGET_LANG)
    num_beams: int | None = writing(NUM_BEAMS)
    max_new_tokens: int | None = writing(MAX_NEW_TOKENS)


@dataclass(frozen=True)
class ExportFlags(ExportConfig):
    """Settings of ``export``."""

    tasks = ("classification", "yelp", "imdb", "ner", "embeddings")


@dataclass(frozen=True)
class MonitorFlags(MonitorConfig):
    """Settings of ``monitor``, with the columns of the tasks."""

    tasks = ("classification", "yelp", "imdb")
    task: str | None = setting(None, TASK)
    text_column: str | None = column("the text", before="delimiter")
    text_pair_column: str | None = column("the second text", before="delimiter")
    label_column: str | None = column("the label", before="delimiter")
    label_values: Literal["auto", "names", "ids", "onehot"] | None = setting(
        None, "what label cells hold (default: as in training)", replaces_run=True, before="delimiter"
    )
    label_separator: str | None = setting(
        None, "between the labels in a CSV cell (default: as in training)", replaces_run=True, before="delimiter"
    )


@dataclass(frozen=True)
class UpdateFlags(UpdateConfig):
    """Settings of ``update``."""

    tasks = ("classification", "yelp", "imdb")


@dataclass(frozen=True)
class TableConfig:
    """Settings of a command that reads a table, and may write another."""

    output: str | None = setting(None, "CSV or JSONL file for what is found (default: print it)")
    excel_safe: bool = setting(False, EXCEL_SAFE)
    delimiter: str | None = setting(None, DELIMITER)
    encoding: str | None = setting(None, ENCODING)
    quoting: Literal["csv", "none", "backslash"] | None = setting(None, QUOTING)
    column_names: str | None = setting(None, COLUMN_NAMES)

    def __post_init__(self) -> None:
        require_csv(self.excel_safe, self.output)


@dataclass(frozen=True)
class FileConfig(TableConfig):
    """Settings of a command that takes texts as arguments, or a file of them."""

    input: str | None = setting(
        None,
        "file of texts in place of arguments: text (one a line), CSV, TSV, JSON, JSONL, Parquet, Arrow",
        several=True,
        before="output",
    )
    text_column: str | None = setting(None, "column of the text in --input (default: text, or the only one)", before="output")


@dataclass(frozen=True)
class FillConfig(FileConfig):
    """Settings of ``fill``."""

    model: str = setting(
        "", "directory of a finished run, or any masked language model's directory or Hub name", before="input"
    )
    top_k: int = setting(5, "tokens shown for each mask", before="input")
    task: str = setting("mlm", "mlm, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "top_k", self.top_k >= 1, "must be at least 1")


def generating(default: Any, what: str) -> Any:
    """A setting of what is written, listed before the files."""
    return setting(default, what, before="input")


@dataclass(frozen=True)
class GenerateConfig(FileConfig):
    """Settings of ``generate``."""

    model: str = generating("", "directory of a finished run, or any language model's directory or Hub name")
    max_new_tokens: int | None = generating(None, "tokens written at most (default: 50, or as in training of seq2seq)")
    temperature: float | None = generating(
        None, "draw at random, the more freely the higher (default: the most probable token)"
    )
    top_k: int | None = generating(
        None,
        "draw at random from so many of the most probable tokens; 0: from all (default with the others: the model's, 50)",
    )
    top_p: float | None = generating(None, "draw at random from the most probable tokens that make up this share")
    num_beams: int | None = generating(
        None, "texts that are followed at once, of which the most probable is taken; 1: greedy (default: the model's, 1)"
    )
    source_lang: str | None = generating(None, SOURCE_LANG.format("as in training of seq2seq"))
    target_lang: str | None = generating(None, TARGET_LANG.format("as in training of seq2seq"))
    repetition_penalty: float | None = generating(
        None, "divides the scores of tokens that have occurred; 1: none (default: the model's, 1)"
    )
    no_repeat_ngram_size: int = generating(0, "no sequence of so many tokens occurs twice; 0: any may")
    stop: list[str] = generating([], "end before one of these texts comes")  # noqa: RUF009 - each gets its own
    num_return_sequences: int = generating(1, "texts for each prompt")
    seed: int = generating(42, "of what is drawn")
    chat: bool = generating(False, "the prompt is a user's message, in the model's own chat template; prints the answer alone")
    stream: bool = generating(False, "print each word as soon as it is there")
    batch_size: int = generating(16, "prompts written on at a time, of those that have equally many tokens")
    task: str | None = setting(
        None,
        "clm, seq2seq, or a task of your own that is made from one: FILE.py:CLASS (default: seq2seq for its runs, else clm)",
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_return_sequences", "batch_size", "num_beams", "max_new_tokens"):
            require(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "must be at least 1")
        require(self, "top_k", self.top_k is None or self.top_k >= 0, "must not be negative")
        positive = self.repetition_penalty is None or 0 < self.repetition_penalty < float("inf")
        require(self, "repetition_penalty", positive, "must be positive")
        require(self, "stop", "" not in self.stop, "must not be empty")
        require(self, "no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "must not be negative")
        require(self, "temperature", self.temperature is None or 0 < self.temperature < float("inf"), "must be positive")
        require(self, "top_p", self.top_p is None or 0 < self.top_p <= 1, "must be positive and at most 1")
        if self.num_return_sequences > 1 and not self.sampled and self.num_return_sequences > (self.num_beams or 1):
            raise UsageError(
                "--num-return-sequences: the most probable text is one; draw some with --temperature or --top-p, or follow as "
                "many with --num-beams"
            )
        if self.stream and (self.output or self.stop or self.num_return_sequences > 1 or (self.num_beams or 1) > 1):
            raise UsageError(
                "--stream prints a text while it is written: leave out --output, --stop, --num-beams, --num-return-sequences"
            )

    @property
    def sampled(self) -> bool:
        """Is anything drawn at random?"""
        return any(value is not None for value in (self.temperature, self.top_k, self.top_p))


@dataclass(frozen=True)
class SearchConfig(TableConfig):
    """Settings of ``search``."""

    corpus: str = setting(
        "",
        "CSV, TSV, JSON, JSONL, Parquet, Arrow or text file (a text a line) to search in, or several",
        several=True,
        before="output",
    )
    sentences: list[str] = setting([], "texts to search in, in place of a file", before="output")  # noqa: RUF009 - each its own
    model: str = setting(
        "auto", "directory of a finished run, any model directory or Hub name; auto: all-MiniLM-L6-v2", before="output"
    )
    top_k: int = setting(5, "texts found for each query", before="output")
    text_column: str | None = setting(None, "column of the text (default: text, or the only one)", before="output")
    task: str = setting("embeddings", "embeddings, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.corpus) == bool(self.sentences):
            raise UsageError("--corpus must name a file to search in, or --sentences A B C give the texts: one of the two")
        if self.sentences and self.text_column is not None:
            raise UsageError("--text-column names a column of --corpus FILE: leave it out")
        require(self, "top_k", self.top_k >= 1, "must be at least 1")


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
    picture: str | None = setting(None, "PNG, SVG or PDF file for the similarities and the first ten numbers, side by side")
    task: str = setting("embeddings", "embeddings, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require(self, "models", bool(self.models), "must name one or more models")
        require(self, "sentences", len(self.sentences) > 1, "must be two or more")
        from tasks.text import checked_texts  # which needs torch

        checked_texts(self.sentences, "--sentences")


@dataclass(frozen=True)
class CaptionConfig(FileConfig):
    """Settings of ``caption``."""

    model: str = setting(
        "microsoft/git-base-coco", "directory of a finished run, any model directory or Hub name", before="input"
    )
    num_beams: int | None = setting(
        None, "captions that are followed at once; 1: greedy (default: as in training)", before="input"
    )
    max_new_tokens: int | None = setting(None, "tokens that are written at most (default: as in training)", before="input")
    picture: str | None = setting(
        None, "PNG, SVG or PDF file that shows the pictures, each with its caption as title", before="input"
    )
    input: str | None = setting(
        None, "file of names of pictures in place of arguments: text (a name a line), CSV ...", several=True, before="output"
    )
    text_column: str | None = setting(
        None, "column of the names in --input (default: file_name, or the only one)", before="output"
    )
    output: str | None = setting(None, "CSV or JSONL file for the captions (default: print them)")
    image_folder: str | None = setting(None, IMAGE_FOLDER)
    allow_urls: bool = setting(False, "fetch pictures from the http addresses in --input, too, if they are public ones")
    task: str = setting("captioning", "captioning, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_beams", "max_new_tokens"):
            require(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "must be at least 1")


def of_data(what: str) -> Any:
    """A setting of the data that --model says where it is not given."""
    return setting(None, what, before="delimiter")


@dataclass(frozen=True)
class InspectConfig(SourceConfig):
    """Settings of ``inspect``: the data, as in training."""

    task: str = setting(DEFAULT_TASK, "classification, or a task that is made from it", before="data")
    text_column: str | None = of_data("column of the text (default: text)")
    text_pair_column: str | None = of_data("column of a second text, for sentence pairs")
    label_column: str | None = of_data("column of the label (default: label)")
    problem: Literal["single_label", "multi_label", "regression"] | None = of_data("what a label is (default: single_label)")
    label_names: str | None = of_data("comma-separated names, in order (default: those in the training data)")
    label_separator: str | None = of_data("between the labels in a CSV cell, with --problem multi_label (default: |)")
    label_values: Literal["auto", "names", "ids", "onehot"] | None = of_data("what label cells hold (default: auto)")
    model: str = setting("auto", "directory of a finished run: which labels of held-out rows may be wrong?", heading="model")
    near: float = setting(0.8, "similarity from which on two texts nearly are the same, of their word triples; 0: do not look")
    output: str | None = setting(None, "CSV file for the rows that are found, with their texts")
    excel_safe: bool = setting(False, EXCEL_SAFE)
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_csv(self.excel_safe, self.output)
        require(self, "near", self.near == 0 or 0.3 <= self.near <= 1, "must lie between 0.3 and 1, or be 0")
