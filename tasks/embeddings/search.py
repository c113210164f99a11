"""Semantic search: the texts of a file that are nearest in meaning to a query.

The file is embedded once; its vectors stay in the cache folder, under a fingerprint of texts, tokenizer and weights, so a
second search only embeds its query. Exact: every text is compared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.commands.output import TABLES, check_output, check_writable, write_predictions
from engine.console import note, say, shown
from engine.data.cache import cache_folder
from engine.data.collate import Layout
from engine.data.files import read_table
from engine.data.tokens import tokens_fingerprint
from engine.errors import DataError, UsageError
from engine.finished import Find, open_model
from tasks.embeddings.task import Embeddings
from tasks.flags import SearchConfig
from tasks.text import checked_texts


def search(config: SearchConfig, queries: Sequence[str], find: Find) -> None:
    """The command: the nearest texts of ``--corpus`` to each query, with their cosines. Prints, or writes ``--output``."""
    if not queries:
        raise UsageError("give one or more queries to search for")
    check_output("--output", config.output, TABLES, inputs=[config.corpus], model=config.model)
    checked_texts(queries, "the queries")
    rows = read_table(Path(config.corpus), delimiter=config.delimiter, encoding=config.encoding)
    if config.output:
        check_writable(rows, Path(config.output), config.corpus)
    name = config.text_column or (next(iter(rows)) if len(rows) == 1 else "text")
    if name not in rows:
        raise DataError(f"{config.corpus} has no column {name!r} (it has: {', '.join(rows)}): name it with --text-column")
    texts = checked_texts(rows[name], f"{config.corpus}, column {name!r}")
    task, model, layout = open_model(config.model, find, device=config.device, task=config.task, base="embeddings")
    assert isinstance(task, Embeddings)
    scores = task.vectors(model, queries, layout) @ corpus_vectors(task, model, layout, texts).T  # [Q, N]
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
    path = cache_folder() / "vectors" / f"{vectors_fingerprint(task, model, texts)}.npy"
    try:
        return torch.from_numpy(np.load(path))
    except (OSError, ValueError, EOFError):
        pass  # not there, or damaged: made anew
    vectors = task.vectors(model, texts, layout)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            np.save(stream, vectors.numpy())
        os.replace(temporary, path)
    except OSError as error:
        note(f"vectors: not cached, {path} cannot be written ({error.strerror})")
    finally:
        temporary.unlink(missing_ok=True)
    return vectors


def vectors_fingerprint(task: Embeddings, model: nn.Module, texts: Sequence[str]) -> str:
    """Changes with the texts and their order, the tokenizer, the length, the pooling, and any weight."""
    digest = hashlib.blake2b(tokens_fingerprint(texts, None, task.tokenizer, task.max_length).encode(), digest_size=16)
    digest.update(f"{task.pooling} {type(model).__name__}".encode())
    state: dict[str, Any] = model.state_dict()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
