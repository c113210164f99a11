"""Describe pictures: an encoder sees the picture, a decoder writes the caption token by token.

    file_name,text                                       metadata.csv (or .jsonl) beside the pictures, as the Hub's imagefolder
    0001.png,a red circle in the top left

Three kinds of models: GIT (one decoder that reads picture and text), BLIP (a decoder that looks at the picture), and any
VisionEncoderDecoder (ViT-GPT2). All get the caption from its start token on and predict the next token; the loss is the sum
over the tokens of the caption and the end token, from the logits; labels are not passed to the model.

Pictures are decoded once at the start, to find damage, and when a batch wants them, in ``--workers`` processes. Offline the
pictures are drawn (shapes.py) and the model is small and starts from random weights.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, GenerationConfig

from engine.console import note
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout, arrange, per_token
from engine.data.sources import Source
from engine.data.tables import row_name
from engine.data.taken import HubData, TakenModel
from engine.errors import DataError, ModelError
from engine.task import Examples, Row
from tasks.captioning.metrics import CaptionMetrics
from tasks.captioning.pictures import Pictures
from tasks.image import ImageTask
from tasks.options import CAPTION_TOKENS, CaptioningOptions
from tasks.samples.shapes import drawn, small_captioner
from tasks.text import checked_texts, refuse_settings

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = ("git", "blip", "vision-encoder-decoder")  # config.model_type


class Captioning(ImageTask[CaptioningOptions]):
    """Pictures with captions."""

    Options = CaptioningOptions
    hub_data = HubData("reach-vb/pokemon-blip-captions")
    hub_model = "microsoft/git-base-coco"
    auto_class = AutoModelForImageTextToText
    pipeline_tag = "image-to-text"
    loading = "from transformers import AutoModelForImageTextToText", "AutoModelForImageTextToText.from_pretrained(name)"
    shardable = False  # the metrics write captions, each of its own length
    default_length = CAPTION_TOKENS
    best_metric = "rouge_l"

    def __init__(self, options: CaptioningOptions, source: Source):
        super().__init__(options, source)
        refuse_settings(source.config, "a model that describes pictures", "tokenizer", "add_tokens")
        self._captions: list[str] = []
        self._references: dict[str, list[list[str]]] = {}

    # ---------------------------------------------------------------------------------------------------------- data

    def columns(self) -> list[str]:
        return [self.image_column, self.options.text_column]

    @property
    def text_column(self) -> str:
        return self.options.text_column

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Pictures that are drawn here."""
        from datasets import Dataset, Image

        tables, column = {}, self.image_column
        for split in ("train", "eval"):
            pictures, captions = drawn(split)
            rows = {column: [{"bytes": picture, "path": None} for picture in pictures], self.options.text_column: captions}
            tables[split] = Dataset.from_dict(rows).cast_column(column, Image(decode=False))
        return tables, "embedded sample (shapes drawn by this project, version 1)"

    def examples(self) -> dict[str, Examples]:
        tables = self.splits()
        captions = {split: self.captions(table, split) for split, table in tables.items()}
        self._captions = [text for _, text in captions.get("train", ())]
        return {split: self.captioned(table, split, captions[split]) for split, table in tables.items()}

    def captions(self, table: Dataset, split: str) -> list[tuple[int, str]]:
        """(row of the table, caption); a row with a list has several."""
        name = self.options.text_column
        cells = [cell if isinstance(cell, list) else [cell] for cell in table[name][:]]
        pairs = [(row, text) for row, cell in enumerate(cells) for text in cell]
        checked_texts([text for _, text in pairs], f"{split} data, column {name!r}", lambda i: row_name(table, pairs[i][0]))
        if blank := [row for row, text in pairs if not text.strip()]:
            raise DataError(f"{split} data, {row_name(table, blank[0])}: the caption is blank: remove or fill it")
        return pairs

    def captioned(self, table: Dataset, split: str, captions: Sequence[tuple[int, str]]) -> Pictures:
        """Rows of picture and tokens; remembers all captions of each evaluation picture as references."""
        start, end = self.start_and_end
        self.tokenizer.padding_side = "right"
        limit = self.max_length - 2
        ids = self.tokenizer([text for _, text in captions], add_special_tokens=False)["input_ids"]
        if cut := sum(len(row) > limit for row in ids):
            note(f"{split} data: {cut} of {len(ids)} captions cut to {self.max_length} tokens")
        tokens = [np.asarray([start, *row[:limit], end], dtype=np.int32) for row in ids]
        lengths = np.asarray([len(row) - 1 for row in tokens])
        found = self.pictures(table, split, "tokens", tokens, lengths, [row for row, _ in captions])
        by_picture: dict[bytes, list[str]] = {}
        for digest, (_, text) in zip(found.digests, captions, strict=True):
            by_picture.setdefault(digest, []).append(text)
        self._references[split] = [by_picture[digest] for digest in found.digests]
        return found

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """The caption without its last token goes in, without its first it is the target: [B, T]; pixel_values [B, 3, H, W]."""
        inputs, counts = arrange([{"input_ids": row["tokens"][:-1]} for row in rows], layout, self.tokenizer)
        labels = per_token([row["tokens"][1:] for row in rows], layout, -100)
        prefix = "decoder_" if self.config.is_encoder_decoder else ""
        inputs = {f"{prefix}{name}": tensor for name, tensor in inputs.items()}
        inputs["pixel_values"] = torch.from_numpy(np.stack([row["pixel_values"] for row in rows]))
        return Batch(inputs=inputs, targets={"labels": labels}, num_items=int((labels != -100).sum()), **counts)

    @property
    def model_length(self) -> int:
        """The most tokens that the decoder has positions for."""
        decoder = self.config.get_text_config(decoder=True)
        return int(min(getattr(decoder, "max_position_embeddings", None) or 512, self.tokenizer.model_max_length))

    # --------------------------------------------------------------------------------------------------------- model

    def substitute(self) -> TakenModel | None:
        """A small model with the words of the training captions."""
        return TakenModel(*small_captioner(self._captions)) if self._captions else None

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

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        labels = batch.targets["labels"]  # [B, T]
        logits = outputs.logits[:, -labels.shape[1] :].float()  # GIT's begin with those of the picture
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")

    def metrics(self, split: str) -> CaptionMetrics:
        return CaptionMetrics(self.write, self._references[split])

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
