"""Tag each word of a text: names of people, places and things (NER), parts of speech.

    {"tokens": ["Ada", "flew", "to", "Lima"], "tags": ["B-person", "O", "O", "B-location"]}
    {"text": "Ada flew to Lima", "spans": [{"start": 0, "end": 3, "label": "person"}]}   --text-column text --label-column spans

Of a word in several tokens the first has the tag, as in transformers' run_ner; the loss is cross-entropy, summed over words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from engine.console import note
from engine.data.tables import names_of_rows
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset
from engine.errors import DataError
from engine.task import Examples, Metrics, held_out
from tasks.classification.column import class_names
from tasks.options import DEFAULTS, TaggingOptions
from tasks.outputs import trained_names, with_names
from tasks.samples import entities
from tasks.tagging.mistakes import Place, TagMistakes
from tasks.tagging.names import names_for, say_what_there_is
from tasks.tagging.tagger import Tagger
from tasks.tagging.tags import ThingMetrics, WordMetrics, kinds_of
from tasks.tagging.words import Tagged, tagged_words, with_tags
from tasks.text import names_of_pieces

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN, EVAL = 2000, 500  # sentences of the sample


class Tagging(Tagger):
    """Words with a tag each."""

    Options = TaggingOptions
    hub_data = HubData("leondz/wnut_17")
    hub_model = "bert-base-cased"
    best_metric = "f1"
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["ner"]
    try_it = ("Maria Dalton flew from Norbury to Kelsey to open the new office of Hartwell Bank.",)

    def __init__(self, options: TaggingOptions, source: Any):
        super().__init__(options, source)
        self._held_out: dict[str, Dataset] = {}
        self._places: dict[str, list[Place]] = {}  # of each row of a split

    # ---------------------------------------------------------------------------------------------------------- data

    def columns(self) -> list[str]:
        return [self.options.text_column, self.label_column]

    @property
    def label_column(self) -> str:
        """As asked; that of the task's own data has another name."""
        return self.options.label_column or ("ner_tags" if self.source.is_own else "tags")

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Sentences made by this project."""
        from datasets import Dataset

        parts = {"train": entities.sentences(TRAIN, seed=0), "eval": entities.sentences(EVAL, seed=1)}
        tables = {split: Dataset.from_dict({"tokens": words, "ner_tags": tags}) for split, (words, tags) in parts.items()}
        return tables, "embedded sample (synthetic sentences with names, made by this project, version 2)"

    def examples(self) -> dict[str, Examples]:
        tables = self.splits_to_make()
        sentences = {split: self.read(table, split) for split, table in tables.items()}
        if self.names is None:
            own, model = trained_names(self.config, "ForTokenClassification"), self.source.config.model
            self.names = names_for(sentences["train"], self.names_given(tables["train"]), own, model)
            say_what_there_is(sentences["train"], self.names)
        self._held_out = held_out(tables)
        return {split: self.on_tokens(some, tables[split], split) for split, some in sentences.items()}

    def read(self, table: Dataset, split: str) -> list[Tagged]:
        """Words and tags of each row, rows without any word included."""
        o = self.options
        found = tagged_words(table, o.text_column, self.label_column, f"{split} data", self.names_given(table))
        if empty := sum(not words for words, _ in found):
            note(f"{split} data: {empty} of {len(found)} rows have no word: left out")
        if empty == len(found):
            raise DataError(f"{split} data: no row has a word")
        return found

    def names_given(self, table: Dataset) -> tuple[str, ...] | None:
        """Of tags that are numbers, in their order: by the data, or by the user."""
        named = self.options.label_names
        return class_names(table, self.label_column) or (tuple(name.strip() for name in named.split(",")) if named else None)

    def on_tokens(self, sentences: Sequence[Tagged], table: Dataset, split: str) -> Examples:
        """Token ids with a label at the first token of each word."""
        names, where = self.known(self.names), f"{split} data"
        found, labels = with_tags(sentences, names, self.tokenizer, self.max_length, where, names_of_rows(table))
        if split != "train":
            self._places[split] = [(row, words[words >= 0]) for row, words in zip(found.sentence, found.words, strict=True)]
        return TokenDataset(found.tokens(), token_columns={"labels": labels}, row_name=names_of_pieces(table, found.sentence))

    # --------------------------------------------------------------------------------------------------------- model

    def build_model(self) -> nn.Module:
        return self.with_room_for_the_tokens(self.with_new_head(**with_names(self.known(self.names))), self.path)

    def metrics(self, split: str) -> Metrics:
        names = self.known(self.names)
        kinds = kinds_of(names)
        return WordMetrics(names) if kinds is None else ThingMetrics(names, kinds)

    def review(self, split: str) -> TagMistakes:
        return TagMistakes(self.known(self.names), self._held_out[split], self._places[split], self.options.text_column)
