"""Write one text from another: summaries, translations, rewritten sentences. An encoder reads the source, a decoder writes.

    {"source": "Ravi has hidden the key.", "target": "The key has been hidden by Ravi."}

Any model of transformers' AutoModelForSeq2SeqLM: T5, BART, Marian, Pegasus and their kin. The decoder gets the target from its
start token on and predicts the next token; the loss is the sum over the tokens of the targets, from the logits. Sources lie
padded in a batch, as the kernels of packed batches have no attention from one text to another, nor T5's biases of positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from engine.console import note
from engine.data.batch import Batch
from engine.data.collate import Layout, arrange, per_token
from engine.data.tables import names_of_rows
from engine.data.taken import HubData, TakenModel
from engine.data.tokens import TokenDataset, tokenize
from engine.errors import UsageError
from engine.task import Examples, Row
from tasks.language.scratch import small_t5
from tasks.options import DEFAULTS, Seq2SeqOptions
from tasks.samples import passive
from tasks.seq2seq.metrics import WritingMetrics, say_what_rouge_misses
from tasks.seq2seq.mistakes import WritingMistakes
from tasks.seq2seq.rows import SourcesAndTargets, both_in, column_of, ways_in
from tasks.seq2seq.writer import Writer

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN, EVAL = 16000, 500  # rows of the sample


class Seq2Seq(Writer):
    """An encoder with a decoder on sources and targets."""

    Options = Seq2SeqOptions
    hub_data = HubData("abisee/cnn_dailymail", "3.0.0", eval="validation")
    hub_model = "google-t5/t5-small"
    pipeline_tag = "text2text-generation"
    loading = "from transformers import AutoModelForSeq2SeqLM", "AutoModelForSeq2SeqLM.from_pretrained(name)"
    shardable = False  # the metrics write texts, each of its own length
    best_metric = "chrf"  # of letters: it has a meaning in every script
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["seq2seq"]

    def __init__(self, options: Seq2SeqOptions, source: Any):
        super().__init__(options, source)
        self.corpus: Sequence[str] = ()  # of the training data: what a tokenizer is made from when there is no checkpoint
        self._held_out: dict[str, tuple[Dataset, Sequence[str], Sequence[str], dict[int, str]]] = {}

    # ---------------------------------------------------------------------------------------------------------- data

    @property
    def texts(self) -> tuple[str, str]:
        """The columns of source and target: as asked, else those of the Hub's default data there, and their names elsewhere."""
        config, o = self.source.config, self.options
        is_default = not self.source.is_replaced and not config.train_file and config.data in ("auto", "hub")
        source, target = ("article", "highlights") if is_default else ("source", "target")
        source, target = o.source_column or source, o.target_column or target
        if source == target or "" in (source, target):
            raise UsageError(f"source and target must be different columns, found {source!r}, {target!r}")
        return source, target

    def columns(self) -> list[str]:
        return list(dict.fromkeys(column_of(name) for name in self.texts))

    def way_in(self, found: Sequence[str]) -> str:
        return ways_in(found)

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Sentences made by this project."""
        from datasets import Dataset

        both = {split: passive.sentences(n, seed) for split, n, seed in (("train", TRAIN, 0), ("eval", EVAL, 1))}
        columns = dict(zip(self.texts, ("source", "target"), strict=True))
        tables = {
            split: Dataset.from_dict({c: [row[n] for row in rows] for c, n in columns.items()}) for split, rows in both.items()
        }
        return tables, "embedded sample (synthetic sentences, active and passive, made by this project, version 1)"

    def examples(self) -> dict[str, Examples]:
        tables = self.splits_to_make()
        rows = {split: both_in(table, self.texts, f"{split} data") for split, table in tables.items()}
        self.corpus = [text for column in rows.get("train", ()) for text in column]
        self.say_what_prefix_there_is()
        self.say_which_languages()
        return {split: self.on_tokens(*rows[split], tables[split], split) for split in tables}

    def on_tokens(self, sources: Sequence[str], targets: Sequence[str], table: Dataset, split: str) -> Examples:
        """Token ids of both. Raises ModelError for a tokenizer whose targets have no end."""
        name, where = names_of_rows(table), f"{split} data"
        if split != "train":
            self._held_out[split] = table, sources, targets, {}
            say_what_rouge_misses(targets, where)
            self.try_it = sources[:1]  # type: ignore[misc]
        read = self.tokenize(self.prefixed(sources), None, where, name)
        longest = self.max_target_length
        written = tokenize(targets, self.tokenizer, longest, name=f"{where}, targets", row_name=name, as_targets=True)
        if written.num_truncated:
            note(f"{where}: {written.num_truncated} of {len(targets)} targets cut to {longest} tokens (--max-target-length)")
        self.check_ends(written.ids[: written.offsets[1]].tolist())
        both = TokenDataset(read), TokenDataset(dataclasses.replace(written, types=None))
        return SourcesAndTargets(both, {}, name)

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """``targets["labels"]``: [B, T], padded on the right with -100: a decoder looks back, and does not see it."""
        sources, targets = zip(*(row["texts"] for row in rows), strict=True)
        inputs, counts = arrange(sources, layout, self.tokenizer)
        beside = dataclasses.replace(layout, max_length=self.max_target_length, shortest=1)
        labels = per_token([row["input_ids"] for row in targets], beside, -100)
        lengths = (labels != -100).sum(1)
        inputs["decoder_input_ids"] = self.decoder_inputs(labels)
        items = int(lengths.sum())
        more = {"num_tokens": items, "executed_tokens": labels.numel(), "sum_squares": int((lengths**2).sum()),
                "longest": labels.shape[1]}  # fmt: skip
        counts |= {name: counts[name] + number for name, number in more.items()}
        return Batch(inputs=inputs, targets={"labels": labels}, num_items=items, **counts)

    # --------------------------------------------------------------------------------------------------------- model

    def substitute(self) -> TakenModel | None:
        """A small model that begins with random weights, and a tokenizer made from the training data."""
        return TakenModel(*small_t5(self.corpus)) if self.corpus else None

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        logits, labels = outputs.logits.float().flatten(0, 1), batch.targets["labels"].flatten()  # [B T, V] and [B T]
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.options.label_smoothing or 0.0)

    def metrics(self, split: str) -> WritingMetrics:  # type: ignore[override]
        _, _, targets, written = self._held_out[split]
        written.clear()
        return WritingMetrics(self.write, targets, written)

    def review(self, split: str) -> WritingMistakes:
        return WritingMistakes(*self._held_out[split])
