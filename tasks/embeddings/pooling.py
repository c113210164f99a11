"""From a text to one vector, as sentence-transformers stores it beside a model: what comes before and after the transformer.

modules.json lists the parts (transformer, pooling, normalisation), 1_Pooling/config.json says how the token vectors are
pooled, sentence_bert_config.json how many tokens are read and whether in lower case, config_sentence_transformers.json what
stands before a text (its prompt). They are read from the start model and written with the trained one, so that
``SentenceTransformer(directory)`` takes it as it is, and gives the same vectors. Next: task.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from engine import atomic
from engine.checked import expect, is_within, parse_json, read_bytes
from engine.console import note
from engine.errors import ModelError
from engine.model.packing import segment_means

Mode = Literal["mean", "cls", "lasttoken"]
KEYS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "lasttoken": "pooling_mode_lasttoken"}
TEXT_FILES = tuple(  # the first that there is, as sentence-transformers looks for them
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
PARTS = ("Transformer", "Pooling", "Normalize")  # the only ones there are here, in this order


@dataclass(frozen=True)
class Pooling:
    """How a text's vector is made. ``max_length``: tokens that the model was trained to read, if it says so.

    ``prompts``: what is put before a text, by names; ``default_prompt``: the name of that before every text, None: nothing.
    """

    mode: Mode = "mean"
    max_length: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    lower_case: bool = False
    similarity: str = "cosine"

    def prepared(self, texts: Sequence[str], kinds: Sequence[str] = ()) -> Sequence[str]:
        """The texts as the model reads them. ``kinds``: names of prompts, of which the first that the model has is taken."""
        name = next((kind for kind in kinds if kind in self.prompts), self.default_prompt)
        prompt = self.prompts[name] if name is not None else ""
        if not prompt and not self.lower_case:
            return texts
        return [(prompt + text).lower() if self.lower_case else prompt + text for text in texts]

    def __call__(self, hidden: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """[B, H] float32 of length 1, from the last hidden state of a padded [B, T, H] or a packed [1, T, H] batch."""
        rows = self._packed(hidden, inputs) if "cu_seq_lens_q" in inputs else self._padded(hidden, inputs["attention_mask"])
        return F.normalize(rows.float(), dim=-1)

    def _packed(self, hidden: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        hidden, first, last = hidden.squeeze(0), inputs["segment_first"], inputs["segment_last"]
        if self.mode == "mean":
            return segment_means(hidden, first, last)
        return hidden.index_select(0, first if self.mode == "cls" else last)

    def _padded(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.mode == "mean":
            return (hidden.float() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        first = mask.argmax(1)  # padding may stand on the left
        at = first if self.mode == "cls" else first + mask.sum(1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), at]

    # ------------------------------------------------------------------------------------------------------- files

    @classmethod
    def read(cls, find: Callable[[str], str | None], model: str) -> Pooling:
        """What a model's own files say; the mean where it has none. ``find``: path of one of its files, or None.

        Raises ModelError for parts and ways of pooling that are not known here.
        """

        def content(name: str) -> Any:
            path = find(name)
            try:
                return None if path is None else parse_json(read_bytes(Path(path)))
            except (OSError, ValueError) as error:
                raise ModelError(f"model {model}: {name} cannot be read: {error}") from error

        modules = content("modules.json")
        if modules is None:
            note(f"model {model}: no modules.json, so a text's vector is the mean of its token vectors")
            return cls()
        try:
            kinds = [str(module["type"]).split(".")[-1] for module in modules]
            if kinds not in ([*PARTS], [*PARTS[:2]]):
                raise ModelError(f"model {model}: modules.json lists {', '.join(kinds)}; known is {', '.join(PARTS)} alone")
            if not is_within(folder := modules[1]["path"]):
                raise KeyError(folder)
            pooling = content(f"{folder}/config.json")
            more = content("config_sentence_transformers.json") or {}
            prompts, default = prompts_in(more, model)
            mode = pooling.get("pooling_mode") or next(m for m, key in KEYS.items() if pooling.get(key))
            others = [
                key for key, value in pooling.items() if value is True and key.startswith("pooling_mode") and key != KEYS[mode]
            ]
            if mode not in get_args(Mode) or others:
                raise KeyError(others or mode)
            if prompts and pooling.get("include_prompt") is False:
                raise ModelError(f"model {model}: its pooling leaves the prompt's tokens out, which is not known here")
            of_text: dict[str, Any] = next(filter(None, map(content, TEXT_FILES)), {})
            length = expect(of_text, "max_seq_length", int, optional=True, least=1)
        except ModelError:
            raise
        except (KeyError, ValueError, TypeError, AttributeError, StopIteration) as error:
            raise ModelError(f"model {model}: no way of pooling that is known here ({', '.join(KEYS)}): {error}") from error
        if prompts:
            those = f"{default!r}, {prompts[default]!r}, stands" if default else "none of them is the default, so none stands"
            note(f"model {model}: prompts {', '.join(prompts)}; {those} before each text")
        lower, similarity = bool(of_text.get("do_lower_case")), str(more.get("similarity_fn_name") or "cosine")
        return cls(cast(Mode, mode), length, prompts, default, lower, similarity)

    def write(self, directory: Path, width: int, max_length: int) -> None:
        """The files that sentence-transformers reads; ``width``: H."""
        paths = ("", "1_Pooling", "2_Normalize")
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(zip(paths, PARTS, strict=True))
        ]
        files = {
            "modules.json": modules,
            "1_Pooling/config.json": {"word_embedding_dimension": width}
            | {key: key == KEYS[self.mode] for key in KEYS.values()},
            "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": self.lower_case},
            "config_sentence_transformers.json": {
                "similarity_fn_name": self.similarity,
                "prompts": dict(self.prompts),
                "default_prompt_name": self.default_prompt,
            },
        }
        (directory / "1_Pooling").mkdir(exist_ok=True)
        for name, content in files.items():
            atomic.write(directory / name, json.dumps(content, indent=2) + "\n")


def prompts_in(settings: Mapping[str, Any], model: str) -> tuple[dict[str, str], str | None]:
    """The prompts that are not empty, and the name of the default one. Raises ModelError."""
    found = settings.get("prompts") or {}
    for name, text in found.items():
        if not isinstance(text, str):
            raise ModelError(f"model {model}: its prompt {name!r} is {text!r}, and no text")
    default = settings.get("default_prompt_name")
    if default is not None and default not in found:
        raise ModelError(f"model {model}: its default_prompt_name is {default!r}, and there is no such prompt")
    return {name: text for name, text in found.items() if text}, default if default and found[default] else None


def pieces(inputs: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """A batch's inputs, ``size`` texts at a time. Packed rows are cut at offsets that the host has to read: a wait on a GPU."""
    if "cu_seq_lens_q" not in inputs:
        for at in range(0, len(inputs["input_ids"]), size):
            yield {name: value[at : at + size] for name, value in inputs.items()}
        return
    first, last = inputs["segment_first"], inputs["segment_last"]
    offsets = inputs["cu_seq_lens_q"].tolist()
    for at in range(0, len(first), size):
        end = min(at + size, len(first))
        start, stop = offsets[at], offsets[end]
        yield {
            name: value[:, start:stop] for name, value in inputs.items() if isinstance(value, Tensor) and value.dim() == 2
        } | {
            "cu_seq_lens_q": inputs["cu_seq_lens_q"][at : end + 1] - start,
            "max_length_q": inputs["max_length_q"],
            "segment_first": first[at:end] - start,
            "segment_last": last[at:end] - start,
        }  # fmt: skip
