"""``python run.py generate``: a causal language model writes on; the work is ``model.generate`` of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from engine.commands.flags import with_model
from engine.console import say_lines
from engine.errors import DataError, ModelError, UsageError
from engine.finished import Find, open_model
from tasks.flags import GenerateConfig
from tasks.language.templates import TemplateError, within_limits


def generate(config: GenerateConfig, texts: Sequence[str], find: Find) -> None:
    """Prints prompt and continuation (with ``--chat`` the answer alone); a line ``---`` stands between texts."""
    config, texts = with_model(config, texts, 'generate runs/clm "The food was"')
    if not texts:
        raise UsageError('give a prompt: python run.py generate --model runs/clm "The food was"')
    task: Any
    task, model, _ = open_model(config.model, find, device=config.device, task=config.task, base="clm")
    options: dict[str, Any] = {name: getattr(config, name) for name in ("temperature", "top_p") if getattr(config, name)}
    options |= {"max_new_tokens": config.max_new_tokens, "num_return_sequences": config.num_return_sequences}
    options |= {"no_repeat_ngram_size": config.no_repeat_ngram_size, "do_sample": config.sampled}
    torch.manual_seed(config.seed)
    written: list[str] = []
    for text in texts:
        prompt = chat_prompt(task, text) if config.chat else task.prompt(text)
        written += write_on(task, model, "" if config.chat else text, prompt, **options)
    say_lines("\n---\n".join(written))


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


def write_on(task: Any, model: nn.Module, text: str, prompt: list[int], **options: Any) -> list[str]:
    """``text`` with what follows ``prompt``, for each sequence. One prompt at a time: no padding. Raises DataError."""
    if not prompt:
        raise DataError("a prompt is empty: give the model something to go on from")
    if (length := len(prompt) + options["max_new_tokens"]) > task.model_length:
        raise DataError(
            f"the prompt has {len(prompt)} tokens and --max-new-tokens is {options['max_new_tokens']}: {length} together, "
            f"this model takes at most {task.model_length}"
        )
    ids = torch.tensor([prompt], device=next(model.parameters()).device)
    options = {"do_sample": False, **options}
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=task.tokenizer.pad_token_id, **options)  # type: ignore[operator]
    said = len(task.tokenizer.decode(prompt, skip_special_tokens=True))  # a first token decoded alone may lose its space
    return [text + task.tokenizer.decode(row, skip_special_tokens=True)[said:] for row in found.tolist()]
