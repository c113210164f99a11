"""What a model can take, asked of its modules and never of its name; most of it of one without weights.

Next: padding_check.py and packing_check.py, which try a small copy.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from engine.model.packing_check import small_copy

ANY_TYPE = 128  # types that are compared with each other alone, and not looked up


def read_config(path: str, **arguments: Any) -> Any:
    """AutoConfig.from_pretrained. Raises ValueError where its part for text is no configuration: a number, say."""
    from transformers import AutoConfig, PreTrainedConfig

    config = AutoConfig.from_pretrained(path, **arguments)
    if not isinstance(config.get_text_config(), PreTrainedConfig):
        raise ValueError("config.json names a part for text that is no configuration of this kind of model: fetch it again")
    return config


def without_weights(auto_class: Any, config: Any) -> nn.Module | None:
    """The model that the configuration describes, on the device "meta"; None where it cannot be built so.

    ``auto_class``: one of the library's Auto classes, or a class of models.
    """
    try:
        make = auto_class.from_config if hasattr(auto_class, "from_config") else auto_class._from_config
        with torch.device("meta"):  # counts without making, and draws no random numbers
            return make(copy.deepcopy(config))  # type: ignore[no-any-return]
    except Exception:  # of another architecture, say, or without a class of this kind: what loads the weights says it better
        return None


def first_position(model: nn.Module) -> int:
    """The number of a row's first position. RoBERTa and its kin count from behind that of the padding, so as many are lost.

    The model's table of positions knows, whatever the model is called: one with a padding row counts so.
    """
    tables = [module for name, module in model.named_modules() if name.endswith(".position_embeddings")]
    padding = next((table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None), None)
    return 0 if padding is None else int(padding) + 1  # type: ignore[arg-type]


def positions_of(config: Any, part: str, model: nn.Module | None = None) -> int | None:
    """The most tokens that the "encoder", or "decoder", of a model has positions for; None: it counts distances, as T5 does.

    ``model``: with first positions that are lost (first_position).
    """
    own = getattr(config, part, None)
    own = own.get_text_config() if isinstance(own, PreTrainedConfig) else config
    most = getattr(own, f"max_{part}_position_embeddings", None) or getattr(own, "max_position_embeddings", None)
    return int(most) - (first_position(model) if model is not None else 0) if most and most > 0 else None


def ends_of(config: Any, tokenizer: Any) -> list[int]:
    """The tokens that a text which is written ends with."""
    found = getattr(config, "eos_token_id", None)
    found = tokenizer.eos_token_id if found is None else found
    return found if isinstance(found, list) else [] if found is None else [found]


def rows_of_token_table(model: Any) -> int | None:
    """Of the table that token ids are looked up in; None: the model has none (it hashes characters, say)."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        return None
    weights = getattr(table, "weight", None)
    return len(weights) if isinstance(weights, torch.Tensor) else None


def num_token_types(model: Any) -> int:
    """How many ``token_type_ids`` the model tells apart; 0: none.

    GPT-2 and others take them, too, and look them up among the tokens: that is no meaning that a tokenizer could give them.
    """
    if model.config.get_text_config() is not model.config:  # of more than text: they say which token is a picture's
        return ANY_TYPE
    if any(name.endswith("seg_embed") for name, _ in model.named_parameters()):
        return ANY_TYPE
    tables = [m for name, m in model.named_modules() if name.rpartition(".")[2] == "token_type_embeddings"]
    return min((len(table.weight) for table in tables), default=0)  # type: ignore[arg-type]


def counts_ends(model: Any) -> bool:
    """Does the head want as many end tokens in each row of a batch? That of an encoder with a decoder may. Tried on a small
    copy; draws nothing from the global generators."""
    if not model.config.is_encoder_decoder:
        return False
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            small = small_copy(model)
            end = small.config.eos_token_id
            small(input_ids=torch.tensor([[5, 6, 7, end], [5, end, 6, end]]))
        except ValueError as error:
            return "eos" in str(error).lower()
        except Exception:  # what else it lacks is found when it is trained
            return False
    return False
