"""``python run.py generate``: a causal language model writes on; the work is ``model.generate`` of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engine.config import require, setting
from engine.errors import DataError, ModelError, UsageError
from engine.inference import Find, open_model


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of ``generate``."""

    model: str = setting("", "directory of a finished run, or any causal language model's directory or Hub name")
    max_new_tokens: int = setting(50, "tokens written at most")
    temperature: float | None = setting(None, "draw at random, the more freely the higher (default: the most probable token)")
    top_p: float | None = setting(None, "draw at random from the most probable tokens that make up this share")
    no_repeat_ngram_size: int = setting(0, "no sequence of so many tokens occurs twice; 0: any may")
    num_return_sequences: int = setting(1, "texts for each prompt")
    seed: int = setting(42, "of what is drawn")
    chat: bool = setting(False, "the prompt is a user's message, in the model's own chat template; prints the answer alone")
    task: str = setting("clm", "clm, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require(self, "model", bool(self.model), "must name a model directory")
        for name in ("max_new_tokens", "num_return_sequences"):
            require(self, name, getattr(self, name) >= 1, "must be at least 1")
        require(self, "no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "must not be negative")
        require(self, "temperature", self.temperature is None or 0 < self.temperature < float("inf"), "must be positive")
        require(self, "top_p", self.top_p is None or 0 < self.top_p <= 1, "must be positive and at most 1")
        if self.num_return_sequences > 1 and not self.sampled:
            raise UsageError("--num-return-sequences: the most probable text is one; draw some with --temperature or --top-p")

    @property
    def sampled(self) -> bool:
        """Is anything drawn at random?"""
        return self.temperature is not None or self.top_p is not None


def generate(config: GenerateConfig, texts: Sequence[str], find: Find) -> None:
    """Prints prompt and continuation (with ``--chat`` the answer alone); a line ``---`` stands between texts."""
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
    print("\n---\n".join(written))


def chat_prompt(task: Any, text: str) -> list[int]:
    """The token ids of a user's message, up to where the answer begins. Raises ModelError."""
    if not task.tokenizer.chat_template:
        raise ModelError(f"model {task.path}: its tokenizer has no chat template; leave --chat out")
    message = [{"role": "user", "content": text}]
    return task.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]  # type: ignore[no-any-return]


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
