"""The order of imports in engine/, which docs/architecture.md shows and tests/test_layers.py holds."""

from __future__ import annotations

# Rooms and modules of engine/, from left to right: an import goes to the left only, or stays in its room. docs/architecture.md
LAYERS: list[set[str]] = [
    {"atomic", "console", "clock", "installed", "locks", "seed"},
    {"errors", "notebook"},
    {"checked"},
    {"settings"},
    {"precision", "schedule"},
    {"config", "distributed"},
    {"data"},
    {"model", "task"},
    {"muon"},
    {"optimizer"},
    {"average", "loader"},
    {"state"},
    {"cuda_graph", "memory", "checkpoint"},
    {"record", "findings"},
    {"loop", "artifacts"},
    {"build", "finished"},
    {"checks", "resume", "exporting"},
    {"explain", "commands"},
    {"fit", "serving", "sweep"},
    {"updating"},
]
