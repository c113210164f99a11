"""What a stranger's model may say of itself: refused in one line, at once, before any library reads it."""

from __future__ import annotations

import json
import os
import time

import pytest

from bench.toys import tiny
from engine.data.model_settings import check_values
from engine.data.sources import Source, SourceConfig
from engine.errors import ModelError
from tests.toys.cli import fails

ABSURD = [
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    ({"num_labels": 10**7}, "num_labels is 10000000"),
    ({"hidden_size": 10**12}, "hidden_size is 1000000000000"),
    ({"vocab_size": 10**18}, "vocab_size is 1000000000000000000"),
    ({"text_config": {"num_layers": [4, 10**6]}}, "num_layers is 1000000"),
    ({"hidden_size": 20_000, "intermediate_size": 80_000}, "parameters, and its files have"),
    ({"max_position_embeddings": 10**8}, "parameters, and its files have"),
    ({"_attn_implementation": "evil/kernel"}, "_attn_implementation is 'evil/kernel'"),
    ({"attn_implementation": "evil/kernel"}, "attn_implementation is 'evil/kernel'"),
    ({"_attn_implementation_internal": "x", "text_config": {"_attn_implementation": "kernels-community/flash-attn"}}, "flash-attn"),
    ({"attn_implementation": {"": "evil/kernel"}}, "evil/kernel"),
    ({"_experts_implementation": "evil/kernel"}, "evil/kernel"),
    ({"id2label": {"0": "a", "1": "b", "2": True}}, "id2label must hold a name for each label"),
    ({"max_position_embeddings": [[]]}, "max_position_embeddings cannot be [[]]"),
    ({"architectures": 5}, "architectures cannot be 5"),
    ({"pad_token_id": "x"}, "pad_token_id cannot be 'x'"),
    ({"x": 10**400}, "is the most"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), ABSURD, ids=str)
def test_absurd_settings_are_refused_at_once(changes, words, tmp_path, capsys, monkeypatch):
    def reached(*_, **__):
        raise AssertionError("transformers' loader of kernels was reached")

    monkeypatch.setattr("transformers.modeling_utils.load_and_register_attn_kernel", reached, raising=False)
    monkeypatch.setattr("transformers.integrations.hub_kernels.load_and_register_attn_kernel", reached)
    tiny.save_model(tmp_path / "model")
    tiny.save_texts(tmp_path, train=12)
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | changes))
    training = ["--task", "classification", "--model", str(tmp_path / "model"), "--train-file", str(tmp_path / "train.csv"),
                "--device", "cpu", "--output-dir", str(tmp_path / "out")]  # fmt: skip
    for arguments in (["predict", "--model", str(tmp_path / "model"), "w0"], training):
        began = time.monotonic()
        code, line = fails(arguments, capsys)
        assert code == 4 and words in line and time.monotonic() - began < 10


def test_settings_of_known_models_pass():
    """Large numbers and names of labels that mean no size."""
    check_values({"rope_theta": 10_000_000, "max_position_embeddings": 10_485_760, "vocab_size": 262_144, "id2label": {"0": "size"},
                  "label2id": {"layers": 5000, "_attn_implementation": 7}, "model_max_length": int(1e30), "n_layer": 126,
                  "hidden_size": 16_384, "_attn_implementation": "sdpa", "attn_implementation": None, "pad_token_id": -1,
                  "layer_types": ["full_attention"] * 126, "layer_norm_eps": 1e-12, "num_labels": 21_841})  # fmt: skip


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "anything"])
def test_a_pipe_in_a_models_folder_is_refused(name, tmp_path, capsys):
    tiny.save_model(tmp_path / "model")
    (tmp_path / "model" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "model" / name)
    code, line = fails(["predict", "--model", str(tmp_path / "model"), "w0"], capsys)
    assert code == 4 and f"{name} is no regular file" in line


def test_each_model_is_checked_once(tmp_path, monkeypatch):
    tiny.save_model(tmp_path / "model")
    calls = []
    monkeypatch.setattr("engine.data.sources.check_settings", lambda model, find: calls.append(model))
    source = Source(SourceConfig(model=str(tmp_path / "model")))
    for _ in range(3):
        assert source.load(lambda path, **_: 5, str(tmp_path / "model")) == 5
    assert calls == [str(tmp_path / "model")]


def test_a_model_of_the_hub_is_checked_too(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"_attn_implementation": "evil/kernel"}')
    monkeypatch.setattr("engine.data.hub.reachable", lambda: True)
    monkeypatch.setattr(
        "transformers.utils.cached_file", lambda path, filename, **_: tmp_path / filename if filename == "config.json" else None
    )
    with pytest.raises(ModelError, match="evil/kernel"):
        Source(SourceConfig()).load(lambda path, **_: 5, "org/model")


def test_a_limit_is_for_the_word_and_not_for_its_letters():
    """A number of channels of a depthwise convolution is no depth."""
    check_values({"depthwise_separable_out_channel": 1024, "headless": 10**7, "experts_dropped": 5, "depths": [2, 2]})
    for name in ("depth", "depths", "encoder_depth", "num_hidden_layers", "n_layer", "num_local_experts"):
        with pytest.raises(ValueError, match=f"{name} is 100000,"):
            check_values({name: 100_000})
