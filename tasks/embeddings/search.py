"""Semantic search: the texts of a file that are nearest in meaning to a query.

The file is embedded once; its vectors stay in the cache folder, under a fingerprint of texts, tokenizer and weights, so a
second search only embeds its query. Exact: every text is compared.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.commands.output import TABLES, check_output, check_writable, write_predictions
from engine.console import say, shown
from engine.data.cache import entry
from engine.data.collate import Layout
from engine.data.files import read_named
from engine.data.form import Columns, Form
from engine.data.tokens import tokens_fingerprint
from engine.errors import UsageError
from engine.finished import Find, open_model
from engine.model.packing_check import described
from engine.settings.own import code_fingerprint
from tasks.embeddings.embedder import DOCUMENT, QUERY
from tasks.embeddings.task import Embeddings
from tasks.flags import SearchConfig
from tasks.inputs import text_column
from tasks.text import checked_texts


def search(config: SearchConfig, queries: Sequence[str], find: Find) -> None:
    """The command: the nearest texts of ``--corpus`` to each query, with their cosines. Prints, or writes ``--output``."""
    if not queries:
        raise UsageError("give one or more queries to search for; before --sentences, whose texts would take them in")
    check_output("--output", config.output, TABLES, inputs=[config.corpus], model=config.model)
    checked_texts(queries, "the queries")
    corpus = config.corpus or "--sentences"
    rows: Columns = read_named(config.corpus, "--corpus", Form.of(config)) if config.corpus else {"text": config.sentences}
    if config.output:
        check_writable(rows, Path(config.output), corpus)
    name = text_column(rows, config.text_column, corpus)
    texts = checked_texts(rows[name], f"{corpus}, column {name!r}")
    task, model, layout = open_model(config.model, find, device=config.device, task=config.task, base="embeddings")
    assert isinstance(task, Embeddings)
    scores = task.vectors(model, queries, layout, QUERY) @ corpus_vectors(task, model, layout, texts).T  # [Q, N]
    best, where = scores.topk(min(config.top_k, len(texts)))
    found = [
        {"query": query, "rank": rank, "score": score, "row": row + 1}
        for query, top, at in zip(queries, best.tolist(), where.tolist(), strict=True)
        for rank, (score, row) in enumerate(zip(top, at, strict=True), start=1)
    ]
    if config.output:
        columns = {column: [values[hit["row"] - 1] for hit in found] for column, values in rows.items()}
        write_predictions(Path(config.output), columns, found, config.excel_safe)
        say(f"{len(found)} texts for {len(queries)} queries written to {config.output}")
        return
    for hit in found:
        if hit["rank"] == 1:
            say(shown(hit["query"]))
        say(f"  {hit['score']:.4f}  row {hit['row']}\t{shown(texts[hit['row'] - 1])}")


def corpus_vectors(task: Embeddings, model: nn.Module, layout: Layout, texts: Sequence[str]) -> Tensor:
    """[N, H]: the vectors of all texts, from the cache if there."""
    compute = functools.cache(lambda: task.vectors(model, texts, layout, DOCUMENT))
    key = vectors_fingerprint(task, model, layout, texts)
    folder = key and entry("vectors", key, lambda folder: np.save(folder / "vectors.npy", compute().numpy()))
    return torch.from_numpy(np.load(folder / "vectors.npy")) if folder else compute()


def vectors_fingerprint(task: Embeddings, model: nn.Module, layout: Layout, texts: Sequence[str]) -> str | None:
    """Changes with the texts and their order, the tokenizer, the length, the pooling, the code that is not ours, the model's
    configuration and weights, and what computes them. None: as ``tokens_fingerprint``'s.
    """
    tokens = tokens_fingerprint(task.pooling.prepared(texts, DOCUMENT), None, task.tokenizer, task.max_length)
    if tokens is None:
        return None
    state: dict[str, Any] = model.state_dict()
    device = next(model.parameters()).device.type
    how = [tokens, str(task.pooling), described(model), code_fingerprint(type(task)), layout.kind, device, torch.__version__]
    digest = hashlib.blake2b("\0".join(map(str, how)).encode(), digest_size=16)
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
