"""The work itself: token arrays on disk, batches in Plainloop's order, and the model with its starting weights.

Texts are tokenised once, in the parent; a worker reads arrays only, so that no tool pays for tokenising and a machine
without Hub, tokenizer or ``datasets`` can run the bench from a file.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contest.job import Job
from engine.data.batch import Batch
from engine.data.collate import Layout, arrange
from engine.data.plan import Plan
from engine.data.sources import Source
from engine.data.tokens import TokenDataset, Tokens
from engine.errors import DataError, ModelError, UsageError
from engine.installed import install
from engine.seed import set_seed
from engine.task import NoOptions, Task
from tasks.offline import packaged_minilm

PAD = 0  # of BERT, DistilBERT and MiniLM; the mask is made from lengths in any case


@dataclass(frozen=True)
class Workload:
    """Rows of token ids with a class each: ``ids`` flat int32, ``offsets`` [N + 1], ``labels`` [N]."""

    ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    name: str

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def num_labels(self) -> int:
        return max(2, int(self.labels.max()) + 1)

    def examples(self) -> TokenDataset:
        """As Plainloop takes them."""
        return TokenDataset(Tokens(self.ids, self.offsets, None, 0), {"labels": self.labels})

    def cut(self, max_length: int) -> Workload:
        """Rows of at most ``max_length`` tokens; the last token (the separator) is kept."""
        rows = []
        for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            row = self.ids[a:b]
            rows.append(row if len(row) <= max_length else np.append(row[: max_length - 1], row[-1]))
        return of_rows(rows, self.labels, self.name)

    def save(self, path: Path) -> None:
        np.savez(path, ids=self.ids, offsets=self.offsets, labels=self.labels, name=np.array(self.name))

    @classmethod
    def load(cls, path: str | Path) -> Workload:
        """Raises DataError for what ``save`` has not written."""
        try:
            with np.load(path) as stored:
                found = cls(stored["ids"], stored["offsets"], stored["labels"], str(stored["name"]))
        except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is no file of python -m bench tokens: {type(error).__name__}: {error}") from error
        if not len(found.labels):
            raise DataError(f"{path} holds no rows")
        return found


def of_rows(rows: Sequence[Any], labels: Any, name: str) -> Workload:
    """From one array of ids a row."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    ids = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
    return Workload(ids, offsets, np.asarray(labels, dtype=np.int64), name)


def random_workload(num_rows: int, shortest: int, longest: int, vocabulary: int = 100, seed: int = 0) -> Workload:
    """Ids drawn at random, two classes: for machines without text, and for loops that are all overhead."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(shortest, longest + 1, num_rows)
    rows = [generator.integers(5, vocabulary, n) for n in lengths]
    return of_rows(rows, generator.integers(0, 2, num_rows), f"{num_rows} random rows of {shortest}-{longest} tokens")


def tokenise(data: str, model: str, max_length: int, num_rows: int, text_column: str, label_column: str) -> Workload:
    """A random subset of imdb, yelp, or a CSV file, as ids of the model's tokenizer; or a file of ids. Raises UserError."""
    if data.endswith(".npz"):
        return Workload.load(data).cut(max_length)
    if data == "random":
        return random_workload(num_rows, min(8, max_length), max_length)
    if model.startswith("random:"):
        raise UsageError(f"--model {model} has no tokenizer for the texts of {data}: give --tokens FILE.npz, or --data random")
    texts, labels, name = read_texts(data, text_column, label_column)
    chosen = np.random.default_rng(42).permutation(len(texts))[:num_rows]
    from transformers import AutoTokenizer

    model_config(model, 2)  # refused in one line, if there is none
    tokenizer = AutoTokenizer.from_pretrained(model_path(model))
    encoded = tokenizer([texts[i] for i in chosen], truncation=True, max_length=max_length)["input_ids"]
    return of_rows(encoded, [labels[i] for i in chosen], f"{name}: {len(chosen)} of {len(texts)} texts")


def read_texts(data: str, text_column: str, label_column: str) -> tuple[list[str], list[int], str]:
    """Texts, labels counted from 0, and what to call them."""
    if data == "imdb":
        from tasks.classification.imdb import packaged_imdb

        reviews = packaged_imdb()
        return list(reviews), list(reviews.values()), "IMDb reviews of the offline extra"
    if data == "yelp":
        from tasks.samples import yelp

        kept = [r for r in yelp.generate_reviews(12_000, 1) if r.stars != 3]
        return [r.text for r in kept], [int(r.stars > 3) for r in kept], "synthetic Yelp sample"
    from engine.data.files import read_table

    table = read_table(Path(data), [text_column, label_column])
    names = sorted(set(table[label_column]))
    return list(table[text_column]), [names.index(cell) for cell in table[label_column]], Path(data).name


# ------------------------------------------------------------------------------------------------------------ batches


def batches(job: Job, lengths: np.ndarray) -> list[list[int]]:
    """The rows of every step, by Plainloop's plan: random order, or length buckets."""
    plan = Plan(
        len(lengths),
        job.batch_size,
        max_steps=job.num_steps,
        seed=job.seed,
        lengths=lengths,
        bucketed=job.batching == "bucketed",
    )
    return [[row for _, row in keys] for keys in islice(plan.micro_batches(), job.num_steps)]


def batches_sha(rows_of_steps: Sequence[Sequence[int]]) -> str:
    """Of the example ids of every step, in order."""
    return hashlib.sha256(repr([list(map(int, rows)) for rows in rows_of_steps]).encode()).hexdigest()[:16]


class Features(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows as a tokenizer hands them to a collator, and ``row``, by which the gate knows them."""

    def __init__(self, workload: Workload):
        self.workload = workload

    def __len__(self) -> int:
        return len(self.workload.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        w = self.workload
        ids = w.ids[w.offsets[row] : w.offsets[row + 1]].tolist()
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(w.labels[row]), "row": int(row)}


def padding_tokenizer() -> Any:
    """A tokenizer that can pad, which is all that a collator asks of it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[PAD]": PAD, "[UNK]": PAD + 1}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def collator(job: Job) -> Any:
    """What the tutorials use: each batch to its longest row, or all to ``max_length``."""
    from transformers import DataCollatorWithPadding

    if job.batching == "max_length":
        return DataCollatorWithPadding(padding_tokenizer(), padding="max_length", max_length=job.max_length)
    return DataCollatorWithPadding(padding_tokenizer())


class TokenTask(Task[NoOptions]):
    """Cross-entropy over classes on rows that are token ids already; the rest of a task is not needed to train."""

    def __init__(self, workload: Workload, max_length: int):
        super().__init__(NoOptions(), Source())
        self.workload, self.max_length = workload, max_length
        self.padding = SimpleNamespace(pad_token_id=PAD, pad_token_type_id=0, padding_side="right")

    def examples(self) -> dict[str, Any]:
        return {"train": self.workload.examples()}

    def build_model(self) -> nn.Module:
        raise NotImplementedError("the bench builds the model")

    def collate(self, rows: Sequence[dict[str, Any]], layout: Layout) -> Batch:
        inputs, counts = arrange(rows, layout, self.padding)
        labels = torch.tensor([int(row["labels"]) for row in rows])
        return Batch(inputs=inputs, targets={"labels": labels}, num_items=len(rows), **counts)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs.logits.float(), batch.targets["labels"], reduction="sum")

    def metrics(self, split: str) -> Any:
        raise NotImplementedError

    def load_model(self, path: str) -> nn.Module:
        raise NotImplementedError

    def predict(self, model: nn.Module, inputs: Any, layout: Layout = Layout()) -> Any:  # noqa: B008 - frozen
        raise NotImplementedError

    def save(self, model: nn.Module, directory: Path) -> None:
        raise NotImplementedError


# -------------------------------------------------------------------------------------------------------------- model


def model_path(name: str) -> str:
    """``minilm`` is the model of the offline extra; anything else is a folder or a Hub name."""
    if name != "minilm":
        return name
    path = packaged_minilm()
    if path is None:
        raise UsageError(f"the offline extra is needed, or --model: {install('offline', 'bench')}")
    return path


def model_config(name: str, num_labels: int) -> Any:
    """Of a checkpoint, or of ``random:`` weights in the size of a known one; llama: half a billion, with grouped heads.

    Language models have no dropout: some attention functions know none.
    """
    from transformers import AutoConfig, BertConfig, DistilBertConfig, GPT2Config, LlamaConfig

    tiny: dict[str, Any] = {"vocab_size": 128, "initializer_range": 0.2}
    dry: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

    sizes = {
        "random:bert": BertConfig,
        "random:distilbert": DistilBertConfig,
        "random:tiny": lambda: BertConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64, **tiny
        ),
        "random:gpt2": lambda: GPT2Config(**dry),
        "random:llama": lambda: LlamaConfig(
            vocab_size=32_000, hidden_size=1280, intermediate_size=3456, num_hidden_layers=24, num_attention_heads=20,
            num_key_value_heads=4, max_position_embeddings=2048,
        ),
        "random:tiny-gpt2": lambda: GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=2, **tiny, **dry),
        "random:tiny-llama": lambda: LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=64, **tiny,
        ),
    }  # fmt: skip
    if name.startswith("random:") and name not in sizes:
        raise UsageError(f"--model {name}: there are {', '.join(sizes)}")
    try:
        config = sizes[name]() if name in sizes else AutoConfig.from_pretrained(model_path(name))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"--model {name}: neither a folder with a model, nor one that the Hub gives: {str(error).splitlines()[0]}"
        ) from error
    config.use_cache = False  # of a decoder: for generating; Trainer turns it off, too
    config.num_labels = num_labels
    config.problem_type = "single_label_classification"
    return config


def model_class(task: str) -> Any:
    """transformers' Auto class."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForCausalLM if task == "language" else AutoModelForSequenceClassification


def build_model(job: Job, num_labels: int, *, dropout: bool) -> nn.Module:
    """The same float32 weights in every process: the seed decides what the checkpoint does not hold."""
    config = model_config(job.model, num_labels)
    if not dropout:
        for name, value in config.to_dict().items():
            if "drop" in name and isinstance(value, float):
                setattr(config, name, 0.0)
    set_seed(job.seed)
    kind, choices = model_class(job.task), {"dtype": torch.float32, "attn_implementation": job.attention}
    if job.model.startswith("random:"):
        model: nn.Module = kind.from_config(config, **choices)
    else:
        model = kind.from_pretrained(model_path(job.model), config=config, **choices)
    return model.train()


def weights_sha(model: nn.Module) -> str:
    """Of every parameter, by name."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.removeprefix("module.").encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def dropouts(model: nn.Module) -> list[float]:
    """The probability of every dropout layer, in order; 0 for those of a model that is not training."""
    return [m.p if m.training else 0.0 for m in model.modules() if isinstance(m, nn.Dropout)]
