"""From rows of data to preferences: a prompt, a better answer and a worse one, all texts or all messages. Next: encoded.py."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.checked import parse_json
from engine.console import note
from engine.data.tables import names_of_rows
from engine.data.tokens import cells_of
from engine.errors import DataError
from tasks.language.conversations import message_of, messages_in

if TYPE_CHECKING:
    from datasets import Dataset


class Preference(NamedTuple):
    """``row``: of the table. The prompt and the answers are texts, or lists of messages; the answers do not hold the prompt."""

    row: int
    prompt: Any
    chosen: Any
    rejected: Any

    @property
    def is_chat(self) -> bool:
        return isinstance(self.chosen, list)


def preferences_of(table: Dataset, prompt: str | None, answers: Sequence[str], where: str) -> list[Preference]:
    """One for each row, but for those whose answers are the same, which are counted. Raises DataError with the row.

    ``prompt``: its column; None: both answers begin with it. ``answers``: the columns of the better and of the worse one.
    """
    found, name = [], names_of_rows(table)
    columns = [cells_of(table[column]) for column in ((prompt,) if prompt else ()) + tuple(answers)]
    for row, cells in enumerate(zip(*columns, strict=True)):
        *before, chosen, rejected = cells
        if before == [None]:
            raise DataError(f"{where}, {name(row)}: prompt and answers must be texts, or lists of messages, found None")
        each = preference(row, before[0] if before else None, chosen, rejected, f"{where}, {name(row)}")
        if each.chosen != each.rejected:
            found.append(each)
    if same := len(table) - len(found):
        note(f"{where}: {same} of {len(table)} rows left out: their answers are the same, so none is preferred")
    if not found:
        raise DataError(f"{where}: in every row both answers are the same")
    return found


def preference(row: int, prompt: Any, chosen: Any, rejected: Any, where: str) -> Preference:
    """Raises DataError where one is no text and no list of messages, or they are not all of a kind."""
    prompt, chosen, rejected = map(unfolded, (prompt, chosen, rejected))
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise DataError(
            f"{where}: one answer is a text and the other a list of messages, found {chosen!r:.40}, {rejected!r:.40}"
        )
    if not isinstance(chosen, list):
        for text in (chosen, rejected) if prompt is None else (prompt, chosen, rejected):
            if not isinstance(text, str):
                raise DataError(f"{where}: prompt and answers must be texts, or lists of messages, found {text!r:.60}")
        return Preference(row, *(without_prompt(chosen, rejected) if prompt is None else (prompt, chosen, rejected)))
    answers = [messages_in(answer, where) for answer in (chosen, rejected)]
    if prompt is None:
        return Preference(row, *without_prompt(*answers))
    if isinstance(prompt, str) and prompt == answers[0][0]["content"]:
        raise DataError(f"{where}: the answers are conversations that begin with the prompt: --prompt-column none")
    if not isinstance(prompt, list):
        raise DataError(f"{where}: the answers are lists of messages, and the prompt must be one, too, found {prompt!r:.60}")
    return Preference(row, [message_of(message, where) for message in prompt], *answers)


def unfolded(cell: Any) -> Any:
    """Messages that were written as a text, as JSON, in a CSV cell; anything else as it is."""
    if isinstance(cell, str) and cell.lstrip().startswith("[") and "{" in cell:
        with suppress(ValueError):
            found = parse_json(cell)
            return found if isinstance(found, list) and all(isinstance(each, dict) for each in found) else cell
    return cell


def without_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """What both begin with, and the rest of each; of texts cut before a blank, as the answers' first words begin with it."""
    at = next((i for i, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), None)
    at = min(len(chosen), len(rejected)) if at is None else at
    if isinstance(chosen, str) and at and chosen[at - 1] == " ":
        at -= 1
    return chosen[:at], chosen[at:], rejected[at:]


def as_text(part: Any) -> str:
    """Of a prompt or an answer, for people."""
    return part if isinstance(part, str) else "\n".join(f"{message['role']}: {message['content']}" for message in part)


def all_texts(preferences: Sequence[Preference]) -> list[str]:
    """What a tokenizer is made from where there is no checkpoint."""
    return ["\n".join(as_text(part) for part in each[1:]) for each in preferences]
