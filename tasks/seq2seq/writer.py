"""A model that reads one text and writes another: what it takes, and how it writes. Next: task.py, which trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM

from engine.console import note, shown
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout
from engine.data.form import Columns
from engine.data.read import read_cut
from engine.data.tokens import tokenize_now
from engine.errors import ModelError, UsageError
from engine.model.capabilities import ends_of, positions_of
from tasks.language.generate import in_parts, write_on
from tasks.language.task import WHOLE, LanguageModel
from tasks.options import TARGET_TOKENS, Seq2SeqOptions
from tasks.seq2seq.languages import Languages, tell
from tasks.seq2seq.rows import column_of, source_cells
from tasks.text import checked_texts

ROWS = 16  # sources at a time


class Writer(LanguageModel[Seq2SeqOptions]):
    """An encoder with a decoder."""

    auto_class = AutoModelForSeq2SeqLM
    kind = "model that writes one text from another"
    level = None  # padded only
    cuts = True
    one_text = False
    writes_on: ClassVar[bool] = False  # what is written is a text by itself

    def __init__(self, options: Seq2SeqOptions, source: Any):
        super().__init__(options, source)
        self._told: Any = None  # the tokenizer that has been
        self._languages: Languages | None = None

    @property
    def config(self) -> Any:
        known = super().config
        if not known.is_encoder_decoder:
            raise ModelError(f"model {self.path} ({known.model_type}) has no encoder with a decoder, and is no {self.kind}")
        return known

    @property
    def tokenizer(self) -> Any:
        """The model's own, which is told the languages where it wants to be."""
        found, o = super().tokenizer, self.options
        if found is not self._told:
            self._languages, self._told = tell(found, o.source_lang, o.target_lang), found
        return found

    @property
    def languages(self) -> Languages | None:
        """None: the tokenizer is told none."""
        self.tokenizer  # noqa: B018 - it is told them when it is there
        return self._languages

    def build_model(self) -> nn.Module:
        return self.load_model(self.path)

    def load_model(self, path: str) -> nn.Module:
        model: Any = super().load_model(path)
        most = len(model.get_output_embeddings().weight)
        for settings in (model.config, model.generation_config):
            if (start := getattr(settings, "decoder_start_token_id", None)) is not None and start >= most:
                raise ModelError(f"model {path}: decoder_start_token_id is {start}, and the model has {most} tokens to write")
        return model  # type: ignore[no-any-return]

    @property
    def model_length(self) -> int:
        """The most tokens that the encoder has positions for."""
        return positions_of(self.config, "encoder", self.skeleton) or WHOLE

    @property
    def max_target_length(self) -> int:
        """Tokens per target: as asked, within what the decoder takes."""
        asked = self.in_decoder("max_target_length", self.options.max_target_length)
        special = self.tokenizer.num_special_tokens_to_add()
        if asked is not None and asked <= special:
            raise UsageError(f"--max-target-length {asked}: {special} tokens of each target are special ones, give more")
        return asked or min(TARGET_TOKENS, positions_of(self.config, "decoder") or WHOLE)

    def in_decoder(self, name: str, asked: int | None) -> int | None:
        """A number of tokens that is asked of the decoder, as an option. Raises UsageError for more than it takes."""
        most = positions_of(self.config, "decoder")
        if asked is not None and most and asked > most:
            raise UsageError(f"--{name.replace('_', '-')} {asked}: this model writes at most {most} tokens")
        return asked

    def check_ends(self, ids: Sequence[int]) -> None:
        """Raises ModelError for a model whose targets, such as this one, have no token to start with, or none to end with."""
        try:
            start = int(self.decoder_inputs(torch.tensor([ids]))[0, 0])
        except (ValueError, TypeError, AttributeError, AssertionError) as error:
            missing = "decoder_start_token_id, with which a target starts"
            raise ModelError(f"model {self.path}: its config.json does not say {missing} ({error})") from error
        if not set(ids) & set(ends_of(self.config, self.tokenizer)):
            raise ModelError(
                f"model {self.path}: its tokenizer puts no end token behind a target, so what is learned from it never ends"
            )

        if self.languages and self.languages.begins.get("decoder_start_token_id", start) != start:
            raise ModelError(
                f"model {self.path}: its tokenizer puts the language behind a target (legacy_behaviour), and its decoder does "
                "not start with it: what is written would be of any language"
            )

    def decoder_inputs(self, labels: Tensor) -> Tensor:
        """[B, T]: the targets moved on by one, their start token first; by the model itself, where it can be asked."""
        if (own := getattr(self.skeleton, "prepare_decoder_input_ids_from_labels", None)) is not None:
            return own(labels=labels.clone())  # type: ignore[no-any-return]  # FSMT writes into them
        moved = F.pad(labels[:, :-1], (1, 0), value=self.config.decoder_start_token_id)
        return moved.masked_fill(moved == -100, self.tokenizer.pad_token_id)

    def say_what_prefix_there_is(self) -> None:
        """One that the model was trained with, and is not given."""
        tasks = getattr(self.config, "task_specific_params", None)
        settings = [each for each in tasks.values() if isinstance(each, Mapping)] if isinstance(tasks, Mapping) else []
        known = [text for each in settings if isinstance(text := each.get("prefix"), str) and text]
        if known and self.options.prefix is None:
            such = shown(known[0], 60)
            note(f"model {self.path}: it was trained with a text before each source, such as {such!r}: --prefix gives one")

    def say_which_languages(self) -> None:
        """Those of a tokenizer that is told them; asked for, or those with which it was saved."""
        if self.languages:
            note(f"languages: from {self.languages.source} to {self.languages.target}")

    def prefixed(self, texts: Sequence[str]) -> list[str]:
        """What the encoder reads."""
        return [(self.options.prefix or "") + text for text in texts]

    def save(self, model: nn.Module, directory: Path) -> None:
        """With how long a text may be (the library's limit is 20 tokens), the beams, and the language, in
        generation_config.json."""
        kept: Any = model.generation_config
        kept.max_length = None  # else two limits stand there
        for name, value in self.decoding.items():
            setattr(kept, name, value)
        super().save(model, directory)

    # ----------------------------------------------------------------------------------------------------- inference

    @property
    def decoding(self) -> dict[str, Any]:
        """What ``generate`` of transformers is told; what it is not told is the model's own."""
        o = self.options
        beams = {} if o.num_beams is None else {"num_beams": o.num_beams}
        most = self.in_decoder("max_new_tokens", o.max_new_tokens) or self.max_target_length
        begins = self.languages.begins if self.languages else {}
        one = {"do_sample": False, "num_return_sequences": 1, "return_dict_in_generate": False}
        return {"max_new_tokens": most, **beams, **one, **begins}

    def write(self, model: nn.Module, batch: Batch) -> list[str]:
        """A text for each row of a batch."""
        inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "decoder_input_ids"}
        with torch.inference_mode():
            ids = model.generate(**inputs, pad_token_id=self.tokenizer.pad_token_id, **self.decoding)  # type: ignore[operator]
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)  # type: ignore[no-any-return]

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids that the encoder reads; says how many texts are cut."""
        if not texts:
            return []
        tokens = tokenize_now(self.prefixed(texts), None, self.tokenizer, self.max_length, "the input")
        read_cut(tokens, self.max_length)
        return [ids.tolist() for ids in np.split(tokens.ids, tokens.offsets[1:-1])]

    def follows(self, prompt: Sequence[int], row: Sequence[int]) -> str:
        """The text of a row, which is all that is written: the prompt is read elsewhere."""
        return str(self.tokenizer.decode(row, skip_special_tokens=True))

    def check_room(self, prompt: Sequence[int], which: str, num_tokens: int) -> None:
        """Raises UsageError for more tokens than the decoder takes, whatever the prompt is."""
        self.in_decoder("max_new_tokens", num_tokens)

    predict_rows = 1024  # a text is written in a while

    def inputs_of(self, rows: Columns) -> list[Any]:
        return source_cells(rows, self.options.source_column)

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each text ``{"generated": text}``. Those of equally many tokens are read at once, so none is padded."""
        prompts = self.prompts(checked_texts(list(inputs), "the input"))
        for [text] in write_on(self, model, prompts, batch_size=ROWS, **self.decoding):
            yield {"generated": text}

    def served(self) -> list[dict[str, Any]]:
        return [{column_of(self.options.source_column or "source"): "The cook praised the waiter."}]

    def stream(self, model: nn.Module, item: Any, part: Callable[[str], None]) -> dict[str, Any]:
        """Raises UsageError for a model that follows several texts at once, of which none stands until all end."""
        [prompt], options = self.prompts(checked_texts([item], "the input")), self.decoding
        beams = options.get("num_beams") or getattr(model.generation_config, "num_beams", None) or 1
        if beams > 1:
            raise UsageError(f"this model follows {beams} beams, of which none is the text until all end: leave stream out")
        return {"generated": in_parts(self, model, prompt, part, **options)}

    def describe(self, prediction: Mapping[str, Any]) -> str:
        return " ".join(prediction["generated"].split())
