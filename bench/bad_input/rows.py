"""All rows, in the order of their numbers: 1 to 110, then the cache and strangers' data (D), files as others write
them (F), models (M), pictures with labels (P), attacks (S), sweeps (C), arguments for xray (T), then odd things (X).

A module of rows puts them into ``case.ROWS`` when it is imported; a new one must be named here.
"""

from __future__ import annotations

from bench.bad_input import (  # noqa: F401
    arrival_rows,
    attack_rows,
    cache_rows,
    case,
    data_rows,
    disk_rows,
    file_rows,
    flag_rows,
    model_rows,
    odd_rows,
    picture_rows,
    preference_rows,
    question_rows,
    ranking_rows,
    run_rows,
    serving_rows,
    sweep_rows,
    tagging_rows,
    watching_rows,
    writing_rows,
    xray_rows,
)


def place(row: case.Row) -> tuple[str, int]:
    """``7`` -> ("", 7), ``S12`` -> ("S", 12)."""
    letter = row.number.rstrip("0123456789")
    return letter, int(row.number.removeprefix(letter))


ROWS = sorted(case.ROWS, key=place)
