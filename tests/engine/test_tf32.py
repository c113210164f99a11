"""TensorFloat-32 is for runs in float32: in half precision, what is left in float32 is so on purpose."""

from __future__ import annotations

import pytest
import torch

from engine.precision import allow_tf32


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "high"), ("bf16", "highest"), ("fp16", "highest")])
def test_tf32_is_for_float32_alone(monkeypatch, precision, expected):
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    try:
        allow_tf32(torch.device("cuda"), precision)
        assert torch.get_float32_matmul_precision() == expected
        allow_tf32(torch.device("cpu"), "fp32")
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)
