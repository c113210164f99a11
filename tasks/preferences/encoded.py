"""From preferences to tokens: of each the better answer behind its prompt, and the worse one. Next: reward.py, dpo.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from engine.console import note
from engine.data.tables import RowName, plain_row
from engine.data.tokens import TokenDataset, Tokens
from engine.errors import DataError, ModelError
from tasks.language.conversations import messages_in
from tasks.language.templates import TemplateError, within_limits
from tasks.pairs import Pairs
from tasks.preferences.rows import Preference
from tasks.text import checked_texts


def encoded(rows: Sequence[Preference], tokenizer: Any, max_length: int, where: str, name: RowName) -> tuple[Pairs, list[int]]:
    """The pairs, and which of the ``rows`` they are: those with an answer of more than ``max_length`` tokens are left out, and
    counted, as an answer that is cut is another one. ``name``: what errors call a row of the table.

    Each text has the token column "labels": the next token where it belongs to an answer, else -100.
    Raises DataError, ModelError.
    """
    kept, ids, labels = [], ([], []), ([], [])  # type: ignore[var-annotated]
    for number, (prompt, *answers) in enumerate(in_tokens(rows, tokenizer, where, name)):
        if max(map(len, answers)) > max_length:
            continue
        kept.append(number)
        begins = min(common(prompt, answer) for answer in answers)
        for i, answer in enumerate(answers):
            ids[i].append(np.asarray(answer, dtype=np.int32))
            next_token = np.append(answer[1:], -100)
            labels[i].append(np.where(np.arange(1, len(answer) + 1) >= begins, next_token, -100).astype(np.int32))
    if cut := len(rows) - len(kept):
        note(f"{where}: {cut} of {len(rows)} pairs left out: an answer and its prompt have more than {max_length} tokens")
    if not kept:
        raise DataError(f"{where}: no pair has its answers within {max_length} tokens: raise --max-length")
    parts = [side(some, its, tokenizer) for some, its in zip(ids, labels, strict=True)]
    return Pairs(parts, {}, lambda row: name(rows[kept[row]].row)), kept


def side(ids: list[np.ndarray], labels: list[np.ndarray], tokenizer: Any) -> TokenDataset:
    """All better answers, or all worse ones."""
    types = [np.zeros(len(row), np.int8) for row in ids] if "token_type_ids" in tokenizer.model_input_names else ()
    return TokenDataset(Tokens.of_rows(ids, types), token_columns={"labels": np.concatenate(labels)})


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with: the last of a prompt may be another where an answer follows."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def in_tokens(rows: Sequence[Preference], tokenizer: Any, where: str, name: RowName) -> Iterator[list[list[int]]]:
    """The token ids of the prompt, of it with the better answer, and of it with the worse one, of each row.

    Texts get the end token behind them, if the tokenizer has one. Messages go through its chat template, within limits.
    """
    if any(each.is_chat for each in rows) and not tokenizer.chat_template:
        raise ModelError(
            "the model's tokenizer has no chat template, and the data are conversations: take a model that has one, or give "
            "prompt and answers as texts"
        )
    done = 0
    try:
        chats = within_limits(lambda each: rendered(each, tokenizer), [each for each in rows if each.is_chat])
        for each in rows:
            texts = [each.prompt] if each.is_chat else [each.prompt, *(ended(each.prompt + a, tokenizer) for a in each[2:])]
            yield next(chats) if each.is_chat else [tokenizer(text)["input_ids"] for text in texts]
            done += 1
    except TemplateError as error:
        raise DataError(f"{where}, {name(rows[done].row)}: the model's chat template does not take it ({error})") from error


def rendered(each: Preference, tokenizer: Any) -> list[list[int]]:
    """Of messages; the prompt up to where the answer begins. Raises whatever a template raises."""
    found = [chat_tokens(tokenizer, each.prompt, ask=True) if each.prompt else []]
    return found + [chat_tokens(tokenizer, each.prompt + answer) for answer in (each.chosen, each.rejected)]


def chat_tokens(tokenizer: Any, messages: Sequence[Any], ask: bool = False) -> list[int]:
    """The token ids of a conversation; ``ask``: up to where an answer is to begin."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=ask, return_dict=True)["input_ids"]  # type: ignore[no-any-return]


def ended(text: str, tokenizer: Any) -> str:
    """The text with the end token behind it, if there is one and it does not end with it."""
    end = tokenizer.eos_token or ""
    return text if text.endswith(end) else text + end


def scored_tokens(items: Sequence[Any], tokenizer: Any, max_length: int) -> Tokens:
    """Of texts and lists of messages that are given to be scored, as in training. Raises DataError, ModelError."""
    chats = [messages_in(item, f"the input, {plain_row(n)}") for n, item in enumerate(items) if isinstance(item, list)]
    if chats and not tokenizer.chat_template:
        raise ModelError("the model's tokenizer has no chat template, and a conversation is to be scored: give it as a text")
    checked_texts([item for item in items if not isinstance(item, list)], "the input")
    try:
        of_chats = within_limits(lambda chat: chat_tokens(tokenizer, chat), chats)
        found = [next(of_chats) if isinstance(item, list) else tokenizer(ended(item, tokenizer))["input_ids"] for item in items]
    except TemplateError as error:
        raise DataError(f"the input: the model's chat template does not take it ({error})") from error
    cut = [np.asarray(ids[:max_length], dtype=np.int32) for ids in found]
    tokens = side(cut, cut, tokenizer).tokens
    is_cut = np.array([len(ids) > max_length for ids in found])
    return dataclasses.replace(tokens, num_truncated=int(is_cut.sum()), cut=is_cut)
