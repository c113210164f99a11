"""Rows F of preferences: what is no pair of answers, conversations that hold the prompt twice, models that cannot be the reference."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.bad_input.case import Attempts, Place, row
from bench.bad_input.file_rows import NUMBER, worked
from bench.bad_input.forms import each

GOOD = {"prompt": "w1", "chosen": "w2 w3", "rejected": "w4"}
USE = ("--task", "reward", "--max-length", "16")
CHAT = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
OTHER = [CHAT[0], {"role": "assistant", "content": "w3"}]


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in rows)


def on_rows(at: Place, *rows: dict[str, Any], more: Sequence[str] = ()) -> list[str]:
    """Train on these preferences, in a file of their own."""
    content = lines(*rows)
    return at.on(f"{zlib.crc32(content.encode())}.jsonl", content, *USE, *more)


each(f"F{next(NUMBER)}", "answers that are none", 3, "row 2: prompt and answers must be texts, or lists of messages", lambda at: [
    on_rows(at, GOOD, GOOD | other) for other in ({"chosen": None}, {"rejected": None}, {"prompt": None})])  # fmt: skip
each(f"F{next(NUMBER)}", "one answer a conversation, the other a text", 3, "one answer is a text and the other a list", lambda at: [
    on_rows(at, {"prompt": "w1", "chosen": CHAT, "rejected": "w3"})])  # fmt: skip
each(f"F{next(NUMBER)}", "preferences none of which is one", 3, "in every row both answers are the same", lambda at: [
    on_rows(at, GOOD | {"rejected": "w2 w3"})])  # fmt: skip
each(f"F{next(NUMBER)}", "one answer twice, and one too long", 0, "1 of 3 rows left out: their answers are the same", lambda at: [
    on_rows(at, GOOD, GOOD | {"rejected": "w2 w3"}, GOOD | {"chosen": "w5 " * 40})])  # fmt: skip
each(f"F{next(NUMBER)}", "conversations for a model without a template", 4, "has no chat template, and the data are conversations",
     lambda at: [on_rows(at, {"chosen": CHAT, "rejected": OTHER}, more=("--prompt-column", "none"))])  # fmt: skip
each(f"F{next(NUMBER)}", "a prompt that the conversations hold, too", 3, "begin with the prompt: --prompt-column none", lambda at: [
    on_rows(at, {"prompt": "w1", "chosen": CHAT, "rejected": OTHER})])  # fmt: skip


@row(f"F{next(NUMBER)}", "preferences without a prompt", 3, "--prompt-column none, if both answers begin with the prompt")
def _(at: Place) -> Attempts:
    rows = {"chosen": "w1 w2", "rejected": "w1 w3"}
    yield on_rows(at, rows)
    yield from worked(at, "p.jsonl", lines(rows), *USE, "--prompt-column", "none")


@row(f"F{next(NUMBER)}", "dpo evaluated without its reference", 2, "which it was to stay near: --reference-model FOLDER")
def _(at: Place) -> Attempts:
    folder = decoder(at)
    yield ["evaluate", "--task", "dpo", "--model", str(folder), "--file", at.write("p.jsonl", lines(GOOD)), "--device", "cpu"]


@row(f"F{next(NUMBER)}", "a reference that has gone", 4, "nowhere")
def _(at: Place) -> Attempts:
    yield at.on("p.jsonl", lines(GOOD), "--task", "dpo", "--model", str(decoder(at)), "--max-length", "16", "--reference-model",
                str(at.folder / "nowhere"))  # fmt: skip


def decoder(at: Place) -> Path:
    """A small language model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from bench.toys import tiny

    sizes = {
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 32,
        "vocab_size": 100,
        "bos_token_id": 3,
        "eos_token_id": 3,
    }
    return tiny.save_model(at.folder / "decoder", GPT2LMHeadModel(GPT2Config(**sizes)))
