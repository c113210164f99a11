"""What a task has to say; everything else is the engine's.

The loss is a SUM over items (examples, target tokens). The engine divides once by the items of the whole optimizer
step, so accumulation, several devices and cutting a batch in pieces all give the same gradient. A target of -100 is not
an item, in every task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout
from engine.data.form import Columns
from engine.data.sources import Source
from engine.data.taken import TakenModel
from engine.distributed.world import World
from engine.errors import UsageError

T = TypeVar("T")
O = TypeVar("O")  # noqa: E741 - the task's own options, a frozen dataclass
Row = dict[str, Any]


class Examples(Protocol):
    """A map-style data set of rows with their token counts."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Row: ...
    @property
    def lengths(self) -> np.ndarray: ...
    def fingerprint(self) -> str: ...


class Metrics(Protocol):
    """Figures that are updated batch by batch and merge over devices; no logits are kept.

    ``lower_is_better``: those of ``names`` of which a smaller value is the better one; of the loss it is. A method
    ``classes()``, where there is one, gives figures of each class, by its name; it is called behind ``compute()``.
    """

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def lower_is_better(self) -> Collection[str]: ...

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None: ...
    def compute(self) -> dict[str, float]: ...
    def sync(self, world: World) -> None: ...


class Review(Protocol):
    """What an evaluation gets wrong, gathered batch by batch. One that is a Judge, too, is looked at slice by slice.

    ``columns``: what of the data may stand in ``rows``: header and rows of a CSV file, the mistake first that the model was
    surest of. ``order``: that of the rows, in words. ``table``: all in short, for the terminal.
    """

    @property
    def order(self) -> str: ...

    def update(self, outputs: Any, batch: Batch) -> None: ...
    def columns(self) -> Columns: ...
    def rows(self) -> tuple[list[str], list[list[Any]]]: ...
    def table(self) -> str: ...


@runtime_checkable
class Judge(Protocol):
    """Of the evaluated rows, in order: which are right, [N] bool; the cells of a column, the names of their files, their texts.
    ``curve``: of reliability, rows of (how many, the sum of their confidences, how many are so)."""

    def right(self) -> np.ndarray: ...
    def column(self, name: str) -> list[Any]: ...
    def files(self) -> list[str]: ...
    def words(self) -> list[str]: ...
    def curve(self) -> list[list[float]]: ...


@dataclass(frozen=True)
class Learned:
    """What an Adjustment has found. ``stored``: fields of the model's config.json; ``lines``: for the terminal; ``curves``:
    of the report, by name rows of (how many, the sum of their confidences, how many are so); ``card``: what the model card
    says."""

    stored: Mapping[str, Any]
    lines: Sequence[str]
    curves: Mapping[str, list[list[float]]]
    card: str


class Texts(NamedTuple):
    """Some rows of a set. ``ids``: the token ids of each; ``characters``: [k]; ``unknown``: the id of an unknown token."""

    ids: Sequence[np.ndarray]
    characters: np.ndarray
    unknown: int | None


class Answers(NamedTuple):
    """What was answered to some rows of a set. ``rows``: [n], which; ``shares``: how often each label; ``number``: what
    ``numbers``, [n], are: how sure each answer is, or the answer itself. ``projected``: where the rows' vectors stand, [n, K]
    in any order (model/projected.py); None: they have none."""

    rows: np.ndarray
    shares: Mapping[str, int]
    number: str
    numbers: np.ndarray
    projected: np.ndarray | None = None


class Observed(NamedTuple):
    """Inputs as a server was given them, and what the model's logits alone answered: ``characters``, [n]; ``labels``, of each,
    () of numbers; ``number``, ``numbers``: as in Answers; ``unknown``: the id of an unknown token."""

    characters: Sequence[int]
    labels: Sequence[str]
    number: str
    numbers: Sequence[float]
    unknown: int | None


class Watch(Protocol):
    """What a profile of data and answers is made of, of one set: its rows, and what was answered, gathered batch by batch.

    ``labels``: how often each stands in the data, or [N] the numbers that do; None: they have none.
    """

    def __len__(self) -> int: ...
    def update(self, outputs: Any, batch: Batch) -> None: ...
    def answers(self) -> Answers: ...
    def texts(self, rows: np.ndarray) -> Texts: ...
    def labels(self) -> Mapping[str, int] | np.ndarray | None: ...


class Adjustment(Protocol):
    """What a finished model's answers are made of, learned from held-out rows: one half chooses, and the other is reported
    on."""

    def update(self, outputs: Any, batch: Batch) -> None: ...
    def learned(self, seed: int) -> Learned:
        """Raises DataError where these rows say nothing."""
        ...


def held_out(examples: Mapping[str, T]) -> dict[str, T]:
    """The evaluation sets by name, in their order."""
    return {split: part for split, part in examples.items() if split != "train"}


@dataclass(frozen=True)
class NoOptions:
    """The options of a task that has none."""


class Task(ABC, Generic[O]):
    """One kind of fine-tuning. A subclass is a short file in tasks/, or in a file of the user's own.

    The order of calls when training: ``examples()``, which finds out what the data hold (the labels, say); ``build_model()``;
    then ``collate``, ``forward`` and ``loss`` in each step, and ``metrics()`` for each evaluation. With a finished model:
    ``load_model()``, ``adopt()``, then ``predict()``, or ``examples()`` and ``metrics()``. A task that is asked for something
    before its turn raises UsageError (see ``known``).
    """

    Options: ClassVar[type] = NoOptions  # frozen dataclass; its fields are flags
    defaults: ClassVar[Mapping[str, Any]] = {}  # other defaults of the engine's and source's settings
    level: ClassVar[Literal["sequence", "token"] | None] = "sequence"  # what the model's head reads: one vector per row,
    # or all tokens; None: batches hold more than text, and are never packed
    additive: bool = True  # False: rows of a micro-batch see each other in the loss, so cutting it changes what is learned
    one_text: bool = True  # False: a row is several texts, and its length theirs together
    shardable: ClassVar[bool] = True  # False: metrics call the model as often as the rows of a rank happen to want
    best_metric: str = "loss"
    pipeline_tag: ClassVar[str | None] = None  # the Hub's name of what the model does
    library: ClassVar[str] = "transformers"  # that loads the model, for the card
    loading: ClassVar[tuple[str, str] | None] = None  # how: an import, and an expression of ``name``; else its pipeline
    predicts_apart: ClassVar[bool] = True  # False: what is predicted of an input depends on those beside it
    try_it: ClassVar[Sequence[Any]] = ()  # inputs that are predicted when training has ended
    predict_rows: ClassVar[int | None] = 4096  # of a file, that ``predict`` is given at a time; None: all, for what is said
    # of a row depends on others
    watched: ClassVar[bool] = False  # has ``watch``: training leaves a profile, and ``monitor`` compares with it
    exported: ClassVar[tuple[str, ...]] = ()  # the model's outputs that ``export`` writes; (): it does not export these models
    max_length: int | None = None  # the most tokens of a row; None where rows have no such limit
    hub_model: str | None = None  # the checkpoint on the Hub that --model auto stands for

    def __init__(self, options: O, source: Source):
        self.options = options
        self.source = source

    def known(self, value: T | None) -> T:
        """What ``examples()`` or ``adopt()`` has found out. Raises UsageError where neither has been called."""
        if value is None:
            raise UsageError(
                f"{type(self).__name__}: call examples() before build_model() and metrics(), or adopt() with a finished model: "
                "they need what the data hold"
            )
        return value

    @abstractmethod
    def examples(self) -> dict[str, Examples]:
        """``{"train": ..., "eval": ...}``; "eval" may be missing, or be several sets with names of their own.

        Raises DataError, before any model is loaded.
        """

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The model in float32 on the CPU; called after the seed is set. Raises ModelError."""

    def substitute(self) -> TakenModel | None:
        """What takes the place of ``hub_model`` where the Hub is out of reach; None: nothing, or it is not installed."""
        return None

    def adopt(self, model: nn.Module) -> None:
        """Take from a finished model what ``examples()`` finds out when training (the labels' names, say).

        From then on ``examples()`` may leave the training data out.
        """

    def prepare(self, row: Row, generator: torch.Generator) -> Row:
        """Mask or augment a row; ``generator`` is a function of (seed, epoch, row), so resuming repeats it exactly."""
        return row

    @abstractmethod
    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """Put rows together as ``layout`` says (``arrange`` in collate.py does); a pure function."""

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """The model's outputs. May only call ``model(...)``."""
        return model(**batch.inputs)

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """() float32: the SUM over the batch's ``num_items`` items, from the logits."""

    @abstractmethod
    def metrics(self, split: str) -> Metrics:
        """Fresh figures for one evaluation. ``split``: the name of the evaluation set."""

    def review(self, split: str) -> Review:
        """A fresh one for ``evaluate --errors`` of an evaluation set, after ``examples()``.

        Raises UsageError where nothing is right or wrong.
        """
        raise UsageError("--errors: this task does not tell right from wrong row by row")

    def watch(self, split: str) -> Watch:
        """A fresh one of a set of ``examples()``, or of "train". Of a task that is ``watched``."""
        raise NotImplementedError

    def observed(self, inputs: Sequence[Any], predictions: Sequence[Mapping[str, Any]]) -> Observed:
        """What of ``predict``'s inputs and answers a profile holds, but for tokens. Of a task that is ``watched``."""
        raise NotImplementedError

    def unlabelled(self) -> dict[str, Examples]:
        """``examples()`` of data without labels, after ``adopt()``. Of a task that is ``watched``."""
        raise NotImplementedError

    def label_columns_in(self, names: Collection[str]) -> bool:
        """Do data with columns of these names have labels? Of a task that is ``watched``."""
        raise NotImplementedError

    def adjustment(self, split: str, *, calibrate: bool, threshold: Literal["auto", "none"] | None) -> Adjustment:
        """For ``evaluate --calibrate`` and ``--threshold`` of an evaluation set, after ``adopt()`` and ``examples()``.

        Raises UsageError where there are no probabilities of classes.
        """
        raise UsageError("--calibrate and --threshold: this task gives no probabilities of labels")

    @abstractmethod
    def load_model(self, path: str) -> nn.Module:
        """A finished model for inference. Raises ModelError."""

    def inputs_of(self, rows: Columns) -> list[Any]:
        """What ``predict`` takes, from the columns of a file, of which these may be some rows: errors name a row by
        ``plain_row`` (data/tables.py), which counts in the file. Raises DataError."""
        return next(iter(rows.values()))

    def inputs_typed(self, texts: Sequence[str]) -> list[Any]:
        """What ``predict`` takes, from texts on the command line. Raises UsageError."""
        return list(texts)

    @abstractmethod
    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """One dictionary for each raw input, in order. ``model`` is in eval mode on its device; ``layout`` suits it."""

    @property
    def longest_input(self) -> int | None:
        """The most tokens of an input that have a part in what is predicted of it; None: all have."""
        return self.max_length

    def served(self) -> list[dict[str, Any]]:
        """An example of each form of input that ``serve`` takes, by column as ``inputs_of`` reads them.

        Each value is a text, or bytes, which are a picture and come as base64, or a list of what its first entry is: a text, or
        an object of texts. The first example stands on the page. Raises UsageError for a task that is not served.
        """
        return [{"text": "The food was good."}]

    def stream(self, model: nn.Module, item: Any, part: Callable[[str], None]) -> dict[str, Any]:
        """``predict`` of one input whose text is handed to ``part`` while it is written. Raises UsageError where none is.

        A part may be empty, and ``part`` may raise, to end it.
        """
        raise UsageError("this task writes no text: leave stream out")

    def describe(self, prediction: Mapping[str, Any]) -> str:
        """A prediction as one line for the terminal."""
        return str(dict(prediction))

    def columns_of(self, prediction: Mapping[str, Any], flat: bool) -> dict[str, Any]:
        """A prediction as columns of the file that ``predict --output`` writes.

        ``flat``: for a CSV file, whose cells are single values: an object becomes a column for each of its keys, a list is
        joined by ``|``. Else lists and objects stay as they are.
        """
        cells: dict[str, Any] = {}
        for key, value in prediction.items():
            if flat and isinstance(value, Mapping):
                cells |= {f"{key}_{name}": part for name, part in value.items()}
            elif flat and isinstance(value, list):
                cells[f"predicted_{key}"] = "|".join(map(str, value))
            else:
                cells[key] = value
        return cells

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """What an exported model must have in common with this one: of ``forward``'s outputs the probabilities, [N, ...]."""
        raise NotImplementedError

    def save_exported(self, model: nn.Module, directory: Path) -> None:
        """Write what an exported model is used with: its config, and what makes its inputs."""
        model.config.save_pretrained(directory)  # type: ignore[union-attr,operator]

    def label_names(self, model: nn.Module) -> Sequence[str]:
        """What the model tells apart, in the order of its outputs, for the model card; (): it has no labels."""
        return ()

    @abstractmethod
    def save(self, model: nn.Module, directory: Path) -> None:
        """Write model and processor so that ``from_pretrained(directory)`` takes them."""
