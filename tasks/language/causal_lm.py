"""Causal language modelling: predict each next token of a text, as GPT-2 does.

    {"text": "The waiter brought the wrong dish twice ..."}          a document; or --train-file story.txt

``--documents joined`` (the default) lays all texts end to end and cuts every ``--block-size`` tokens, as the tutorials do:
a .txt file is then one text with its line breaks, and the rows of any other file or data set are texts with the
tokenizer's end token behind each. ``--documents packed`` keeps each row (or line of a .txt file) apart from the others: a
long one in pieces, and none sees another. Blank rows are left out. ``python run.py generate`` uses the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from engine.data.places import files_in, parts_of
from engine.data.remote import unfetched
from engine.data.sources import Source
from engine.data.streams import kind_of, looks_like_a_file
from engine.data.tables import RowName, chosen, names_of_rows
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset, tokenize
from engine.errors import DataError, UsageError
from engine.settings.fields import is_address, user_path
from engine.task import Examples, Row, held_out
from tasks.language.decoder import Decoder
from tasks.language.task import WHOLE, LanguageMetrics, in_blocks, in_pieces, names_of_parts
from tasks.options import DEFAULTS, CausalOptions
from tasks.samples import yelp
from tasks.text import checked_texts

if TYPE_CHECKING:
    from datasets import Dataset

LINES_AT_ONCE = 1000  # a whole book is tokenised in parts of so many lines
SAMPLE_ROWS = {"train": (4000, 1), "eval": (400, 2)}  # reviews generated, and the seed of each split


class CausalLM(Decoder[CausalOptions]):
    """GPT-2 on a text."""

    Options = CausalOptions
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["clm"]
    hub_data = HubData("Salesforce/wikitext", "wikitext-2-raw-v1", eval="validation")
    length_flag = "--block-size"
    default_length = 128
    try_it = ("The",)

    def __init__(self, options: CausalOptions, source: Source):
        super().__init__(options, source)
        self.tokens_per_byte: dict[str, float] = {}

    def columns(self) -> list[str]:
        return [self.options.text_column]

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Generated reviews."""
        from datasets import Dataset

        tables = {
            split: Dataset.from_dict({"text": [review.text for review in yelp.generate_reviews(number, seed)]})
            for split, (number, seed) in SAMPLE_ROWS.items()
        }
        return tables, f"embedded sample (synthetic reviews made by this project, version {yelp.VERSION})"

    def is_one_text(self) -> bool:
        """Are the rows the lines of a text?"""
        config = self.source.config
        name = config.train_file or config.data
        if user_path(name).is_dir():
            name = files_in(user_path(name))["train"] or ""
        if not looks_like_a_file(name) and not is_address(name):
            return False
        files = [file for part in parts_of(name, fetch=unfetched) for file in part.files]
        is_text = all(kind_of(file) == ".txt" for file in files)
        return self.options.documents == "joined" and is_text and not config.delimiter

    def splits(self) -> dict[str, Dataset]:
        """As for other texts; but of a text that is one, the end is held out, and nothing is picked at random."""
        if not self.is_one_text():
            return super().splits()
        config, tables = self.source.config, self.tables()
        picked = config.max_train_examples or config.max_eval_examples or config.contains or config.fold or config.eval_part
        if picked or self.source.mixture is not None:
            raise UsageError(
                "shares, --max-train-examples, --max-eval-examples, --contains, --fold and --eval-part pick rows, and a .txt "
                "file is one text: cut the file, or, if each line is a text, give --documents packed"
            )
        if config.eval_fraction and not held_out(tables):
            lines = tables["train"]
            at = len(lines) - max(1, round(len(lines) * config.eval_fraction))
            if at < 1:
                raise DataError(f"--eval-fraction {config.eval_fraction} of {len(lines)} lines leaves none to train on")
            tables = {"train": chosen(lines, np.arange(at)), "eval": chosen(lines, np.arange(at, len(lines)))}
        return tables

    def examples(self) -> dict[str, Examples]:
        tables, column = self.splits(), self.options.text_column
        names: dict[str, RowName] = {split: names_of_rows(table) for split, table in tables.items()}
        texts = {split: list(checked_texts(table[column][:], f"{split} data", names[split])) for split, table in tables.items()}
        self.corpus = texts.get("train", ())
        return {split: self.rows(documents, split, names[split]) for split, documents in texts.items()}

    def rows(self, texts: list[str], split: str, row: RowName) -> Examples:
        """Token ids in blocks or pieces; notes how many tokens a byte of the text takes. ``row``: what a text is called."""
        name = f"{split} data"
        if self.is_one_text():
            begin = [*range(0, len(texts), LINES_AT_ONCE)]
            parts = ["\n".join(texts[i : i + LINES_AT_ONCE]) + "\n" for i in begin]
        else:
            begin = [i for i, text in enumerate(texts) if text.strip()]
            parts = [texts[i] for i in begin]
            if not parts:
                raise DataError(f"{name}: all texts are blank")
        end = "" if self.is_one_text() or self.ends_by_itself() else self.tokenizer.eos_token or ""
        tokens = tokenize([part + end for part in parts], self.tokenizer, WHOLE, name=name)
        tokens = dataclasses.replace(tokens, types=None)  # generate gives none, and GPT-2 would add them to its embeddings
        self.tokens_per_byte[split] = len(tokens.ids) / sum(len(part.encode()) for part in parts)
        cut = (
            in_pieces(tokens, self.max_length, name)
            if self.options.documents == "packed"
            else in_blocks(tokens, self.max_length)
        )
        return TokenDataset(cut, {}, row_name=names_of_parts(tokens, cut, lambda part: row(begin[part])))

    def ends_by_itself(self) -> bool:
        """Does the tokenizer put the end token there?"""
        return bool(self.tokenizer("a")["input_ids"][-1] == self.tokenizer.eos_token_id)

    def labels_of(self, row: Row) -> np.ndarray:
        """[T]: the next token; the last one has none. An end token that pads, too, is a target like any other."""
        return np.append(row["input_ids"][1:], -100)

    def metrics(self, split: str) -> LanguageMetrics:
        """bits_per_byte: what the mean loss comes to over all tokens of the text, the end tokens among them."""
        return LanguageMetrics(self.tokens_per_byte[split])
