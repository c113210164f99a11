"""A training and what comes after it, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import run
from bench.toys import tiny


def save(folder: Path, model, **changes) -> Path:
    """With tiny.py's tokenizer, whose end token is [SEP]."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"eos_token": "[SEP]", "bos_token": "[CLS]"})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | changes))
    return folder


def training(folder: Path, model: Path, *more: str, task: str = "classification") -> list[str]:
    if not (folder / "train.csv").exists():
        tiny.save_texts(folder, train=24, eval=12)
    return ["--task", task, "--model", str(model), "--train-file", str(folder / "train.csv"), "--eval-file", str(folder / "eval.csv"),
            "--max-steps", "2", "--device", "cpu", "--precision", "fp32", "--output-dir", str(folder / "out"), *more]  # fmt: skip


def predictions(folder: Path, texts: list[str], model: str = "out") -> list[dict]:
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert run.main(["predict", str(folder / model), "--input", str(folder / "in.jsonl"), "--output", str(folder / "found.jsonl"),
                     "--device", "cpu"]) == 0  # fmt: skip
    return [json.loads(line) for line in (folder / "found.jsonl").read_text().splitlines()]


def library(folder: Path, text: str) -> dict[str, float]:
    """Probabilities by the library's own forward, with the tokenizer's own limit."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        p = model(**tokenizer(text, return_tensors="pt", truncation=True)).logits[0].softmax(-1)
    return {model.config.id2label[i]: float(p[i]) for i in range(len(p))}
