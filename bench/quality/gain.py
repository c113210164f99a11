"""Does contrastive training on the halves of reviews find more of them than the start does? Pair by pair, with its error.

    python -m bench gain                 some minutes on two cores; writes bench/results/embeddings-imdb.json

The task is hard for a model that has seen 10^9 pairs: which of 1,000 passages stands in the same review as this one? Both
models rank the same held-out pairs, so the standard error is that of the mean difference of a pair.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.flags import make_parser
from bench.machine import RESULTS, keep
from engine.config import TrainConfig
from engine.console import quiet_libraries
from engine.data.sources import Source, SourceConfig
from tasks.offline import packaged_minilm
from tasks.options import EmbeddingsOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tasks.embeddings.task import Embeddings

SOURCE = SourceConfig(data="sample", model=packaged_minilm() or "auto", max_train_examples=4000, max_eval_examples=1000)
CONFIG = TrainConfig(batch_size=64, epochs=1, learning_rate=2e-5, warmup_ratio=0.1, device="cpu", eval_batch_size=64)


def ranks_of(task: Embeddings, model: torch.nn.Module) -> Tensor:
    """[held-out pairs]: 0 where the second passage is the nearest of all to the first."""
    from engine.data.collate import Layout
    from tasks.embeddings.retrieval import ranks

    table = task.splits()["eval"]
    first, second = (task.vectors(model, table[name][:], Layout()) for name in task.options.texts)
    return ranks(first, second)


def paired(before: Tensor, after: Tensor) -> dict[str, float]:
    """Means of two figures of the same pairs, and their difference with its standard error."""
    gaps = after.double() - before.double()
    return {"start": float(before.double().mean()), "trained": float(after.double().mean()), "gain": float(gaps.mean()),
            "standard_error": float(gaps.std() / len(gaps) ** 0.5)}  # fmt: skip


def main(argv: list[str]) -> int:
    """Print and write the table."""
    make_parser("gain", __doc__).parse_args(argv)
    from engine.fit import fit  # now, for torch takes seconds
    from tasks.embeddings.retrieval import TOP
    from tasks.embeddings.task import Embeddings

    quiet_libraries()
    task = Embeddings(EmbeddingsOptions(), Source(SOURCE))
    start = ranks_of(task, task.build_model().eval())
    with tempfile.TemporaryDirectory() as folder:
        result = fit(task, replace(CONFIG, output_dir=folder, overwrite=True))
    assert result.model is not None
    trained = ranks_of(task, result.model.eval())
    figures: dict[str, dict[str, float]] = {
        f"recall@{TOP}": paired(start < TOP, trained < TOP), "mrr": paired(1 / (start + 1), 1 / (trained + 1))
    }  # fmt: skip
    document: dict[str, Any] = {"pairs": len(start), "train_pairs": SOURCE.max_train_examples, "figures": figures}
    keep(RESULTS / "embeddings-imdb.json", document | {"train_seconds": result.metrics["train_runtime"]})
    print(f"\n{len(start)} held-out pairs")
    for name, found in figures.items():
        print(f"{name:<10} start {found['start']:.4f}  trained {found['trained']:.4f}  "
              f"gain {found['gain']:+.4f} +- {found['standard_error']:.4f}")  # fmt: skip
    return 0
