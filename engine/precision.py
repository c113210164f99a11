"""Mixed precision: which dtype, autocast around the forward pass, and the GradScaler that fp16 needs.

fp32 is the identity of both, so the loop has no branch. Weights and optimizer state stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal

import torch
from torch.amp.grad_scaler import GradScaler

from engine.errors import UsageError

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(name: str, device: torch.device) -> Precision:
    """``auto``: bf16 on a device that computes in it, else fp16 on CUDA, else fp32. Raises UsageError.

    A CPU without bf16 instructions (AVX512-BF16, AMX) emulates it, slower than fp32; it does so when asked.
    """
    has_bf16 = has_native_bf16(device)
    if name == "auto":
        return "bf16" if has_bf16 else "fp16" if device.type == "cuda" else "fp32"
    if name == "bf16" and device.type == "cuda" and not has_bf16:
        raise UsageError(f"--precision bf16: {torch.cuda.get_device_name(device)} does not compute in it; use fp16")
    if name == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16 is not for CPUs, which compute in it slowly if at all; use bf16 or fp32")
    if name == "fp16" and device.type == "mps":
        raise UsageError("--precision fp16 does not work on MPS, whose optimizers cannot skip an overflow; use bf16 or fp32")
    assert name in DTYPES
    return name  # type: ignore[return-value]


def has_native_bf16(device: torch.device) -> bool:
    """Does the device have bf16 instructions? MPS has, but float32 is as fast there."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def allow_tf32(device: torch.device, precision: Precision) -> None:
    """TensorFloat-32 for products of float32 matrices on CUDA: 10 bits of mantissa, 8 times as fast.

    With ``--precision fp32`` only: in half precision next to nothing is left in float32, and what is, is so on purpose.
    Older releases of transformers (5.17 is one) multiply rotary positions as matrices, for which 10 bits would be too few
    (https://github.com/huggingface/transformers/issues/48428); on an H200 the angles were as exact with TF32 as without.
    """
    tf32 = precision == "fp32" and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")


def make_autocast(precision: Precision, device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """A fresh autocast context for each forward pass; the backward pass follows its dtypes by itself."""
    return nullcontext if precision == "fp32" else partial(torch.autocast, device.type, dtype=DTYPES[precision])


def make_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """Scales the loss in fp16 so that small gradients do not vanish; switched off it is the identity.

    With an optimizer that obeys ``found_inf``, as fused AdamW does, it never reads from the device: an overflow skips the
    update inside the kernel.
    """
    return GradScaler(device.type, enabled=precision == "fp16")
