"""What each task is told beside the engine's settings, and its own defaults of those.

No torch in here: ``python run.py --task NAME --help`` and a wrong flag answer at once. Next: __init__.py, which names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import UsageError
from engine.settings.fields import require, setting

CAPTION_TOKENS = 64
TARGET_TOKENS = 128
PREFIX = "text that stands before each source, as the model was trained: 'summarize: ' (default: {})"
NUM_BEAMS = "texts that are followed at once when one is written; 1: greedy (default: {})"
MAX_NEW_TOKENS = "tokens of a text that is written, at most (default: {})"
SOURCE_LANG = "code of the language of the sources, for models that are told it: eng_Latn, en_XX, en (default: {})"
TARGET_LANG = "code of the language that is to be written: deu_Latn, de_DE, de (default: {})"
NO_ANSWER = "may the answer be that the text has none (default: {})"
NEGATIVES = "in place of labels, column of passages that do not answer, a text or a list of them; several: A,B"
PROMPT = "column of what is answered, a text or messages; none: both answers begin with it"
REFERENCE = "folder or Hub name of the model to stay near (default: the one that training starts from)"
N_BEST = "answers that predict lists for a question, the best first (default: one)"

DEFAULT_TASK = "classification"  # of a model that does not say which
DEFAULTS: dict[str, Mapping[str, Any]] = {  # other defaults of the engine's and source's settings, by task
    "yelp": {"max_train_examples": 5000, "max_eval_examples": 1000},
    "mlm": {"max_train_examples": 5000, "max_eval_examples": 500, "learning_rate": 1e-4, "warmup_ratio": 0.06},
    "clm": {"learning_rate": 5e-5},
    "ner": {"learning_rate": 5e-5},
    "qa": {"learning_rate": 3e-5},
    "reward": {"learning_rate": 1e-4},  # as TRL's
    "dpo": {"learning_rate": 1e-6},
    "seq2seq": {"learning_rate": 1e-4, "max_eval_examples": 500},
}


@dataclass(frozen=True)
class LabelledOptions:
    """What a task on texts with labels is told at least; a task of one's own may do with these."""

    max_length: int | None = setting(None, "tokens per text (default: 512, or less if the model takes less)")
    text_column: str = setting("text", "column of the text")
    label_column: str = setting("label", "column of the label")

    def __post_init__(self) -> None:
        require(self, "max_length", self.max_length is None or self.max_length >= 1, "must be at least 1")


@dataclass(frozen=True)
class Labelling:
    """How labels are read, and what they weigh."""

    problem: Literal["single_label", "multi_label", "regression"] = setting("single_label", "what a label is")
    label_names: str | None = setting(None, "comma-separated names, in order (default: those in the training data)")
    label_separator: str = setting("|", "between the labels in a CSV cell, with --problem multi_label")
    label_values: Literal["auto", "names", "ids", "onehot"] | None = setting(
        None,
        "what label cells hold: names, ids from 0, or with multi_label a 0 or 1 for each (default: auto, which refuses doubt)",
    )
    label_smoothing: float = setting(0.0, "share of the target given to all classes alike")
    class_weights: str | None = setting(
        None,
        "'balanced', or one number per class, comma-separated: the weight of its examples in the loss; with multi_label, "
        "against those that lack the label",
    )

    def __post_init__(self) -> None:
        require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "must be at least 0 and less than 1")
        if self.problem != "single_label" and self.label_smoothing:
            raise UsageError("--label-smoothing needs --problem single_label")
        if self.problem == "regression" and self.class_weights:
            raise UsageError("--class-weights needs classes: --problem single_label or multi_label")

    def columns_in(self, label_column: str) -> tuple[str, ...]:
        """One; or of one-hot data a column for each label."""
        return tuple(label_column.split(",")) if self.problem == "multi_label" else (label_column,)


@dataclass(frozen=True)
class ClassificationOptions(Labelling, LabelledOptions):
    """What a classification task is told."""

    text_pair_column: str | None = setting(None, "column of a second text, for sentence pairs", before="label_column")
    stride: int | None = setting(
        None,
        "read long texts whole, as windows of --max-length tokens that share this many with the one before (default: they are "
        "cut)",
    )
    window_pooling: Literal["mean", "max"] | None = setting(
        None, "what the logits of a text are of those of its windows: the mean, or the largest of each class (default: mean)"
    )

    def __post_init__(self) -> None:
        LabelledOptions.__post_init__(self)
        Labelling.__post_init__(self)
        require(self, "stride", self.stride is None or self.stride >= 0, "must be at least 0")
        if self.stride is None and self.window_pooling:
            raise UsageError(f"--window-pooling {self.window_pooling} is of windows: give --stride, too")
        labels = self.columns_in(self.label_column)
        columns = [name for name in (self.text_column, self.text_pair_column, *labels) if name is not None]
        if len(set(columns)) < len(columns) or "" in columns:
            raise UsageError(f"text, text pair and label must be different columns, found {', '.join(map(repr, columns))}")


@dataclass(frozen=True)
class YelpOptions(ClassificationOptions):
    """Classification's, and:"""

    stars: bool = setting(False, "predict one to five stars (Yelp/yelp_review_full) instead of the polarity")


@dataclass(frozen=True)
class TaggingOptions:
    """What a task on the words of sentences is told."""

    max_length: int | None = setting(
        None,
        "tokens per row; longer sentences are cut between words into several (default: 512, or less if the model takes less)",
    )
    text_column: str = setting("tokens", "column of the words, a list; or of a text, where the tags are spans in it")
    label_column: str | None = setting(None, "column of their tags, a list; or of spans: {start, end, label} (default: tags)")
    label_names: str | None = setting(None, "comma-separated names of tags that are numbers, in order")

    def __post_init__(self) -> None:
        require(self, "max_length", self.max_length is None or self.max_length >= 1, "must be at least 1")
        if self.text_column in ("", self.label_column) or self.label_column == "":
            raise UsageError(f"words and tags must be different columns, found {self.text_column!r}, {self.label_column!r}")


@dataclass(frozen=True)
class QAOptions:
    """What a task on questions whose answers stand in a text is told."""

    max_length: int | None = setting(
        None, "tokens of a question and a window of its text (default: 384, or what the model takes)"
    )
    stride: int | None = setting(None, "tokens that neighbouring windows of a text share (default: a third of --max-length)")
    max_answer_length: int | None = setting(None, "tokens of an answer that is given, at most (default: 30)")
    no_answer: Literal["yes", "no"] | None = setting(None, NO_ANSWER.format("yes, if the training data have such rows"))
    question_column: str = setting("question", "column of the question")
    context_column: str = setting("context", "column of the text that it is asked of")
    answers_column: str = setting("answers", "column of the answers: {text, answer_start}, two lists")
    n_best: int | None = setting(None, N_BEST, changes_weights=False)

    def __post_init__(self) -> None:
        for name, least in (("max_length", 1), ("stride", 0), ("max_answer_length", 1), ("n_best", 1)):
            require(self, name, getattr(self, name) is None or getattr(self, name) >= least, f"must be at least {least}")
        columns = [*self.texts, self.answers_column]
        if len(set(columns)) < 3 or "" in columns:
            raise UsageError(f"question, context and answers must be different columns, found {', '.join(map(repr, columns))}")

    @property
    def texts(self) -> list[str]:
        """The columns of a row's two texts."""
        return [self.question_column, self.context_column]

    @property
    def text_pair_column(self) -> str:
        """The second text, as other tasks call it."""
        return self.context_column


@dataclass(frozen=True)
class MaskedOptions:
    """What the task is told."""

    max_length: int | None = setting(None, "tokens per row; longer texts are cut into several rows (default: 128)")
    text_column: str = setting("text", "column of the text")
    mask_probability: float = setting(0.15, "share of the tokens that are to be predicted")
    whole_word: bool = setting(False, "mask all tokens of a word or none (WordPiece tokenizers)")

    def __post_init__(self) -> None:
        require(self, "max_length", self.max_length is None or self.max_length >= 1, "must be at least 1")
        require(self, "mask_probability", 0 < self.mask_probability < 1, "must lie between 0 and 1")


@dataclass(frozen=True)
class CausalOptions:
    """What the task is told."""

    block_size: int | None = setting(None, "tokens per row (default: 128)")
    text_column: str = setting("text", "column of the text")
    documents: Literal["joined", "packed"] = setting(
        "joined", "joined: all texts end to end, cut into blocks; packed: each by itself, none sees another"
    )

    def __post_init__(self) -> None:
        require(self, "block_size", self.block_size is None or self.block_size >= 2, "must be at least 2")

    @property
    def max_length(self) -> int | None:
        """The same, as all tasks on texts call it."""
        return self.block_size


@dataclass(frozen=True)
class SFTOptions:
    """What the task is told."""

    max_length: int | None = setting(None, "tokens per conversation; longer ones are cut (default: 512)")
    messages_column: str = setting("messages", "column of the conversations: lists of {role, content}")
    prompt_column: str | None = setting(
        None, "column of prompts, for data without messages; of several, a line each: instruction,input"
    )
    completion_column: str = setting("completion", "column of what is to follow each prompt")

    def __post_init__(self) -> None:
        require(self, "max_length", self.max_length is None or self.max_length >= 2, "must be at least 2")


@dataclass(frozen=True)
class EmbeddingsOptions:
    """What the task is told."""

    loss: Literal["contrastive", "cosine"] = setting(
        "contrastive", "contrastive: find the positive among those of the batch; cosine: meet a given score"
    )
    max_length: int | None = setting(None, "tokens per text (default: what the model was trained with, else at most 512)")
    text_column: str = setting("anchor", "column of the first text")
    text_pair_column: str = setting("positive", "column of the text that belongs to it")
    negative_column: str | None = setting(None, "column of a text that does not, but seems to (contrastive)")
    label_column: str = setting("score", "column of the score from -1 to 1 (cosine)")
    scale: float = setting(20.0, "what cosines are multiplied with before the softmax: 1 / temperature (contrastive)")
    chunk_size: int | None = setting(
        None, "texts embedded at a time, and again in the backward pass: a large batch in little memory (default: all at once)"
    )

    def __post_init__(self) -> None:
        for name in ("max_length", "chunk_size"):
            require(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "must be at least 1")
        require(self, "scale", 0 < self.scale < float("inf"), "must be a positive finite number")
        if len(set(self.columns)) < len(self.columns) or "" in self.columns:
            raise UsageError(f"texts and score must be different columns, found {', '.join(map(repr, self.columns))}")
        if self.loss == "cosine" and self.negative_column:
            raise UsageError("--negative-column needs --loss contrastive: with cosine, a far pair has a low score")

    @property
    def texts(self) -> list[str]:
        """The columns of an example's texts: two or three."""
        return [name for name in (self.text_column, self.text_pair_column, self.negative_column) if name is not None]

    @property
    def columns(self) -> list[str]:
        """All columns."""
        return self.texts + ([self.label_column] if self.loss == "cosine" else [])


@dataclass(frozen=True)
class RerankerOptions:
    """What the task is told."""

    max_length: int | None = setting(
        None, "tokens of query and passage together (default: 512, or less if the model takes less)"
    )
    text_column: str = setting("query", "column of the query")
    text_pair_column: str = setting("passage", "column of the passage, or of a list of them")
    label_column: str = setting("label", "column of how well they belong together, from 0 to 1, or of a list of that")
    negatives_column: str | None = setting(None, NEGATIVES)

    def __post_init__(self) -> None:
        require(self, "max_length", self.max_length is None or self.max_length >= 1, "must be at least 1")
        columns = [self.text_column, self.text_pair_column, *(self.negatives or (self.label_column,))]
        if len(set(columns)) < len(columns) or "" in columns:
            raise UsageError(f"query, passage and label must be different columns, found {', '.join(map(repr, columns))}")

    @property
    def negatives(self) -> tuple[str, ...]:
        """The columns of passages that do not answer; (): there are labels."""
        return () if self.negatives_column in (None, "none") else tuple(str(self.negatives_column).split(","))


@dataclass(frozen=True)
class PreferenceOptions:
    """What a task on preferences is told."""

    max_length: int | None = setting(
        None, "tokens of prompt and answer; pairs with a longer one are left out (default: 512, or what the model takes)"
    )
    prompt_column: str = setting("prompt", PROMPT)
    chosen_column: str = setting("chosen", "column of the better answer, a text or messages")
    rejected_column: str = setting("rejected", "column of the worse answer")

    def __post_init__(self) -> None:
        require(self, "max_length", self.max_length is None or self.max_length >= 2, "must be at least 2")
        columns = [self.prompt_column, self.chosen_column, self.rejected_column]
        if len(set(columns)) < 3 or "" in columns:
            raise UsageError(f"prompt and answers must be different columns, found {', '.join(map(repr, columns))}")


@dataclass(frozen=True)
class RewardOptions(PreferenceOptions):
    """What the task is told, and:"""

    text_column: str = setting("text", "column of what predict scores: a text, or a list of messages", changes_weights=False)


@dataclass(frozen=True)
class DPOOptions(PreferenceOptions):
    """What the task is told, and:"""

    beta: float | None = setting(None, "how much a preference weighs against staying near the reference (default: 0.1)")
    label_smoothing: float | None = setting(
        None, "share of preferences taken to be the wrong way round (TRL's robust loss; default: 0)"
    )
    reference_model: str | None = setting(None, REFERENCE)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "beta", self.beta is None or 0 < self.beta < float("inf"), "must be a positive finite number")
        require(self, "label_smoothing", 0 <= (self.label_smoothing or 0) < 0.5, "must be at least 0 and less than 0.5")


@dataclass(frozen=True)
class Seq2SeqOptions:
    """What a task that writes one text from another is told."""

    max_length: int | None = setting(
        None, "tokens of a source; longer ones are cut (default: 512, or less if the model takes less)"
    )
    max_target_length: int | None = setting(
        None, f"tokens of a target; longer ones are cut (default: {TARGET_TOKENS}, or less if the model takes less)"
    )
    source_column: str | None = setting(
        None, "column of the text that is given; translation.en: of a column of objects (default: source)"
    )
    target_column: str | None = setting(None, "column of the text that is to be written (default: target)")
    prefix: str | None = setting(None, PREFIX.format("none"))
    source_lang: str | None = setting(None, SOURCE_LANG.format("that with which the tokenizer was saved"))
    target_lang: str | None = setting(None, TARGET_LANG.format("that with which the tokenizer was saved"))
    label_smoothing: float | None = setting(None, "share of the target given to all tokens alike (default: 0)")
    num_beams: int | None = setting(None, NUM_BEAMS.format("the model's, mostly 1"))
    max_new_tokens: int | None = setting(None, MAX_NEW_TOKENS.format("--max-target-length"))

    def __post_init__(self) -> None:
        for name in ("max_length", "max_target_length", "num_beams", "max_new_tokens"):
            require(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "must be at least 1")
        require(self, "label_smoothing", 0 <= (self.label_smoothing or 0) < 1, "must be at least 0 and less than 1")


IMAGE_COLUMN = "column of the picture (default: file_name in files, image in data sets)"
IMAGE_FOLDER = "folder that pictures may lie in, beside that of the file that names them"
ALLOW_URLS = "fetch pictures from the http addresses in the data, if they are public ones"


@dataclass(frozen=True)
class CaptioningOptions:
    """What the task is told."""

    max_length: int | None = setting(None, f"tokens of a caption, with start and end (default: {CAPTION_TOKENS})")
    image_column: str | None = setting(None, IMAGE_COLUMN)
    text_column: str = setting("text", "column of the caption, or of a list of captions")
    image_folder: str | None = setting(None, IMAGE_FOLDER, local=True)
    allow_urls: bool = setting(False, ALLOW_URLS, local=True)
    num_beams: int = setting(1, "captions that are followed at once when one is written; 1: greedy")
    max_new_tokens: int = setting(30, "tokens that are written at most")

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens"):
            require(self, name, getattr(self, name) >= 1, "must be at least 1")
        require(self, "max_length", self.max_length is None or self.max_length >= 3, "must be at least 3")
        if self.image_column == self.text_column or "" in (self.image_column, self.text_column):
            raise UsageError(
                f"picture and caption must be different columns, found {self.image_column!r}, {self.text_column!r}"
            )


@dataclass(frozen=True)
class ImageClassificationOptions(Labelling):
    """What the task is told."""

    image_column: str | None = setting(None, IMAGE_COLUMN, before="problem")
    label_column: str | None = setting(None, "column of the label (default: label)", before="problem")
    image_folder: str | None = setting(None, IMAGE_FOLDER, local=True, before="problem")
    allow_urls: bool = setting(False, ALLOW_URLS, local=True, before="problem")
    max_length = None  # pictures have none

    def __post_init__(self) -> None:
        super().__post_init__()
        labels = self.columns_in("label" if self.label_column is None else self.label_column)
        columns = [name for name in (self.image_column, *labels) if name is not None]
        if len(set(columns)) < len(columns) or "" in columns:
            raise UsageError(f"picture and label must be different columns, found {', '.join(map(repr, columns))}")
