"""A model that writes on: what causal language models, fine-tuned assistants and those of DPO have in common.

Next: causal_lm.py, sft.py and preferences/dpo.py, which train it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn
from transformers import AutoModelForCausalLM

from engine.data.collate import PADDED, Layout
from engine.data.taken import TakenModel
from engine.errors import DataError, ModelError
from tasks.language.generate import in_parts, write_on
from tasks.language.scratch import small_gpt2
from tasks.language.task import LanguageModel
from tasks.text import O


class Decoder(LanguageModel[O]):
    """A causal language model: what it takes, and how it writes."""

    auto_class = AutoModelForCausalLM
    pipeline_tag = "text-generation"
    kind = "causal language model"
    hub_model = "gpt2"
    corpus: Sequence[str] = ()  # of the training data: what a tokenizer is made from when there is no checkpoint
    writes_on: ClassVar[bool] = True
    decoding: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 50}

    def substitute(self) -> TakenModel | None:
        """A small model that begins with random weights, and a tokenizer made from the training data."""
        return TakenModel(*small_gpt2(self.corpus)) if self.corpus else None

    def from_pretrained(self, path: str, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """As for other language models; BERT and its kin load as decoders, too, but see what they are to predict."""
        model, report = super().from_pretrained(path, **arguments)
        sees_ahead = not any(getattr(module, "is_causal", False) for module in model.modules())
        if getattr(model.config, "is_decoder", None) is False and sees_ahead:
            raise ModelError(f"model {path} is a {self.config.model_type} model that sees the words ahead, and no {self.kind}")
        return model, report

    def prompt(self, text: str) -> list[int]:
        """The token ids after which the model is to write on."""
        return self.tokenizer(text)["input_ids"]  # type: ignore[no-any-return]

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The same for each text."""
        return [self.prompt(text) for text in texts]

    def follows(self, prompt: Sequence[int], row: Sequence[int]) -> str:
        """The text of a row behind that of its prompt: a first token decoded alone may lose its space."""
        said = len(self.tokenizer.decode(prompt, skip_special_tokens=True))
        return str(self.tokenizer.decode(row, skip_special_tokens=True)[said:])

    def check_room(self, prompt: Sequence[int], which: str, num_tokens: int) -> None:
        """Raises DataError for a prompt that leaves no room for so many tokens."""
        if (length := len(prompt) + num_tokens) > self.model_length:
            raise DataError(
                f"{which} has {len(prompt)} tokens and --max-new-tokens is {num_tokens}: {length} together, "
                f"this model takes at most {self.model_length}"
            )

    predict_rows = 512  # each is written on by itself

    def predict(self, model: nn.Module, inputs: Iterable[str], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each text ``{"text"}``: what the model finds most probable next, at most 50 tokens, or as many as fit."""
        for text in inputs:
            prompt = self.prompt(text)
            yield {"text": write_on(self, model, [prompt], max_new_tokens=self.room_behind(prompt))[0][0]}

    def room_behind(self, prompt: Sequence[int]) -> int:
        """The tokens that ``predict`` writes."""
        return max(1, min(50, self.model_length - len(prompt)))

    def served(self) -> list[dict[str, Any]]:
        return [{"text": "The food was"}]

    def stream(self, model: nn.Module, item: Any, part: Callable[[str], None]) -> dict[str, Any]:
        prompt = self.prompt(item)
        return {"text": in_parts(self, model, prompt, part, max_new_tokens=self.room_behind(prompt))}

    def describe(self, prediction: Mapping[str, Any]) -> str:
        return " ".join(prediction["text"].split())
