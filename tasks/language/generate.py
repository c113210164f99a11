"""``python run.py generate``: a causal language model writes on, or one with an encoder and a decoder writes one text from
another; the work is ``model.generate`` of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TextStreamer

from engine.commands.flags import with_model
from engine.console import say, say_lines, say_part
from engine.errors import DataError, ModelError, UsageError
from engine.finished import Find, open_model
from tasks.flags import GenerateConfig
from tasks.inputs import texts_given, write_found
from tasks.language.templates import TemplateError, within_limits
from tasks.text import checked_texts

PASSED_ON = (
    "max_new_tokens", "num_return_sequences", "no_repeat_ngram_size", "temperature", "top_k", "top_p", "num_beams",
    "repetition_penalty",
)  # fmt: skip


def generate(config: GenerateConfig, texts: Sequence[str], find: Find) -> None:
    """Prints prompt and continuation (with ``--chat`` the answer alone); a line ``---`` stands between texts. Or writes
    ``--output``: beside the columns of ``--input`` what follows each prompt as ``generated``, a list if there are several."""
    config, texts = with_model(config, texts, EXAMPLE)
    texts, rows = texts_given(config, texts, model=config.model, what="a prompt", example=EXAMPLE)
    checked_texts(texts, config.input or "the prompts")
    task: Any
    languages = {"source_lang": config.source_lang, "target_lang": config.target_lang}
    task, model, _ = open_model(
        config.model, find, device=config.device, task=config.task, base=("clm", "seq2seq"), changes=languages
    )
    if config.task is None and task.writes_on and task.config.is_encoder_decoder:
        raise UsageError(
            f"model {config.model} has an encoder and a decoder: --task seq2seq, or --task clm for its decoder alone"
        )
    options = task.decoding | {name: value for name in PASSED_ON if (value := getattr(config, name)) is not None}
    options |= {"do_sample": config.sampled} | ({"stop_strings": config.stop} if config.stop else {})
    torch.manual_seed(config.seed)
    prompts = [chat_prompt(task, text) for text in texts] if config.chat else task.prompts(texts)
    if config.stream:
        return stream(task, model, texts, prompts, shows_prompt=task.writes_on and not config.chat, **options)
    written = write_on(task, model, prompts, batch_size=config.batch_size, **options)
    if config.output:
        cells = [{"generated": found if config.num_return_sequences > 1 else found[0]} for found in written]
        return write_found(config, rows, cells, "texts")
    starts = [text if task.writes_on and not config.chat else "" for text in texts]
    say_lines("\n---\n".join(start + text for start, found in zip(starts, written, strict=True) for text in found))


EXAMPLE = 'generate runs/clm "The food was"'


def chat_prompt(task: Any, text: str) -> list[int]:
    """The token ids of a user's message, up to where the answer begins. Raises ModelError."""
    if not task.tokenizer.chat_template:
        raise ModelError(f"model {task.path}: its tokenizer has no chat template; leave --chat out")

    def render(messages: list[dict[str, str]]) -> list[int]:
        return task.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]  # type: ignore[no-any-return]

    try:
        [ids] = within_limits(render, [[{"role": "user", "content": text}]])
    except TemplateError as error:
        raise ModelError(f"model {task.path}: its chat template fails ({error}); leave --chat out") from error
    return ids  # type: ignore[no-any-return]


def write_on(task: Any, model: nn.Module, prompts: Sequence[list[int]], batch_size: int = 1, **options: Any) -> list[list[str]]:
    """What follows each of the prompts, which are token ids: one text for each sequence asked for, in their order.

    Prompts that have equally many tokens are written on together, at most ``batch_size``: so none is padded, and none is
    answered otherwise than alone. ``options``: of ``model.generate``. Raises DataError for a prompt that leaves no room.
    """
    check_room(task, prompts, options["max_new_tokens"])
    written: list[list[str]] = [[] for _ in prompts]
    for together in alike(prompts, batch_size):
        rows = call(task, model, [prompts[at] for at in together], **options).tolist()
        number = len(rows) // len(together)
        for at, first in zip(together, range(0, len(rows), number), strict=True):
            written[at] = [ended(task.follows(prompts[at], row), options) for row in rows[first : first + number]]
    return written


def alike(prompts: Sequence[list[int]], most: int) -> Iterator[list[int]]:
    """The places of prompts that have equally many tokens, at most so many at a time, the longest first."""
    order = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))
    for _, group in groupby(order, key=lambda at: len(prompts[at])):
        together = list(group)
        yield from (together[start : start + most] for start in range(0, len(together), most))


def call(task: Any, model: nn.Module, prompts: Sequence[list[int]], **options: Any) -> Tensor:
    """[N, T]: ``model.generate`` of prompts that have equally many tokens; the prompts stand at the beginning."""
    ids = torch.tensor(prompts, device=next(model.parameters()).device)
    options = {"do_sample": False, "tokenizer": task.tokenizer if "stop_strings" in options else None, **options}
    with torch.inference_mode():
        found: Tensor = model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), pad_token_id=task.tokenizer.pad_token_id, **options
        )
    return found


def ended(text: str, options: dict[str, Any]) -> str:
    """The text up to the first of the ``stop_strings``, if there are any."""
    return text[: min((at for stop in options.get("stop_strings", ()) if (at := text.find(stop)) >= 0), default=len(text))]


def check_room(task: Any, prompts: Sequence[list[int]], num_tokens: int) -> None:
    """Raises DataError for an empty prompt, or one that leaves no room for so many tokens."""
    for number, prompt in enumerate(prompts, start=1):
        which = "the prompt" if len(prompts) == 1 else f"prompt {number}"
        if not prompt:
            raise DataError("a prompt is empty: give the model something to go on from")
        task.check_room(prompt, which, num_tokens)


class Parts:
    """A streamer that hands on what is written in parts that stand: up to the last blank, as a word may yet become another."""

    def __init__(self, task: Any, prompt: Sequence[int], part: Callable[[str], None]):
        self.task, self.prompt, self.part = task, prompt, part
        self.ids: list[int] = []
        self.said = ""

    def put(self, ids: Tensor) -> None:
        """Of the prompt first, or of the token that a text starts with; then each token. ``part`` hears of each, to end it."""
        self.ids += ids.flatten().tolist()
        text = self.task.follows(self.prompt, self.ids)
        stands = text[: 1 + max(text.rfind(" "), text.rfind("\n"))]
        self._hand_on(stands if stands.startswith(self.said) else self.said)

    def end(self) -> None:
        """The whole is not known here but to who asked."""

    def finish(self, text: str) -> None:
        """Hand on the rest."""
        self._hand_on(text if text.startswith(self.said) else self.said)

    def _hand_on(self, text: str) -> None:
        self.part(text[len(self.said) :])
        self.said = text


def in_parts(task: Any, model: nn.Module, prompt: list[int], part: Callable[[str], None], **options: Any) -> str:
    """What follows a prompt, as ``write_on`` gives it; ``part`` is handed the parts of it, which may be empty, on the way."""
    check_room(task, [prompt], options["max_new_tokens"])
    parts = Parts(task, prompt, part)
    [row] = call(task, model, [prompt], streamer=parts, **options).tolist()
    text: str = task.follows(prompt, row)
    parts.finish(text)
    return text


class Streamer(TextStreamer):  # type: ignore[misc]
    """Prints what is written through the console, which lets nothing through that could drive the terminal."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        say_part(text)


def stream(
    task: Any, model: nn.Module, texts: Sequence[str], prompts: Sequence[list[int]], *, shows_prompt: bool, **options: Any
) -> None:
    """Print what follows each prompt, word by word, while it is written."""
    check_room(task, prompts, options["max_new_tokens"])
    for number, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        if number:
            say("---")
        if shows_prompt:
            say_part(text)
        streamer = Streamer(task.tokenizer, skip_prompt=True, skip_special_tokens=True)
        call(task, model, [prompt], streamer=streamer, **options)
        say("", flush=True)
