"""Tag each word of a text: names of people, places and things (NER), parts of speech.

    {"tokens": ["Ada", "flew", "to", "Lima"], "tags": ["B-person", "O", "O", "B-location"]}
    {"text": "Ada flew to Lima", "spans": [{"start": 0, "end": 3, "label": "person"}]}   --text-column text --label-column spans

Of a word in several tokens the first has the tag, as in transformers' run_ner; the loss is cross-entropy, summed over words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, AutoTokenizer

from engine.console import note, shown
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout
from engine.data.form import Columns
from engine.data.tables import row_name
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset
from engine.errors import DataError
from engine.task import Examples, Metrics, Row, held_out
from tasks.classification.column import class_names
from tasks.classification.labels import warn_of_lookalikes
from tasks.language.task import LanguageModel
from tasks.options import DEFAULTS, TaggingOptions
from tasks.samples import entities
from tasks.tagging.mistakes import Place, TagMistakes
from tasks.tagging.predicted import Text, batches_of, prediction
from tasks.tagging.tags import ThingMetrics, WordMetrics, kinds_of
from tasks.tagging.words import Tagged, encode, tagged_words
from tasks.text import check_loaded, names_of_outputs, names_of_pieces, trained_names

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN, EVAL = 2000, 500  # sentences of the sample


class Tagging(LanguageModel[TaggingOptions]):
    """An encoder with a head that reads every token; logits are computed for words only."""

    Options = TaggingOptions
    hub_data = HubData("leondz/wnut_17")
    hub_model = "bert-base-cased"
    auto_class = AutoModelForTokenClassification
    pipeline_tag = "token-classification"
    exported = ("logits",)
    kind = "tagger"
    best_metric = "f1"
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["ner"]
    try_it = ("Maria Dalton flew from Norbury to Kelsey to open the new office of Hartwell Bank.",)

    def __init__(self, options: TaggingOptions, source: Any):
        super().__init__(options, source)
        self.names: tuple[str, ...] | None = None  # of the tags, in the order of the model's outputs
        self.is_finished = False
        self._held_out: dict[str, Dataset] = {}
        self._places: dict[str, list[Place]] = {}  # of each row of a split

    # ---------------------------------------------------------------------------------------------------------- data

    def columns(self) -> list[str]:
        return [self.options.text_column, self.label_column]

    @property
    def label_column(self) -> str:
        """As asked; that of the task's own data has another name."""
        config = self.source.config
        is_given = self.source.given is not None or self.source.files is not None or config.train_file or config.eval_file
        is_own = not is_given and config.data in ("auto", "hub", "sample")
        return self.options.label_column or ("ner_tags" if is_own else "tags")

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Sentences made by this project."""
        from datasets import Dataset

        parts = {"train": entities.sentences(TRAIN, seed=0), "eval": entities.sentences(EVAL, seed=1)}
        tables = {split: Dataset.from_dict({"tokens": words, "ner_tags": tags}) for split, (words, tags) in parts.items()}
        return tables, "embedded sample (synthetic sentences with names, made by this project, version 2)"

    @property
    def tokenizer(self) -> Any:
        """The model's own; one of bytes takes words only if each may stand behind a blank."""
        found = super().tokenizer
        if getattr(found, "add_prefix_space", True) is False:
            padding = found.pad_token
            self._tokenizer = found = self.source.load(AutoTokenizer.from_pretrained, self.path, add_prefix_space=True)
            found.pad_token = padding
        return found

    def examples(self) -> dict[str, Examples]:
        tables = self.splits()
        if self.is_finished:  # only what is measured is made
            tables.pop("train", None)
        sentences = {split: self.read(table, split) for split, table in tables.items()}
        if self.names is None:
            self.names = self.names_for(sentences["train"], tables["train"])
            self.say_what_there_is(sentences["train"])
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

    def names_for(self, sentences: Sequence[Tagged], table: Dataset) -> tuple[str, ...]:
        """Of the tags: those of a tagger that is trained on, else in the data's own order. Raises DataError."""
        used = {tag for _, tags in sentences for tag in tags}
        names = self.names_given(table) or tuple(sorted(used, key=lambda tag: (tag != "O", tag)))
        if (own := trained_names(self.config, "ForTokenClassification")) is not None:
            if unknown := sorted(used - set(own)):
                raise DataError(
                    f"the data have the tag {unknown[0]!r}, and {self.source.config.model} was trained for {', '.join(own)}: "
                    "train on from a model without tags of its own"
                )
            note(f"tags: those of {self.source.config.model}: {', '.join(own)}")
            names = own
        warn_of_lookalikes(names, "tags")
        if len(names) < 2:
            raise DataError(f"the training data have one tag only, {names[0]!r}: there is nothing to tell apart")
        return names

    def say_what_there_is(self, sentences: Sequence[Tagged]) -> None:
        """Tags with their counts: a wrong column is seen here."""
        counts = Counter(tag for _, tags in sentences for tag in tags)
        total, names = counts.total(), self.known(self.names)
        if (kinds := kinds_of(names)) is None:
            shares = ", ".join(f"{shown(tag)} {n / total:.0%}" for tag, n in counts.most_common(12))
            note(f"tags: {len(names)}, each by itself: {shares}{', ...' if len(names) > 12 else ''} of {total:,} words")
            return
        begun = {kind: counts[f"B-{kind}"] + counts[f"S-{kind}"] + counts[f"U-{kind}"] for kind in kinds}
        listed = ", ".join(f"{shown(kind)} {n or counts[f'I-{kind}']:,}" for kind, n in begun.items())
        note(f"tags: names of {len(kinds)} kinds ({listed}); {counts['O'] / total:.0%} of {total:,} words are in none")

    def on_tokens(self, sentences: Sequence[Tagged], table: Dataset, split: str) -> Examples:
        """Token ids with a label at the first token of each word. Raises DataError for a tag that nobody has learned."""
        numbers = {name: i for i, name in enumerate(self.known(self.names))}
        for row, (_, tags) in enumerate(sentences):
            if unknown := next((tag for tag in tags if tag not in numbers), None):
                known = ", ".join(self.known(self.names))
                raise DataError(f"{split} data, {row_name(table, row)}: the tag {unknown!r} is none of those trained: {known}")
        kept = [row for row, (words, _) in enumerate(sentences) if words]
        found = encode([sentences[row][0] for row in kept], self.tokenizer, self.max_length, f"{split} data")
        of_words = [np.array([numbers[tag] for tag in sentences[row][1]]) for row in kept]
        labels = [np.where(w >= 0, of_words[s][w], -100) for w, s in zip(found.words, found.sentence, strict=True)]
        flat = np.concatenate(labels)
        if not (flat != -100).any():
            raise DataError(
                f"{split} data: no word has a token of {self.path}: their characters cannot be seen, or it knows none"
            )
        if lost := sum(map(len, of_words)) - int((flat != -100).sum()):
            note(f"{split} data: {lost} words have no token, as their characters cannot be seen: they are not tagged")
        if split != "train":
            self._places[split] = [(kept[s], words[words >= 0]) for s, words in zip(found.sentence, found.words, strict=True)]
        return TokenDataset(
            found.tokens(),
            token_columns={"labels": flat.astype(np.int32)},
            row_name=names_of_pieces(table, [kept[sentence] for sentence in found.sentence]),
        )

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """As of language models; ``targets["num_words"]`` [B] says where a row's words end."""
        batch = super().collate(rows, layout)
        batch.targets["num_words"] = torch.tensor([int((row["labels"] != -100).sum()) for row in rows])
        return batch

    # --------------------------------------------------------------------------------------------------------- model

    def build_model(self) -> nn.Module:
        names, path = self.known(self.names), self.path
        model, report = self.from_pretrained(
            path,
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
            ignore_mismatched_sizes=True,
        )
        check_loaded(model, report, path)
        return self.with_room_for_the_tokens(model, path)

    def adopt(self, model: nn.Module) -> None:
        self.names, self.is_finished = names_of_outputs(model, "tags"), True

    def metrics(self, split: str) -> Metrics:
        names = self.known(self.names)
        kinds = kinds_of(names)
        return WordMetrics(names) if kinds is None else ThingMetrics(names, kinds)

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """[words, L]."""
        logits: Tensor = outputs.logits[0]
        return logits.float().softmax(-1)

    def review(self, split: str) -> TagMistakes:
        return TagMistakes(self.known(self.names), self._held_out[split], self._places[split], self.options.text_column)

    def label_names(self, model: nn.Module) -> Sequence[str]:
        names: Mapping[int, str] = getattr(getattr(model, "config", None), "id2label", None) or {}
        return [names[i] for i in sorted(names)]

    # ----------------------------------------------------------------------------------------------------- inference

    def inputs_of(self, rows: Columns) -> list[Any]:
        """Texts, or lists of words."""
        name = self.options.text_column if self.options.text_column in rows else "text"
        if name not in rows:
            raise DataError(f"the input has no column {name!r} (it has: {', '.join(rows)}): name it with --text-column")
        return list(rows[name])

    def served(self) -> list[dict[str, Any]]:
        return [{"text": "Maria Dalton works in Kelsey."}, {"text": ["Maria", "Dalton", "works", "in", "Kelsey", "."]}]

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each text ``{"entities": [{label, text, start, end, score}, ...]}``, characters from ``start`` to before ``end``.

        Of a list of words, and where tags are no parts of names: ``{"words", "tags", "scores"}``, a list each.
        """
        if self.names is None:
            self.adopt(model)
        names, device = self.known(self.names), next(model.parameters()).device
        kinds, texts = kinds_of(names), [Text.of(item, number) for number, item in enumerate(inputs, start=1)]
        for some, rows in batches_of(texts, self.tokenizer, self.max_length):
            p = torch.empty(0, len(names))
            if rows:
                batch = self.collate(rows, layout).to(device)
                with torch.inference_mode():
                    p = model(**batch.inputs).logits[0, : batch.num_items].float().softmax(-1).cpu()  # [words, L]
            for text, its in zip(some, p.split([text.num_words for text in some]), strict=True):
                yield prediction(text, its, names, kinds)

    def describe(self, prediction: Mapping[str, Any]) -> str:
        if "entities" in prediction:
            named = [f"{shown(e['text'])} ({e['label']} {e['score']:.2f})" for e in prediction["entities"]]
            return "; ".join(named) or "(no name)"
        return " ".join(f"{word}/{tag}" for word, tag in zip(prediction["words"], prediction["tags"], strict=True))

    def columns_of(self, prediction: Mapping[str, Any], flat: bool) -> dict[str, Any]:
        """In a CSV file the entities are one cell: ``Ada Lovelace (person)|Lima (location)``."""
        if flat and "entities" in prediction:
            return {"predicted_entities": "|".join(f"{e['text']} ({e['label']})" for e in prediction["entities"])}
        return super().columns_of(prediction, flat)
