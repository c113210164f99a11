"""The cache of keys and values is for ``generate``, which reads them again; training and evaluation keep none.

A decoder fills one in every call that does not say otherwise (``config.use_cache``): two copies a layer, held as long as
its outputs are, and a graph break where activations are checkpointed.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


def keep_for_generate(model: nn.Module) -> None:
    """A call that does not name ``use_cache`` gets False; ``generate`` names it. In place; the configuration stays."""
    if "use_cache" in inspect.signature(type(model).forward).parameters:
        model.register_forward_pre_hook(_without_cache, with_kwargs=True)


def _without_cache(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {"use_cache": False} | kwargs
