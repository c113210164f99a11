"""A model that tags words: what it takes, and what it says of a text. Next: task.py, which trains it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, AutoTokenizer

from engine.console import shown
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout
from engine.data.form import Columns
from engine.errors import DataError
from engine.task import Row
from tasks.language.task import LanguageModel
from tasks.options import TaggingOptions
from tasks.outputs import names_of_outputs, names_told
from tasks.tagging.predicted import Text, batches_of, prediction
from tasks.tagging.tags import kinds_of


class Tagger(LanguageModel[TaggingOptions]):
    """An encoder with a head that reads every token; logits are computed for words only."""

    auto_class = AutoModelForTokenClassification
    pipeline_tag = "token-classification"
    exported = ("logits",)
    kind = "tagger"

    def __init__(self, options: TaggingOptions, source: Any):
        super().__init__(options, source)
        self.names: tuple[str, ...] | None = None  # of the tags, in the order of the model's outputs

    @property
    def tokenizer(self) -> Any:
        """The model's own; one of bytes takes words only if each may stand behind a blank."""
        found = super().tokenizer
        if getattr(found, "add_prefix_space", True) is False:
            padding = found.pad_token
            self._tokenizer = found = self.source.load(AutoTokenizer.from_pretrained, self.path, add_prefix_space=True)
            found.pad_token = padding
        return found

    def adopt(self, model: nn.Module) -> None:
        super().adopt(model)
        self.names = names_of_outputs(model, "tags")

    def label_names(self, model: nn.Module) -> Sequence[str]:
        return names_told(model)

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """As of language models; ``targets["num_words"]`` [B] says where a row's words end."""
        batch = super().collate(rows, layout)
        batch.targets["num_words"] = torch.tensor([int((row["labels"] != -100).sum()) for row in rows])
        return batch

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """[words, L]."""
        logits: Tensor = outputs.logits[0]
        return logits.float().softmax(-1)

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
