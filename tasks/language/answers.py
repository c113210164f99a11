"""From conversations, or prompts and completions, to tokens, and which of them belong to an answer. Next: sft.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.data.tables import RowName
from engine.errors import DataError
from tasks.language.templates import TemplateError, within_limits

Message = Mapping[str, str]
Answered = tuple[list[int], list[bool]]  # token ids, and which of them belong to an answer


def encoded(rows: Sequence[tuple[Any, ...]], tokenizer: Any, name: str, row_name: RowName) -> Iterator[Answered]:
    """Of each row: messages alone, or prompt and completion. What runs a template does so within limits. Raises DataError."""
    numbered = [(row, f"{name}, {row_name(number)}") for number, row in enumerate(rows)]
    if all(len(row) == 2 for row in rows):
        yield from (of_completion(prompt, completion, tokenizer) for prompt, completion in rows)
        return
    done = 0
    try:
        for each in within_limits(lambda each: of_messages(each[0][0], tokenizer, each[1]), numbered):
            yield each
            done += 1
    except TemplateError as error:
        raise DataError(f"{numbered[done][1]}: the model's chat template does not take it ({error})") from error


def of_completion(prompt: str, completion: str, tokenizer: Any) -> Answered:
    """The completion gets the end token behind it."""
    text = prompt + completion.removesuffix(tokenizer.eos_token or "") + (tokenizer.eos_token or "")
    return tokens_in(text, [(len(prompt), len(text))], tokenizer, special=True)


def of_messages(messages: Sequence[Message], tokenizer: Any, where: str) -> Answered:
    """By the template's own marks, or else by what it renders. Raises DataError, and whatever a template raises."""
    template = tokenizer.get_chat_template()
    if "{% generation" in template or "{%- generation" in template:
        found = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        return found["input_ids"], [bool(m) for m in found["assistant_masks"]]
    return tokens_in(*rendered(messages, tokenizer, where), tokenizer, special=False)


def rendered(messages: Sequence[Message], tokenizer: Any, where: str) -> tuple[str, list[tuple[int, int]]]:
    """The conversation as text, and where its answers begin and end: behind what comes before each, rendered alone."""

    def render(some: Sequence[Message], ask: bool) -> str:
        return str(tokenizer.apply_chat_template(some, tokenize=False, add_generation_prompt=ask))

    text, spans = render(messages, False), []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            before, after = render(messages[:i], True), render(messages[: i + 1], False)
            if not (after.startswith(before) and text.startswith(after)):
                raise DataError(
                    f"{where}: this model's chat template renders message {i + 1} otherwise when more follow; "
                    "cut the conversation behind its first answer, or mark answers in the template with {% generation %}"
                )
            spans.append((len(before), len(after)))
    return text, spans


def tokens_in(text: str, spans: Sequence[tuple[int, int]], tokenizer: Any, special: bool) -> Answered:
    """Of a text: which of its tokens reach into one of the spans of characters."""
    found = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    inside = [any(a < stop and b > start for start, stop in spans) for a, b in found["offset_mapping"]]
    return found["input_ids"], inside
