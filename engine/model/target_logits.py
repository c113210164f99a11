"""Logits only where there is a target: the head of a language model is the most expensive matrix of a small one.

Of a masked batch 15% of the tokens have a target, of a conversation the answers: the other logits would be computed,
kept for the backward pass, and never looked at. A batch says with ``target_index`` which tokens it wants; the hidden
states are picked between the body and the head, so no model is forked, and a batch without it is left alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from engine.errors import ModelError


def enable(model: nn.Module, level: str | None) -> None:
    """Let a token-level model take ``target_index`` [N]; ``outputs.logits`` are then [1, N, V]. In place; any model.

    The index counts through the flattened [B, T] (or packed [1, T]) tokens. Where body and head cannot be told apart, the
    logits are picked after the head, which is the same for more work.
    """
    if level != "token":
        return
    body = getattr(model, "base_model", model)
    index: list[Tensor | None] = [None]
    ids: list[Tensor | None] = [None]  # [B, T]

    def keep(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        index[0] = kwargs.pop("target_index", None)
        ids[0] = kwargs["input_ids"] if index[0] is not None else None
        return args, kwargs

    def pick(module: nn.Module, args: Any, outputs: Any) -> Any:
        name = "logits" if module is model else "last_hidden_state"
        vectors = getattr(outputs, name, None)
        if index[0] is None or ids[0] is None:
            return outputs
        if vectors is None or vectors.shape[:2] != ids[0].shape:
            if module is not model:
                return outputs
            raise ModelError(f"{type(model).__name__} does not give logits token by token: it cannot be trained on this task")
        setattr(outputs, name, vectors.flatten(0, 1).index_select(0, index[0])[None])  # of [B * T, H or V]
        index[0] = ids[0] = None  # as before the call: a compiler guards what it finds here
        return outputs

    model.register_forward_pre_hook(keep, with_kwargs=True)
    if isinstance(body, nn.Module) and body is not model:
        body.register_forward_hook(pick)
    model.register_forward_hook(pick)  # for a model that calls a part of its body, and not the whole
