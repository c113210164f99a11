"""What stands in the cell of a label: a number, a name, or a list of them, also as text. Next: labels.py, what they mean."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from engine.checked import parse_json
from engine.errors import DataError

MOST_DIGITS = 18  # of a number in a text; what is longer is a name (and Python refuses to convert thousands of digits)
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)")
ITEM = re.compile(  # of a list as Python or NumPy print it
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<![\w.])[-+]?\d+\.?\d*(?![\w.-])|\b(?:True|False)\b"""
)
BRACKETS = ("[]", "()", "{}")
MARKS = (",", ";", "|", "\t")  # that often stand between labels


def number(word: Any) -> Decimal | None:
    """The value of ``3``, ``"3"``, ``1.0``, ``"-1"``; None for anything else, for True and False as well."""
    if isinstance(word, str):
        word = word.strip()
        return Decimal(word) if len(word) <= MOST_DIGITS and NUMBER.fullmatch(word) else None
    is_number = isinstance(word, int | float | Decimal) and not isinstance(word, bool)
    return Decimal(word) if is_number and (isinstance(word, int) or math.isfinite(word)) else None


def truth(word: Any) -> bool | None:
    """Of True, ``"true"``, ``"FALSE"``; None for anything else."""
    return {"true": True, "false": False}.get(str(word).strip().casefold()) if isinstance(word, bool | str) else None


def value(word: Any) -> Decimal | bool | None:
    """Its number, else its truth."""
    return truth(word) if (found := number(word)) is None else found


def whole(word: Any) -> int | None:
    """The number, if it is a whole one."""
    found = number(word)
    return int(found) if found is not None and found == found.to_integral_value() else None


def name_of(word: Any) -> str:
    """A word as the name of a class: ``1.0`` and ``"1.0"`` are the class 1, as pandas writes it beside empty cells."""
    has_point = isinstance(word, float | Decimal) or (isinstance(word, str) and "." in word)
    return str(number_) if has_point and (number_ := whole(word)) is not None else str(word)


def is_missing(word: Any) -> bool:
    return word is None or (isinstance(word, str) and not word.strip()) or (isinstance(word, float) and math.isnan(word))


def as_list(text: str) -> list[Any] | None:
    """The words of a list as JSON, Python or NumPy write it: ``["a"]``, ``['a', 'b']``, ``(0, 1)``, ``[0 1 0]``; else None."""
    text = text.strip()
    if len(text) < 2 or text[0] + text[-1] not in BRACKETS or (text[0] != "[" and not re.search("[,'\"]", text)):
        return None  # a name may stand in brackets
    try:
        found = parse_json(text, constants=True, halves=True)
        return found if isinstance(found, list) else None
    except ValueError:
        body = text[1:-1]
    if ITEM.sub("", body).strip(", \t\r\n"):
        return None
    items = ITEM.findall(body)
    return [re.sub(r"\\(.)", r"\1", item[1:-1]) if item[0] in "'\"" else item for item in items]


def words_of(cells: list[Any], where: list[str], separator: str) -> list[list[Any]]:
    """The labels of each cell: of a list, of a list as text, or of words with a separator between. Raises DataError.

    ``where``: of each cell, for the message. The texts of a column are lists all together, or none is.
    """
    texts = {cell: as_list(cell) for cell in cells if isinstance(cell, str) and cell.strip()}
    are_lists = any(found is not None for found in texts.values()) or (bool(texts) and all(map(in_brackets, texts)))
    lists = []
    for cell, place in zip(cells, where, strict=True):
        if cell is None:
            raise DataError(f"{place}: the labels are missing (an empty list, or an empty CSV cell, means none)")
        words = cell
        if isinstance(cell, str):
            words = texts.get(cell, []) if are_lists else [word.strip() for word in cell.split(separator) if word.strip()]
        if words is None:
            raise DataError(
                f'{place}: {cell!r} is no list that can be read: write all as in JSON, ["a", "b"], or as a{separator}b'
            )
        if not isinstance(words, list):
            raise DataError(
                f"{place}: a list of labels is needed, found {cell!r} (a column of 0 and 1 for each label: "
                "--label-column A,B,C; one label for each text: leave out --problem multi_label)"
            )
        for word in words:
            if is_missing(word):
                raise DataError(f"{place}: {cell!r} holds a label that is missing: leave it out of the list")
            if not isinstance(word, str) and truth(word) is None and whole(word) is None:
                raise DataError(f"{place}: {cell!r} holds {word!r}, which is neither a name nor a whole number")
        lists.append(words)
    return lists


def in_brackets(text: str) -> bool:
    return text.strip()[0] == "[" and text.strip()[-1] == "]"


def other_mark(texts: list[str], separator: str) -> str | None:
    """What may well stand between labels, where the separator stands in no cell."""
    if any(separator in text for text in texts):
        return None
    marks = (*MARKS, " ") if all(number(part) is not None for text in texts for part in text.split()) else MARKS
    return next((mark for mark in marks if any(mark in text.strip() for text in texts)), None)
