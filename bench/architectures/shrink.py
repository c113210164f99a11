"""A configuration made small by its fields, whatever the architecture: two layers of width 32 and a hundred tokens.

The fields' names are those that transformers' configurations share; what one architecture alone needs stands in OWN. Next:
try_one.py, which trains what comes out.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

VOCABULARY = 128  # more than bench/toys/tiny.py's tokenizer has
POSITIONS = 64
MOST_PARAMETERS = 3_000_000  # of what counts as tiny

# The first pattern that a field's whole name matches says what it becomes: at most so much, or exactly that ("=").
SIZES: tuple[tuple[str, int], ...] = (
    (r"encoder_hash_byte_group_vocab|ngram_vocab_size_base|vocab_size\w*", VOCABULARY),
    (r"(max|n|num)_?position(s|_embeddings)?|max_position_embeddings|n_ctx|max_seq_len|model_max_length|seq_length", POSITIONS),
    (r"original_max_position_embeddings|rel_extent|max_(source|target)_positions", POSITIONS),
    (r"(num_|n_|encoder_|decoder_|swa_)?(hidden_|residual_|lstm_|encoder_|decoder_|attention_|local_|global_)?layers?|n_layer|depth"
     r"|num_blocks|num_hidden_layers_\w+", 2),
    (r"num_key_value_heads\w*|num_kv_heads|n_head_kv|swa_num_key_value_heads|kv_n_heads|multi_query_group_num|kv_heads", 2),
    (r"(num_|n_|encoder_|decoder_|swa_)?(attention_)?heads?|n_heads?|num_attention_heads\w*|linear_num_(key|value)_heads"
     r"|index_n_heads|(mamba_)?(n|num)_(mamba_)?heads|linear_num_heads", 4),
    (r"(linear_key_|linear_value_|linear_|index_|swa_|global_|rotary_|mamba_|attention_)?(head_dim|d_head|dim_head)|d_kv|kv_channels"
     r"|qk_(nope|rope)_head_dim|v_head_dim|rotary_dim", 8),
    (r"qk_head_dim", 16),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank|hc_lowrank|laurel_rank|gated_norm_rank|lora_rank|time_step_rank|mamba_dt_rank", 16),
    (r"(num|n)_(local_|routed_)?experts|moe_num_experts|num_local_experts", 4),
    (r"num_experts_per_tok(en)?|moe_top_?k|top_k_experts|moe_k", 2),
    (r"n_group|topk_group|num_expert_group|n_groups|mamba_n_groups", 1),
    (r"n_shared_experts|num_shared_experts|moe_num_shared_experts", 1),
    (r"first_k_dense_replace|num_dense_layers|num_nextn_predict_layers|num_kv_shared_layers", 1),
    (r"\w*(intermediate_size|ffn_hidden_size|ffn_dim|dim_ff|d_ff|dff|d_inner|n_inner)\w*", 64),
    (r"\w*(hidden_size|hidden_dim|embedding_size|embed_dim|emb_dim|n_embd|d_model|projection_dim|embedding_dim|proj_dim|output_dim"
     r"|head_size)\w*|dim", 32),
    (r"(mamba_)?(d_state|state_size)|ssm_state_size", 8),
    (r"(mamba_)?chunk_size|sliding_window(_size)?|local_attention|attention_chunk_size|window_size|index_topk|block_size"
     r"|attention_window", 8),
    (r"image_size|input_size", 28), (r"patch_size", 14),
)  # fmt: skip
TOKENS = {"pad": 0, "bos": 2, "cls": 2, "decoder_start": 2, "eos": 3, "sep": 3, "mask": 4}  # those of tiny.py's tokenizer


OWN: dict[str, dict[str, Any]] = {  # what the other fields of an architecture do not say
    "bamba": {"mamba_n_heads": 8, "attn_layer_indices": [1]},
    "granitemoehybrid": {"mamba_n_heads": 8, "layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1}, "xmod": {"default_language": "en_XX"},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "visual_embed": False},
    "lilt": {"hidden_size": 48}, "hrm_text": {"num_layers_per_stack": 2, "num_hidden_layers": 16},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "linear_attention", "hybrid"],
               "hybrid_layer_ids": [2], "n_mamba_heads": 8, "mamba_headdim": 8, "attention_head_dim": 16, "kv_channels": 8,
               "attention_hidden_size": 64},
    "marian": {"decoder_vocab_size": VOCABULARY}, "fsmt": {"src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY},
    "mamba2": {"num_heads": 8}, "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0, "mask_token_id": 4},
    "esmc": {"num_key_value_heads": 4, "vocab_size": VOCABULARY}, "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "perceiver": {"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"],
                 "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2, "attention_hidden_size": 64,
              "attention_head_dim": 16, "n_mamba_heads": 2},
    "neomme": {"head_dim": 16}, "recurrent_gemma": {"lru_width": 32, "num_hidden_layers": 3},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
             "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}},
    "cohere_compass_text": {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in
                            ("full_attention", "sliding_attention")}},
    "deepseek_v2": {"num_experts_per_tok": 2}, "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8},
    "gemma3n_text": {"num_kv_shared_layers": 0}, "lfm2": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"], "index_head_dim": 8, "index_n_heads": 2,
                           "rotary_dim": 8, "index_block_size": 4, "index_topk_blocks": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
}  # fmt: skip
NOT_NONE = {"num_key_value_heads": 2, "head_dim": 8}  # of fields that an architecture has, and that it does not fill itself


def shrunk(fields: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same fields with small numbers; of lists with a value per layer those of one layer of each kind."""
    fields = copy.deepcopy(dict(fields))
    small: dict[str, Any] = {}
    layers = chosen_layers(fields)
    for name, value in fields.items():
        if name == "per_layer_config":  # of single layers; without it all are alike
            continue
        if isinstance(value, dict) and name not in ("id2label", "label2id", "rope_parameters", "rope_scaling"):
            small[name] = shrunk(value) if value.get("model_type") or name.endswith("_config") else value
        elif isinstance(value, list) and layers and len(value) == number_of_layers(fields):
            small[name] = [smaller(name, value[i]) for i in layers]
        elif name in LAYERS and layers:
            small[name] = len(layers)
        elif name == "num_key_value_heads" and fields.get("kv_lora_rank"):  # latent attention has a key for each head
            small[name] = 4
        elif value is None and name in NOT_NONE:
            small[name] = NOT_NONE[name]
        else:
            small[name] = smaller(name, value)
    return small | dict(own or {})


LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def number_of_layers(fields: Mapping[str, Any]) -> int:
    """As the configuration has it; 0: it does not say in the usual way."""
    return next((fields[name] for name in LAYERS if isinstance(fields.get(name), int)), 0)


def chosen_layers(fields: Mapping[str, Any]) -> list[int]:
    """The numbers of the layers that are kept: the first of each kind, and at least two; []: there are not so many."""
    number = number_of_layers(fields)
    lists = [value for name, value in fields.items() if isinstance(value, list) and number > 1 and len(value) == number]
    kinds: dict[str, int] = {}
    for i in range(number):
        kinds.setdefault(str([each[i] for each in lists if not isinstance(each[i], float)]), i)
    first = sorted(kinds.values())
    return first if len(first) > 1 else list(range(min(2, number)))


def smaller(name: str, value: Any) -> Any:
    """A number that a pattern knows, no larger than that; the numbers of tokens; anything else as it is."""
    token = re.fullmatch(r"(\w+)_token_(?:id|index)", name)
    if token and (isinstance(value, int) or (isinstance(value, list) and value)):
        return TOKENS.get(token[1], min(value, VOCABULARY - 1 - len(token[1]) % 20) if isinstance(value, int) else 3)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    for pattern, most in SIZES:
        if re.fullmatch(pattern, name):
            return min(value, most)
    return value
