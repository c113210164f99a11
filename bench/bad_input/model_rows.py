"""Rows 67 to 76: models, tokenizers and the Hub."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import safetensors.torch

from bench.bad_input.case import Attempts, Place, edit, row, spawn
from bench.bad_input.forms import each
from bench.toys import tiny

each(67, "model directory missing", 4, "there is no such directory", lambda at: [
    at.train("--model", str(at.folder / "none")), at.predict("w1", model=at.folder / "none")])  # fmt: skip


@row(68, "Hub out of reach", 4, "is not reachable and the cache holds no copy. Give --model FOLDER")
def _(at: Place) -> Attempts:
    with hub_away():
        yield at.train("--model", "someone/something")
        yield at.predict("w1", model=Path("someone/something"))


@row(69, "gated repository, or no valid token", 4, "hf auth login", slow=True)
def _(at: Place) -> Attempts:
    from bench.toys.hub_server import HubServer

    tiny.save_model(at.folder / "hub/models/org/locked")
    (at.folder / "hub/models/org/locked/.gated").touch()
    with HubServer(at.folder / "hub") as hub:
        yield spawn(at.train("--model", "org/locked"), env=with_hub(at, hub.url))


@row(70, "no padding token", 0, "saved to")
def _(at: Place) -> Attempts:
    folder = at.model()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "[SEP]"}))
    yield at.train("--model", str(folder))


@row(
    71,
    "tokenizer larger than the embeddings",
    4,
    "its tokenizer has ids up to 100, and the model 100 embeddings: if tokens were added, save the model again",
)
def _(at: Place) -> Attempts:
    folder = at.model()
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(folder)
    yield at.train("--model", str(folder))


@row(72, "number of labels differs from the weights", 4, "classifier.weight is [3, 32] in the file, but [5, 32] by config.json")
def _(at: Place) -> Attempts:
    folder = at.finished()
    names = {str(i): name for i, name in enumerate("abcde")}
    edit(folder / "config.json", id2label=names, label2id={name: int(i) for i, name in names.items()})
    yield at.predict("w1", model=folder)


@row(73, "weights cut short", 4, "its weights file is damaged")
def _(at: Place) -> Attempts:
    folder = at.model()
    weights = (folder / "model.safetensors").read_bytes()
    for size in (len(weights) // 2, 7, 0):
        (folder / "model.safetensors").write_bytes(weights[:size])
        yield at.train("--model", str(folder))


@row(74, "a weight missing in the file", 4, "the checkpoint lacks 1 weights of the model, such as bert.encoder.layer.1")
def _(at: Place) -> Attempts:
    folder = at.model()
    weights = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    del weights["bert.encoder.layer.1.output.dense.weight"]
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
    yield at.train("--model", str(folder))


@row(75, "a model with code of its own", 4, "code of its own, which is never run")
def _(at: Place) -> Attempts:
    folder = with_code(at)
    yield at.train("--model", str(folder))
    yield at.predict("w1", model=folder)
    assert not (at.folder / "marker").exists(), "the code was run"


@row(76, "a model of the wrong architecture", 4, "model")
def _(at: Place) -> Attempts:
    folder = at.model()
    edit(folder / "config.json", model_type="vit", architectures=["ViTModel"])
    yield at.train("--model", str(folder))
    edit(folder / "config.json", model_type="no-such-kind")
    yield at.train("--model", str(folder))


# ---------------------------------------------------------------------------------------------------------- helpers


EVIL = "open({marker!r}, 'w').close()\nfrom tasks.classification.task import Classification as Evil\nEvilConfig = EvilModel = Evil\n"


def with_code(at: Place) -> Path:
    """A model directory whose config asks for code that lies beside it."""
    code = {"AutoConfig": "evil.EvilConfig", "AutoModelForSequenceClassification": "evil.EvilModel"}
    folder = at.model(model_type="evil", auto_map=code)
    (folder / "evil.py").write_text(EVIL.format(marker=str(at.folder / "marker")))
    return folder


@contextlib.contextmanager
def hub_away() -> Iterator[None]:
    """No Hub, and an empty cache."""
    with (
        patch("engine.data.hub.reachable", return_value=False),
        patch("engine.data.hub.go_offline"),
        patch("huggingface_hub.try_to_load_from_cache", return_value=None),
    ):
        yield


def with_hub(at: Place, url: str) -> dict[str, str]:
    """The environment of a user whose Hub is at ``url``, with an empty cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    return kept | {"HF_ENDPOINT": url, "HF_HOME": str(at.folder / "hf"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
