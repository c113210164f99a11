"""A model that embeds texts: what it takes, and the vectors that it gives. Next: task.py, which trains it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel
from transformers.utils import cached_file

from engine.console import progress_bar
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout, arrange
from engine.data.form import Columns
from engine.data.plan import eval_batches
from engine.data.read import read_cut
from engine.data.sources import Source
from engine.data.tokens import TokenDataset, tokenize_now
from engine.errors import DataError, ModelError
from tasks.embeddings.pooling import Pooling, pieces
from tasks.options import EmbeddingsOptions
from tasks.text import TextTask, checked_texts

EMBED_ROWS = 64
QUERY, DOCUMENT = ("query",), ("document", "passage", "corpus")  # names of prompts, as sentence-transformers looks for them


class Embedder(TextTask[EmbeddingsOptions]):
    """A transformer without a head, whose vectors of tokens are pooled to one of the text."""

    auto_class = AutoModel
    pipeline_tag = "sentence-similarity"
    exported = ("last_hidden_state",)  # of which pooling makes the vector
    library = "sentence-transformers"
    loading = "from sentence_transformers import SentenceTransformer", "SentenceTransformer(name)"
    level = "token"  # of the transformer's, all are read

    def __init__(self, options: EmbeddingsOptions, source: Source):
        super().__init__(options, source)
        self._pooling: Pooling | None = None

    @property
    def default_length(self) -> int:  # type: ignore[override]
        return min(512, self.pooling.max_length or 512)

    @property
    def pooling(self) -> Pooling:
        """As the model's own files say."""
        if self._pooling is None:
            path = self.path
            quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
            self._pooling = Pooling.read(lambda name: self.source.load(cached_file, path, filename=name, **quiet), path)
        return self._pooling

    def build_model(self) -> nn.Module:
        return self.load_model(self.path)

    def load_model(self, path: str) -> nn.Module:
        model, report = self.from_pretrained(path)
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if missing := missing + sorted(str(name) for name, *_ in report["mismatched_keys"]):
            raise ModelError(f"model {path}: the checkpoint lacks {len(missing)} weights of the model, such as {missing[0]}")
        if getattr(model.config, "is_encoder_decoder", False):
            raise ModelError(f"model {path} is an encoder with a decoder ({model.config.model_type}): give an encoder")
        if (pooler := getattr(model, "pooler", None)) is not None:
            pooler.requires_grad_(False)  # BERT's own: nobody reads it here
        return self.with_room_for_the_tokens(model, path)

    def embed(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """[B, H] float32 of length 1."""
        return self.pooling(model(**inputs).last_hidden_state, inputs)

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The vectors of all texts: [n B, H]. In chunks, only the vectors are kept, and each chunk is computed again later.

        A chunk draws its dropout masks when it is computed and, from the same state, when it is computed again.
        """
        if self.options.chunk_size is None or not torch.is_grad_enabled():
            return self.embed(model, batch.inputs)
        chunks = pieces(batch.inputs, self.options.chunk_size)
        return torch.cat([checkpoint(self.embed, model, chunk, use_reentrant=False) for chunk in chunks])

    def compared(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The vectors: [n B, H]."""
        return outputs

    def save_exported(self, model: nn.Module, directory: Path) -> None:
        super().save_exported(model, directory)
        self.pooling.write(directory, int(model.config.hidden_size), self.max_length)  # type: ignore[union-attr,arg-type]

    def save(self, model: nn.Module, directory: Path) -> None:
        super().save(model, directory)
        self.pooling.write(directory, int(model.config.hidden_size), self.max_length)  # type: ignore[union-attr,arg-type]

    # ----------------------------------------------------------------------------------------------------- inference

    def vectors(self, model: nn.Module, texts: Sequence[str], layout: Layout = PADDED, kinds: Sequence[str] = ()) -> Tensor:
        """[N, H] float32 of length 1, on the CPU, of texts that were checked; says how many were cut.

        ``kinds``: names of prompts for such texts (QUERY, DOCUMENT), of which the first that the model has stands before each.
        """
        tokens = tokenize_now(self.pooling.prepared(texts, kinds), None, self.tokenizer, self.max_length, "the input")
        read_cut(tokens, self.max_length)
        rows = TokenDataset(tokens, {})
        chunks = [
            np.array([row for _, row in keys])
            for keys in eval_batches(rows.lengths, EMBED_ROWS, same_length=layout.padding_matters)
        ]
        order = np.concatenate(chunks)
        device = next(model.parameters()).device
        found: list[Tensor] = []
        for chunk in progress_bar(chunks, desc="embedding", unit="batch", leave=False, hidden=len(chunks) <= 4):
            inputs, counts = arrange([rows[i] for i in chunk], layout, self.tokenizer)
            batch = Batch(inputs=inputs, targets={}, num_items=0, **counts).to(device)
            with torch.inference_mode():
                found.append(self.embed(model, batch.inputs).cpu())
        return torch.cat(found)[torch.from_numpy(np.argsort(order))]

    def inputs_of(self, rows: Columns) -> list[Any]:
        name = next(iter(rows)) if len(rows) == 1 else self.options.text_column
        if name not in rows:
            raise DataError(f"the input has no column {name!r} (it has: {', '.join(rows)}): name it with --text-column")
        return list(checked_texts(rows[name], "the input"))

    def served(self) -> list[dict[str, Any]]:
        return [{"text": "The weather is lovely today."}]

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each text ``{"embedding": [H numbers]}``."""
        texts = checked_texts(list(inputs), "the input")
        for vector in self.vectors(model, texts, layout) if texts else ():
            yield {"embedding": vector.tolist()}

    def describe(self, prediction: Mapping[str, Any]) -> str:
        vector = prediction["embedding"]
        return f"{len(vector)} dimensions: {' '.join(f'{x:.4f}' for x in vector[:4])} ..."
