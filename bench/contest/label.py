"""What a row is called in tables and pictures; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def label(row: Mapping[str, Any]) -> str:
    """The system, and what it computes in: float32 matrix products are TF32 where that is allowed."""
    flags, name = row.get("flags", {}), str(row["system"])
    chosen = flags.get("precision", "auto")
    precision = "tf32" if chosen == "fp32" and flags.get("tf32") else chosen
    return name if chosen == "auto" or chosen in name else f"{name} ({precision})"
