"""A model that describes pictures: what it takes, and how it writes a caption. Next: task.py, which trains it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, GenerationConfig

from engine.data.collate import PADDED, Layout
from engine.data.sources import Source
from engine.errors import ModelError
from tasks.image import ImageTask
from tasks.options import CAPTION_TOKENS, CaptioningOptions
from tasks.text import refuse_settings

KINDS = ("git", "blip", "vision-encoder-decoder")  # config.model_type


class Captioner(ImageTask[CaptioningOptions]):
    """An encoder that sees a picture, with a decoder that writes."""

    auto_class = AutoModelForImageTextToText
    pipeline_tag = "image-to-text"
    loading = "from transformers import AutoModelForImageTextToText", "AutoModelForImageTextToText.from_pretrained(name)"
    shardable = False  # the metrics write captions, each of its own length
    default_length = CAPTION_TOKENS

    def __init__(self, options: CaptioningOptions, source: Source):
        super().__init__(options, source)
        refuse_settings(source.config, "a model that describes pictures", "tokenizer", "add_tokens")

    @property
    def config(self) -> Any:
        known = super().config
        if known.model_type not in KINDS:
            raise ModelError(f"model {self.path} ({known.model_type}) writes no captions; known kinds: {', '.join(KINDS)}")
        return known

    @functools.cached_property
    def start_and_end(self) -> tuple[int, int]:
        """The tokens that ``generate`` starts with and stops at."""
        config = self.config
        if config.model_type == "blip":  # its generate sets them itself
            return config.text_config.bos_token_id, config.text_config.sep_token_id

        def load(path: str, *, revision: str, **_: Any) -> tuple[int | None, int | None]:
            try:
                said = GenerationConfig.from_pretrained(path, revision=revision)
            except OSError:  # an older model has none: its config.json says it
                said = GenerationConfig.from_model_config(config)
            start = said.decoder_start_token_id if config.is_encoder_decoder else said.bos_token_id
            return start, said.eos_token_id[0] if isinstance(said.eos_token_id, list) else said.eos_token_id

        start, end = self.source.load(load, self.path)
        if start is None or end is None:
            raise ModelError(f"model {self.path}: its configuration does not say with which tokens a caption starts and ends")
        return start, end

    @property
    def model_length(self) -> int:
        """The most tokens that the decoder has positions for."""
        decoder = self.config.get_text_config(decoder=True)
        return int(min(getattr(decoder, "max_position_embeddings", None) or 512, self.tokenizer.model_max_length))

    def build_model(self) -> nn.Module:
        return self.load_model(self.path)

    def load_model(self, path: str) -> nn.Module:
        self.config  # noqa: B018 - refused before its weights are read
        model, report = self.from_pretrained(path)
        lacking = {*report["missing_keys"], *(str(name) for name, *_ in report["mismatched_keys"])}
        if missing := sorted(name for name in lacking if ".pooler." not in name):
            raise ModelError(f"model {path}: the checkpoint lacks {len(missing)} weights of the model, such as {missing[0]}")
        for name, parameter in model.named_parameters():
            if ".pooler." in name:
                parameter.requires_grad_(False)  # the encoder's: a caption is written from all its vectors
        return self.with_room_for_the_tokens(model, path)

    def save_processor(self, directory: Path) -> None:
        self.save_tokenizer(directory)
        super().save_processor(directory)

    # ----------------------------------------------------------------------------------------------------- inference

    def write(self, model: nn.Module, pixel_values: Tensor) -> list[str]:
        """A caption for each picture: [B, 3, H, W]."""
        o = self.options
        with torch.inference_mode():
            ids = model.generate(  # type: ignore[operator]
                pixel_values=pixel_values, num_beams=o.num_beams, do_sample=False, max_new_tokens=o.max_new_tokens
            )
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    predict_rows = 512  # a caption is written in a while

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each picture (a path, an address, or a PIL image) ``{"caption": text}``."""
        for pixel_values in self.opened(inputs, next(model.parameters()).device):
            for text in self.write(model, pixel_values):
                yield {"caption": text}

    def describe(self, prediction: Mapping[str, Any]) -> str:
        return str(prediction["caption"])
