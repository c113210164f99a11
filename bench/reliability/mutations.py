"""One file of a stranger's changed at random: a value, a key, a key that a library acts on, bytes, or another kind of file.

A change is a function of the generator that it is given. Next: strangers.py, which lets every command read the result.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"
NASTY: list[Any] = [
    None, True, 0, -1, 5, 10**9, 10**30, 1e308, 0.5, "", "x", ESCAPE, "../../etc/passwd", "evil/kernel", "http://127.0.0.1:9/x",
    "file.py:Evil", [], {}, [[]], [None, {}], {"x": 1}, {ESCAPE: ESCAPE}, "a" * 5000, "\ud800",
]  # fmt: skip
WHOLE = [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b"{}", b"\x00" * 100, ESCAPE.encode()]
BOMB = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = [BOMB, "{{ 1 / 0 }}", "{{ 'a' * (10 ** 10) }}", "{{ 10 ** (10 ** 9) }}", "{{ raise_exception('no') }}", "{% for %}",
             "{{ messages }}", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", ESCAPE, 5, [], {"a": 1}, None]  # fmt: skip
EVIL = {"quant_method": "bitsandbytes", "load_in_4bit": True}
ACTED_ON: dict[str, dict[str, list[Any]]] = {  # by file: keys that transformers, peft or sentence-transformers act on
    "config.json": {
        "quantization_config": [EVIL, {"quant_method": "evil"}, "x"],
        "_attn_implementation": ["evil/kernel", "flex_attention"],
        "auto_map": [{"AutoConfig": "evil.E", "AutoModelForSequenceClassification": "evil.E"}, "x"],
        "backbone": ["evil/model"], "transformers_weights": ["../../x.safetensors", "adapter_model.bin"],
        "is_decoder": [True], "is_encoder_decoder": [True], "pruned_heads": [{"0": [0]}], "torchscript": [True],
        "tie_word_embeddings": [True, False], "dtype": ["evil", "float16"], "torch_dtype": ["evil"],
        "vision_config": [{"model_type": "vit"}], "text_config": [{"model_type": "bert"}, 5],
        "model_type": ["gpt2", "vit", "t5", "timm_wrapper", "mamba2", "detr"], "add_cross_attention": [True],
        "problem_type": ["regression", "evil"], "use_pretrained_backbone": [True], "num_labels": [0, 1, 5],
        "output_hidden_states": [True, "x"], "return_dict": [False], "chunk_size_feed_forward": [7, -1],
        "rope_scaling": [{"type": "x"}],
    },
    "tokenizer_config.json": {
        "vocab": ["/etc/passwd"], "merges": ["/etc/passwd"], "gguf_file": ["/etc/passwd"],
        "vocab_file": ["/etc/passwd"], "tokenizer_file": ["/etc/passwd", "/dev/zero"],
        "tokenizer_class": ["BertTokenizer", "T5Tokenizer", "Evil", "GPT2Tokenizer", 5],
        "auto_map": [{"AutoTokenizer": ["evil.E", "evil.E"]}], "fix_mistral_regex": [True],
        "padding_side": ["left", "middle"], "truncation_side": ["left", "middle"], "split_special_tokens": [True],
        "extra_special_tokens": [{"a": "b"}, ["x"], 5],
        "chat_template": [BOMB, {"default": BOMB}, [{"name": "default", "template": BOMB}]],
        "model_max_length": [1, 2, 10**30, -1], "added_tokens_decoder": [{"9": {"content": "x"}}, {"x": {}}],
        "add_prefix_space": [True], "init_inputs": [["x"]], "additional_special_tokens": [["w1"], 5],
        "model_input_names": [["x"], "x"], "processor_class": ["evil"],
    },
    "generation_config.json": {
        "num_beams": [2, 10**6], "num_return_sequences": [0, 3, 10**6], "custom_generate": ["evil/code"],
        "compile_config": [{"backend": "x"}], "cache_implementation": ["static", "offloaded", "evil"],
        "prompt_lookup_num_tokens": [5], "penalty_alpha": [0.6], "max_time": [1e-9],
        "watermarking_config": [{}, {"bias": 1}], "stop_strings": [["a"]], "max_length": [1, 10**9],
        "min_length": [10**9], "bad_words_ids": [[[1]], [[]]], "force_words_ids": [[[1]]],
        "forced_bos_token_id": [10**6], "guidance_scale": [2.0], "assistant_early_exit": [1], "dola_layers": ["high"],
        "constraints": [[1]], "sequence_bias": [[[[1], 1.0]]], "repetition_penalty": [0, -1.0],
        "eos_token_id": [[], [10**9]], "decoder_start_token_id": [10**9], "bos_token_id": [None],
    },
    "adapter_config.json": {
        "megatron_config": [{"a": 1}], "megatron_core": ["os"], "layer_replication": [[[0, 2], [0, 2]]],
        "use_dora": [True], "lora_bias": [True],
        "init_lora_weights": ["pissa", "olora", "gaussian", "eva", "loftq", "evil"],
        "trainable_token_indices": [[1, 2]], "bias": ["all"], "target_parameters": [["x"]],
        "alora_invocation_tokens": [[1]], "use_qalora": [True], "fan_in_fan_out": [True], "r": [1, 64],
        "auto_mapping": [{"base_model_class": "E", "parent_library": "evil"}], "task_type": ["CAUSAL_LM", "evil"],
        "revision": ["evil"], "use_rslora": [True], "base_model_name_or_path": ["evil/model", "/", ".", "/dev/zero"],
        "peft_type": ["IA3"],
    },
    "run.json": {"task": ["evil.py:Evil"], "format": [99], "files": [{"../x": "0"}, {"/etc/passwd": ""}, {"config.json": "0"}]},
    "modules.json": {},
    "preprocessor_config.json": {
        "image_processor_type": ["Evil", "CLIPImageProcessor"], "auto_map": [{"AutoImageProcessor": "evil.E"}],
        "size": [{"height": 10**7, "width": 10**7}, 5], "image_mean": [[0], "x"], "resample": [99], "do_resize": ["x"],
        "crop_size": [{"height": 10**6, "width": 10**6}],
    },
    "sentence_bert_config.json": {"max_seq_length": [0, -1, "x", 10**30]},
}  # fmt: skip


def leaves(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON value, but its own."""
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [each for key, value in inner for each in [(*path, key), *leaves(value, (*path, key))]]


def changed_json(content: bytes, generator: random.Random, name: str = "") -> bytes:
    """One value, or one key, is another; or, in a file of this ``name``, a key that a library acts on is there."""
    found = json.loads(content)
    if ACTED_ON.get(name) and isinstance(found, dict) and generator.random() < 0.4:
        key = generator.choice(list(ACTED_ON[name]))
        return json.dumps(found | {key: generator.choice(ACTED_ON[name][key])}).encode()
    paths = leaves(found)
    if not paths:
        return generator.choice(WHOLE)
    *above, key = generator.choice(paths)
    inner = found
    for step in above:
        inner = inner[step]
    kind = generator.randrange(6)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, dict):
        inner[generator.choice([ESCAPE, "x", ""])] = inner.pop(key)
    elif kind == 2 and isinstance(inner[key], str):
        inner[key] = inner[key] + ESCAPE
    else:
        inner[key] = generator.choice(TEMPLATES if key == "chat_template" else NASTY)
    return json.dumps(found).encode()


def changed_bytes(content: bytes, generator: random.Random) -> bytes:
    """Cut, a few bytes flipped, or a piece repeated."""
    at = generator.randrange(len(content) or 1)
    kind = generator.randrange(3)
    if kind == 0:
        return content[:at]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(1 + generator.randrange(8) if content else 0):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        return bytes(changed)
    return content[:at] + content[max(0, at - 50) :]


def link_to(target: str) -> Callable[[Path], None]:
    """What puts a link there in the place of a file."""
    return lambda path: path.symlink_to(target)


def change(path: Path, generator: random.Random) -> None:
    """Change one file as a stranger may."""
    content = path.read_bytes()
    is_json, kind = path.suffix in (".json", ".jsonl"), generator.randrange(12)
    if kind == 0:
        path.unlink()
        how: Callable[[Path], None] = generator.choice([os.mkfifo, os.mkdir, *map(link_to, ("/dev/zero", "/etc/passwd"))])
        how(path)
    elif kind == 1:
        path.write_bytes(generator.choice(WHOLE))
    elif path.suffix == ".jinja":
        path.write_text(str(generator.choice(TEMPLATES)))
    elif path.suffix == ".jsonl" and kind < 9:
        lines = content.splitlines()
        at = generator.randrange(len(lines))
        lines[at] = changed_json(lines[at], generator)
        path.write_bytes(b"\n".join(lines) + b"\n")
    elif is_json and kind < 9:
        path.write_bytes(changed_json(content, generator, path.name))
    else:
        path.write_bytes(changed_bytes(content, generator))
