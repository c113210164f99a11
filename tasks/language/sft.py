"""Supervised fine-tuning: learn to answer. The loss is on the answers only.

    {"messages": [{"role": "user", "content": "Which word comes last: red, moon, cat?"},
                  {"role": "assistant", "content": "cat"}]}
    {"prompt": "Translate: Guten Tag\\n", "completion": "Good day"}                      --prompt-column prompt

Messages go through the tokenizer's own chat template; every assistant turn is an answer. A completion gets the end token
behind it. Conversations lie end to end in a packed batch, and none sees another. ``python run.py generate --chat`` asks
the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from engine.console import note
from engine.data.tables import RowName, names_of_rows, row_name
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset, Tokens
from engine.errors import DataError, ModelError
from engine.task import Examples
from tasks.language.answers import encoded
from tasks.language.conversations import messages_in
from tasks.language.decoder import Decoder
from tasks.language.generate import chat_prompt
from tasks.options import SFTOptions
from tasks.samples.instructions import conversations

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE_ROWS = {"train": (8000, 1), "eval": (500, 2)}  # conversations generated, and the seed of each split


class SFT(Decoder[SFTOptions]):
    """A small instruct model on conversations."""

    Options = SFTOptions
    hub_data = HubData("trl-lib/Capybara", eval="test")
    hub_model = "HuggingFaceTB/SmolLM2-135M-Instruct"
    try_it: ClassVar[Sequence[str]] = ("Which word comes last: red, moon, cat?",)

    def columns(self) -> list[str]:
        o = self.options
        return [*o.prompt_column.split(","), o.completion_column] if o.prompt_column else [o.messages_column]

    def way_in(self, found: Sequence[str]) -> str:
        """ShareGPT's and Alpaca's columns are known."""
        if "conversations" in found:
            return "--messages-column conversations"
        if {"instruction", "output"} <= set(found):
            both = "instruction,input" if "input" in found else "instruction"
            return f"--prompt-column {both} --completion-column output"
        return super().way_in(found)

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Generated conversations, always as messages."""
        from datasets import Dataset

        tables = {s: Dataset.from_dict({"messages": conversations(n, seed)}) for s, (n, seed) in SAMPLE_ROWS.items()}
        return tables, "embedded sample (synthetic instructions made by this project, version 1)"

    def examples(self) -> dict[str, Examples]:
        tables = self.splits()
        rows = {split: self.read(table, split) for split, table in tables.items()}
        self.corpus = [text for row in rows.get("train", ()) for text in texts_of(row)]
        return {split: self.rows(some, f"{split} data", names_of_rows(tables[split])) for split, some in rows.items()}

    def read(self, table: Dataset, split: str) -> list[tuple[Any, ...]]:
        """Of each row the messages, or prompt and completion. Raises DataError."""
        found: list[tuple[Any, ...]] = []
        for number, cells in enumerate(zip(*(table[name][:] for name in self.columns()), strict=True)):
            where = f"{split} data, {row_name(table, number)}"
            if self.options.prompt_column:
                check_texts(where, *cells)
                found.append(("\n".join(text for text in cells[:-1] if text.strip() or len(cells) == 2), cells[-1]))
            else:
                found.append((messages_in(cells[0], where),))
        return found

    def rows(self, rows: Sequence[tuple[Any, ...]], name: str, row_name: RowName) -> Examples:
        """Token ids and labels: the next token where an answer is to be given, else -100. ``row_name``: what errors call a row.

        Conversations whose answers lie behind ``--max-length`` are left out, and counted.
        """
        if not self.options.prompt_column and not self.tokenizer.chat_template:
            raise ModelError(
                f"model {self.path}: its tokenizer has no chat template. Take a model that has one, "
                "or give the data as texts: --prompt-column and --completion-column"
            )
        if not self.tokenizer.is_fast:
            raise ModelError(
                f"model {self.path}: its tokenizer ({type(self.tokenizer).__name__}) is written in Python and cannot say where "
                "in the text a token stands, so answers cannot be told apart: take a model with a tokenizer.json"
            )
        ids, labels, kept, num_cut = [], [], [], 0
        for number, (tokens, is_answer) in enumerate(encoded(rows, self.tokenizer, name, row_name)):
            num_cut += len(tokens) > self.max_length
            some, its = tokens[: self.max_length], is_answer[: self.max_length]
            if any(its[1:]):
                kept.append(number)
                ids.append(np.asarray(some, dtype=np.int32))
                labels.append(np.append(np.where(its[1:], some[1:], -100), -100).astype(np.int32))
        if num_cut:
            note(f"{name}: {num_cut} of {len(rows)} conversations cut to {self.max_length} tokens")
        if left_out := len(rows) - len(ids):
            note(f"{name}: {left_out} conversations left out: within {self.max_length} tokens there is no answer")
        if not ids:
            raise DataError(f"{name}: no answer lies within {self.max_length} tokens: raise --max-length")
        return TokenDataset(
            Tokens.of_rows(ids), token_columns={"labels": np.concatenate(labels)}, row_name=lambda row: row_name(kept[row])
        )

    def prompt(self, text: str) -> list[int]:
        return super().prompt(text) if self.options.prompt_column else chat_prompt(self, text)


def check_texts(where: str, *texts: Any) -> None:
    """Raises DataError unless prompt and completion are texts, and there is something to learn."""
    for text in texts:
        if not isinstance(text, str):
            raise DataError(
                f"{where}: prompt and completion must be texts, found {text!r:.60}; messages belong in one column, in order"
            )
    if not texts[-1].strip():
        raise DataError(f"{where}: the completion is blank: remove the row or fill it")


def texts_of(row: tuple[Any, ...]) -> list[str]:
    """All texts of a row."""
    return [cell if isinstance(cell, str) else "\n".join(m["content"] for m in cell) for cell in row]
