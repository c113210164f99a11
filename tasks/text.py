"""What tasks on texts have in common: the splits, the tokenizer and its limits, loading and saving.

Next: classification/labelled.py, which is the fullest of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer

from engine.checked import is_half
from engine.console import note
from engine.data.files import read_named
from engine.data.form import Form
from engine.data.sources import SourceConfig
from engine.data.tables import RowName, chosen, names_of_rows, plain_row
from engine.data.taken import HubData, TakenModel
from engine.data.tokens import Tokens, cells_of, tokenize
from engine.errors import DataError, MissingColumnError, ModelError, UsageError
from engine.model import lora
from engine.model.capabilities import (
    ANY_TYPE,
    first_position,
    num_token_types,
    read_config,
    rows_of_token_table,
    without_weights,
)
from engine.task import Task, held_out
from tasks.offline import minilm

if TYPE_CHECKING:
    from datasets import Dataset


class TextOptions(Protocol):
    """What the options of a task on texts must have."""

    @property
    def max_length(self) -> int | None: ...


O = TypeVar("O", bound=TextOptions)  # noqa: E741 - the task's own options
TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "tokenizer_config.json", "*.tiktoken")


class TextTask(Task[O]):
    """A task on texts."""

    hub_data: HubData | None = None
    auto_class: ClassVar[Any]  # the AutoModelFor... that loads the model
    length_flag: ClassVar[str] = "--max-length"
    default_length: ClassVar[int] = 512
    cuts: ClassVar[bool] = True  # texts of more than max_length tokens lose the rest

    def __init__(self, options: O, source: Any):
        super().__init__(options, source)
        self._tokenizer: Any = None
        self._config: Any = None
        self._model_length: int | None = None
        self.is_finished = False  # has a finished model been adopted?
        self.unlimited: dict[str, Dataset] = {}  # the splits before --max-train-examples and --max-eval-examples

    # ---------------------------------------------------------------------------------------------------------- data

    def columns(self) -> list[str]:
        """The columns that the data must have."""
        raise NotImplementedError

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """The embedded data and what to call them."""
        raise NotImplementedError

    def tables(self) -> dict[str, Dataset]:
        """The raw rows of each split; subclasses filter here."""
        try:
            return self.source.tables(self.columns(), self.hub_data, self.sample if self.hub_data else None)
        except MissingColumnError as error:
            flags = [f"--{name.replace('_', '-')}" for name, value in vars(self.options).items()
                     if name.endswith("_column") and error.column in str(value).split(",")]  # fmt: skip
            way = self.way_in(error.found) or " or ".join(f"{flag} NAME" for flag in flags)
            raise DataError(f"{error}{f'; another column: {way}' if way else ''}") from error

    def way_in(self, found: Sequence[str]) -> str:
        """Flags that take these columns as they are; "": there is nothing to say of them."""
        return ""

    def strata(self, table: Dataset) -> Sequence[Any] | None:
        """A value per row; each is held out in the same share."""
        return None

    def splits(self) -> dict[str, Dataset]:
        """``tables()`` after ``--eval-fraction`` and the subsets asked for. Raises UsageError, DataError."""
        tables = self.tables()
        if (wanted := self.source.config.contains) is not None and not self.source.is_replaced:
            tables = {split: containing(table, wanted, self.text_column, split) for split, table in tables.items()}
        fraction = self.source.config.eval_fraction
        if fraction and "train" in tables:
            if held_out(tables):
                raise UsageError("--eval-fraction holds out training data, but there is evaluation data already")
            tables = self.source.hold_out(tables["train"], self.strata(tables["train"]), fraction)
        self.unlimited = dict(tables)
        limited = {split: self.source.subset(table, split) for split, table in tables.items()}
        tables = self.source.parted(limited, self.strata)
        for split, table in held_out(tables).items():
            if table is not limited.get(split):  # --fold or --eval-part
                before = "train" if self.source.config.fold else split
                is_whole = self.source.config.group_column and len(limited[before]) == len(self.unlimited[before])
                self.unlimited[split] = table if is_whole else self.unlimited[before]
        for split, table in tables.items():
            if len(table) == 0:
                raise DataError(f"no row of the {split} data is left")
        self.source.held = held_out(tables)
        return tables

    def splits_to_make(self) -> dict[str, Dataset]:
        """``splits()``; of a finished model only what is measured."""
        return held_out(self.splits()) if self.is_finished else self.splits()

    @property
    def text_column(self) -> str:
        """The column that ``--contains`` looks in."""
        return self.columns()[0]

    def tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None, name: str, row_name: RowName = plain_row) -> Tokens:
        """Token ids, from the cache if there; says how many texts were cut."""
        tokens = tokenize(texts, self.tokenizer, self.max_length, pairs, name=name, row_name=row_name)
        if tokens.types is not None and (most := int(tokens.types.max())) >= self.num_types:
            raise ModelError(
                f"model {self.path}: its tokenizer gives token types up to {most}, and the model tells {self.num_types} apart"
            )
        if tokens.num_truncated:
            note(f"{name}: {tokens.num_truncated} of {len(texts)} texts cut to {self.max_length} tokens")
        return tokens

    def substitute(self) -> TakenModel | None:
        """An encoder of text."""
        return minilm()

    @property
    def path(self) -> str:
        """The folder or Hub name of the model."""
        return self.source.model(self.hub_model, self.substitute)

    @property
    def tokenizer(self) -> Any:
        """The model's own; loaded when it is first needed."""
        if self._tokenizer is None:
            path, config = self.source.config.tokenizer or self.path, self.source.config
            if Path(path).is_dir() and not any(next(Path(path).glob(name), None) for name in TOKENIZER_FILES):
                raise ModelError(f"model {path} has no tokenizer files: save its tokenizer there, too (or name --tokenizer)")
            self._tokenizer = self.source.load(AutoTokenizer.from_pretrained, path)
            if config.add_tokens:
                add_tokens(self._tokenizer, config.add_tokens)
            if self._tokenizer.pad_token_id is None:
                if self._tokenizer.eos_token_id is None:
                    raise ModelError(f"model {path}: its tokenizer has neither a padding nor an end token")
                self._tokenizer.pad_token = self._tokenizer.eos_token  # masked by attention, not by its id
            if self.num_types < 2:  # and so it is saved: a pipeline gives none, either
                names = self._tokenizer.model_input_names
                self._tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
        return self._tokenizer

    @property
    def config(self) -> Any:
        """The checkpoint's config.json."""
        if self._config is None:
            self._config = self.source.load(read_config, self.path)
        return self._config

    @cached_property
    def skeleton(self) -> nn.Module | None:
        """The model without weights, to be asked what it takes; None where it cannot be made so."""
        return without_weights(self.auto_class, self.config)

    @property
    def num_types(self) -> int:
        """How many token types the model tells apart, if it can be asked."""
        return ANY_TYPE if self.skeleton is None else num_token_types(self.skeleton)

    @property
    def model_length(self) -> int:
        """The most tokens that the model has positions for."""
        if self._model_length is None:
            positions = getattr(self.config, "max_position_embeddings", None) or 0
            positions -= first_position(self.skeleton) if self.skeleton and positions > 0 else 0
            self._model_length = int(positions) if positions > 0 else min(512, self.tokenizer.model_max_length)
        return self._model_length

    @property
    def max_length(self) -> int:  # type: ignore[override]
        """Tokens per text: as asked, within what the model takes."""
        asked, limit = self.options.max_length, self.model_length
        if asked is not None and asked > limit:
            raise UsageError(f"{self.length_flag} {asked}: this model takes at most {limit} tokens")
        special = self.tokenizer.num_special_tokens_to_add(
            pair=bool(getattr(self.options, "text_pair_column", None)) and self.one_text
        )
        length: int = asked or min(self.default_length, limit, self.tokenizer.model_max_length)
        if length <= special:  # truncation would be off
            rule = f"{special} tokens of each row are special ones"
            if asked is not None:
                raise UsageError(f"{self.length_flag} {asked}: {rule}, give more")
            names = "model_max_length, max_seq_length or max_position_embeddings"
            raise ModelError(f"model {self.path}: its files let a text have {length} tokens, and {rule}: mend {names} there")
        return length

    # --------------------------------------------------------------------------------------------------------- model

    def with_room_for_the_tokens(self, model: Any, path: str) -> nn.Module:
        """The model, with rows for the tokens that are added; ModelError if its tokenizer has ids without an embedding."""
        rows = rows_of_token_table(model)
        last = max(len(self.tokenizer) - 1, *self.tokenizer.get_vocab().values())  # ids may have gaps
        if rows is not None and last >= rows and self.source.config.add_tokens:
            model.resize_token_embeddings(last + 1)  # a new row is drawn about the mean of the others
            return model  # type: ignore[no-any-return]
        if rows is not None and last >= rows:
            raise ModelError(
                f"model {path}: its tokenizer has ids up to {last}, and the model {rows} embeddings: if tokens were added, "
                "save the model again after model.resize_token_embeddings(len(tokenizer)) in Python"
            )
        return model  # type: ignore[no-any-return]

    def from_pretrained(self, path: str, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """The model in float32, never from a pickle, and the report of what the checkpoint lacked. Raises ModelError."""
        safely = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        loaded: tuple[Any, dict[str, Any]]
        if (adapter := lora.folder_of(self.source.load, path)) is not None:
            loaded = lora.load_merged(self.source.load, self.auto_class, path, adapter, **safely, **arguments)
        else:
            refuse_oversized(self.auto_class, self.source.load(read_config, path), path)
            loaded = self.source.load(self.auto_class.from_pretrained, path, **safely, **arguments)
        loaded[0].config.return_dict = True  # outputs by name
        for name, weights in loaded[0].named_parameters():
            if not torch.isfinite(weights).all():
                raise ModelError(f"model {path}: {name} holds NaN or infinity: the run that made it diverged, or it is damaged")
        return loaded

    def with_new_head(self, **arguments: Any) -> Any:
        """The model to train; what the checkpoint lacks of its head, and of that alone, is new. Raises ModelError."""
        model, report = self.from_pretrained(self.path, ignore_mismatched_sizes=True, **arguments)
        check_loaded(model, report, self.path)
        return model

    def adopt(self, model: nn.Module) -> None:
        self.is_finished = True

    def save(self, model: nn.Module, directory: Path) -> None:
        model.save_pretrained(directory)  # type: ignore[operator]
        self.save_processor(directory)

    def save_exported(self, model: nn.Module, directory: Path) -> None:
        super().save_exported(model, directory)
        self.save_processor(directory)

    def save_processor(self, directory: Path) -> None:
        """What makes the model's inputs."""
        self.save_tokenizer(directory)

    def save_tokenizer(self, directory: Path) -> None:
        before = self.tokenizer.model_max_length
        try:
            if self.cuts:  # what cuts by the tokenizer's own limit, a pipeline say, cuts as training did
                self.tokenizer.model_max_length = self.max_length
            self.tokenizer.save_pretrained(directory)
        finally:
            self.tokenizer.model_max_length = before


def checked_texts(texts: Sequence[Any], where: str, row_name: RowName = plain_row) -> Sequence[str]:
    """All strings, or DataError with the row; blank ones are counted and said."""
    blank = 0
    for row, text in enumerate(cells_of(texts)):
        if not isinstance(text, str):
            way = ": write a row for each text of the list" if isinstance(text, list) else ""
            way = ": fill the cell, or leave the row out" if text is None else way
            raise DataError(f"{where}, {row_name(row)}: a text is needed, found {text!r:.80}{way}")
        if is_half(text):
            raise DataError(f"{where}, {row_name(row)}: the text holds half a character (a lone surrogate)")
        blank += not text.strip()
    if blank:
        note(f"{where}: {blank} of {len(texts)} texts are blank")
    return texts


def add_tokens(tokenizer: Any, name: str) -> None:
    """Those of a text file, one a line; says how many are new. Raises DataError for a file without any."""
    [lines] = read_named(name, "--add-tokens", Form()).values()
    wanted = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    known = set(tokenizer.get_vocab())
    new = [token for token in wanted if token not in known]
    if not new:
        raise DataError(f"--add-tokens {name}: none of its {len(wanted)} lines is a token that the tokenizer lacks")
    tokenizer.add_tokens(new)
    note(f"tokenizer: {len(new)} tokens added, such as {new[0]!r}; {len(wanted) - len(new)} of {len(wanted)} were known")


def refuse_settings(config: SourceConfig, what: str, *names: str) -> None:
    """Raises UsageError for settings that would silently have no effect on such data."""
    for name in names:
        if getattr(config, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} has no effect on {what}: leave it out")


def containing(table: Dataset, wanted: str, column: str, split: str) -> Dataset:
    """The rows whose text, or words, or messages, contain what is wanted, in capitals or not; says how many are left.

    Raises DataError if none is.
    """
    wanted = wanted.casefold()
    kept = [row for row, text in enumerate(cells_of(table[column])) if wanted in said_in(text).casefold()]
    if not kept:
        raise DataError(f"{split} data: no row contains {wanted!r} in column {column!r}: change --contains, or leave it out")
    note(f"{split} data: {len(kept)} of {len(table)} rows contain {wanted!r}")
    return chosen(table, np.array(kept))


def said_in(cell: Any) -> str:
    """All texts of a cell: it may be one, or a list of words, or messages with their roles, which do not count."""
    if isinstance(cell, Mapping):
        return said_in([value for key, value in cell.items() if key != "role"])
    return " ".join(map(said_in, cell)) if isinstance(cell, list) else str(cell)


def names_of_pieces(table: Dataset, rows: Sequence[int]) -> RowName:
    """What errors call rows of tokens, of which a row of the table may have several: ``rows`` are those that each is of."""
    name = names_of_rows(table)
    return lambda piece: name(rows[piece])


SPARE = 2**28  # parameters that a model may have more than its files have bytes: a new head


def refuse_oversized(auto_class: Any, config: Any, path: str) -> None:
    """Raises ModelError for settings that ask for far more parameters than are stored: what is missing would be made, until
    the memory is full. Of a folder; nothing is known of files that are not fetched yet."""
    if not (stored := sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))):
        return
    if (model := without_weights(auto_class, config)) is None:
        return
    number = sum(each.numel() for each in model.parameters())
    if number > stored + SPARE:
        raise ModelError(f"model {path}: config.json asks for {number:,} parameters, and its files have {stored:,} bytes")


def check_loaded(model: nn.Module, report: Mapping[str, Any], path: str) -> None:
    """Only the head may be new: any other weight that the checkpoint lacks would silently be random."""
    body = f"{model.base_model_prefix}."
    missing = sorted(name for name in report["missing_keys"] if name.startswith(body) and ".pooler." not in name)
    missing += sorted(str(name) for name, *_ in report["mismatched_keys"] if str(name).startswith(body))
    if missing:
        what = "lacks, or has in another size," if report["mismatched_keys"] else "lacks"
        raise ModelError(f"model {path}: the checkpoint {what} {len(missing)} weights of the model, such as {missing[0]}")
    spare = sorted(
        n for n in report.get("unexpected_keys", ()) if n.startswith(body) and not n.endswith(("position_ids", ".bias"))
    )
    if spare := [name for name in spare if ".pooler." not in name]:
        note(f"warning: {len(spare)} weights of the checkpoint have no place in the model, such as {spare[0]}")
    new = sorted({*report["missing_keys"], *(str(name) for name, *_ in report["mismatched_keys"])})
    if new:
        note(f"model: new, to be trained: {', '.join(new)}")
    model.has_new_pooler = any(".pooler." in name for name in new)  # type: ignore[assignment]  # engine/model/lora.py asks
