"""Rows M1 and later: models as they come, and what is typed before a model or a text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.bad_input.case import Attempts, Place, row
from bench.bad_input.forms import HEADER, each
from bench.bad_input.model_rows import hub_away
from bench.toys import tiny

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 100}
SFT = '{"prompt": "a", "completion": "b"}\n' * 8


def saved(at: Place, kind: str, config: str, **settings: Any) -> Path:
    """A random model of transformers' class ``kind``, with tiny.py's tokenizer, whose end token is [SEP]."""
    import transformers

    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    model = getattr(transformers, kind).from_config(getattr(transformers, config)(**ids | settings))
    model.save_pretrained(at.folder / "mine")
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"eos_token": "[SEP]", "bos_token": "[CLS]"})
    tokenizer.save_pretrained(at.folder / "mine")
    return at.folder / "mine"


def t5(at: Place, **settings: Any) -> Path:
    sizes = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": 100,
        "decoder_start_token_id": 0,
    }
    return saved(at, "AutoModelForSequenceClassification", "T5Config", **sizes | settings)


def pickled(at: Place) -> list[list[str]]:
    import safetensors.torch

    folder = at.model()
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return [at.train("--model", str(folder)), at.predict("w1", model=folder)]


def adapter(
    base: str | None, *, complete: bool = True, weights: str = "adapter_model.safetensors"
) -> Callable[[Place], Sequence[Any]]:
    """Use an adapter as peft saves it, with the base's config.json and tokenizer beside it if it is ``complete``."""

    def lines(at: Place) -> list[list[str]]:
        folder = at.model()
        (folder / "model.safetensors").rename(folder / weights)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
        if not complete:
            (folder / "config.json").unlink()
        return [at.predict("w1", model=folder), at.train("--model", str(folder))]

    return lines


def embedding(at: Place, **files: Any) -> list[list[str]]:
    """Use a model of sentence-transformers of which some files hold something else."""
    folder = at.model()
    modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in
               enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])]  # fmt: skip
    at.write("model/1_Pooling/config.json", json.dumps({"pooling_mode_mean_tokens": True} | files.pop("pooling", {})))
    for name, content in {"modules": modules, **files}.items():
        at.write(f"model/{name}.json", json.dumps(content))
    return [at.predict("w1", "--task", "embeddings", model=folder)]


def old_layout(at: Place) -> list[list[str]]:
    folder = at.model()
    (folder / "config.json").rename(folder / "config-of-0_Transformer.json")
    at.write("model/modules.json", json.dumps([{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]))
    return [at.predict("w1", "--task", "embeddings", model=folder)]


def in_python(at: Place) -> list[list[str]]:
    from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=384)).save_pretrained(at.folder / "mine")
    ByT5Tokenizer().save_pretrained(at.folder / "mine")
    return [["--task", "sft", "--prompt-column", "prompt", "--train-file", at.write("t.jsonl", SFT), "--device", "cpu",
             "--model", str(at.folder / "mine"), "--output-dir", str(at.out)]]  # fmt: skip


def masked(at: Place) -> list[list[str]]:
    sizes = {"d_model": 32, "d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 1, "num_cross_attention_heads": 2,
             "num_self_attention_heads": 2, "vocab_size": 100, "max_position_embeddings": 32}  # fmt: skip
    folder = saved(at, "AutoModelForMaskedLM", "PerceiverConfig", **sizes)
    return [["--task", "mlm", "--model", str(folder), "--train-file", at.write("t.txt", "w1 w2 w3\nw4 w5\n"), "--device", "cpu",
             "--output-dir", str(at.out)]]  # fmt: skip


def picture(mode: str) -> Callable[[Place], Attempts]:
    """Train on a grey ramp whose pixels are numbers of that kind."""

    def attempts(at: Place) -> Attempts:
        import numpy as np
        from PIL import Image

        values = {"F": np.array([[0, 1]], np.float32), "I": np.array([[0, 2**30]], np.int32)}[mode]
        (at.folder / "data").mkdir()
        Image.fromarray(np.tile(values, (8, 4))).save(at.folder / "data/a.tif")
        at.write("data/metadata.csv", "file_name,text\na.tif,a ramp\n")
        with hub_away():  # a small model is made
            yield ["--task", "captioning", "--train-file", str(at.folder / "data/metadata.csv"), "--device", "cpu",
                   "--output-dir", str(at.out)]  # fmt: skip

    return attempts


ROWS: list[tuple[str, int, str, Callable[[Place], Sequence[Any]]]] = [
    ("an end token in a text of a model that counts them", 3, "row 2: the text holds '[SEP]', the model's end token", lambda at: [
        at.on("t.csv", f"{HEADER}w1,a\nw2 [SEP] w3,b\n" + "w4,a\nw5,b\n" * 4, "--model", str(t5(at)))]),
    ("a tokenizer without that end token", 4, "its tokenizer puts none behind a text", lambda at: [
        at.train("--model", str(t5(at, eos_token_id=60)))]),
    ("weights in a pickle", 4, "a pickle can run code and is never opened; if you trust it: cd ", pickled),
    ("an adapter in a pickle", 4, "a pickle can run code and is never opened", adapter("x", weights="adapter_model.bin")),
    ("an adapter as peft saves it", 4, "put its model's config.json and tokenizer there, too", adapter("x", complete=False)),
    ("an adapter that names no base", 4, "names no base model", adapter(None)),
    ("an adapter whose base has gone", 4, "put it back, or write its new place into base_model_name_or_path", adapter("/gone/base")),
    ("a tokenizer in Python for answers", 4, "is written in Python and cannot say where", in_python),
    ("a model that gives no logits token by token", 4, "does not give logits token by token", masked),
    ("an old layout of sentence-transformers", 4, "S('", old_layout),
    ("a prompt that is a number", 4, "prompt 'query' is 5", lambda at: embedding(
        at, config_sentence_transformers={"prompts": {"query": 5}})),
    ("a default prompt that is not there", 4, "there is no such prompt", lambda at: embedding(
        at, config_sentence_transformers={"prompts": {"query": "q: "}, "default_prompt_name": "document"})),
    ("prompts that the pooling leaves out", 4, "its pooling leaves the prompt's tokens out", lambda at: embedding(
        at, config_sentence_transformers={"prompts": {"query": "q: "}}, pooling={"include_prompt": False})),
    ("a shell without a completion", 2, "--print-completion takes bash, zsh or fish, found", lambda at: [
        ["--print-completion", "tcsh"], ["--print-completion"]]),
    ("no model", 2, "name a model: python run.py", lambda at: [["predict"], ["evaluate"], ["generate"], ["fill"]]),
    ("a text where the model should stand", 2, "is no model, and the model comes first", lambda at: [
        ["predict", "w1 w2"], ["generate", "w1 w2"], ["fill", "a [MASK]"], ["evaluate", "a b"]]),
    ("a model and no text", 2, "no text to predict with", lambda at: [["predict", str(at.home / "finished")]]),
    ("rows longer than the tokens of a batch", 0, "have more tokens than --tokens-per-batch 8", lambda at: [
        at.train("--tokens-per-batch", "8", "--max-steps", "1")]),
    ("a model to which padding matters", 0, "warning: padding changes what FNetForSequenceClassification computes", lambda at: [
        at.train("--model", str(saved(at, "AutoModelForSequenceClassification", "FNetConfig", **SMALL)), "--max-steps", "1")]),
]  # fmt: skip

for _number, (_what, _code, _words, _lines) in enumerate(ROWS, start=1):
    each(f"M{_number}", _what, _code, _words, _lines, begun="token by token" in _words)  # that shows in the first step


def from_stdin(content: bytes, *flags: str) -> Callable[[Place], Attempts]:
    def attempts(at: Place) -> Attempts:
        with patch("sys.stdin", io.TextIOWrapper(io.BytesIO(content))):
            yield ["predict", str(at.home / "finished"), "--input", "-", *flags]

    return attempts


OTHERS: list[tuple[str, int, str, Callable[[Place], Attempts]]] = [
    ("an empty standard input", 3, "standard input has no line", from_stdin(b"")),
    ("a standard input that is not UTF-8", 3, "standard input is not UTF-8", from_stdin(b"w1 \xe4\n")),
    ("an encoding that there is not", 2, "there is no such encoding", from_stdin(b"w1\n", "--encoding", "no-such")),
    ("a column of standard input", 2, "can only be named with --input FILE", from_stdin(b"w1\n", "--text-column", "x")),
    ("a picture of floats", 3, "its pixels are floats, and nothing says which is white", picture("F")),
    ("a picture of 32-bit integers", 3, "its pixels are integers of more than 16 bits", picture("I")),
]
for _number, (_what, _code, _words, _attempts) in enumerate(OTHERS, start=len(ROWS) + 1):
    row(f"M{_number}", _what, _code, _words)(_attempts)
