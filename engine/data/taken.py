"""What a task asks for, and what was taken: names and descriptions of data and models. Next: sources.py, which takes them."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import DataError


@dataclass(frozen=True)
class HubData:
    """A data set of the Hub and the splits to use; ``eval=None`` takes test, else validation, if there."""

    path: str
    config: str | None = None
    train: str = "train"
    eval: str | None = None


@dataclass(frozen=True)
class TakenData:
    """The data that a Source has taken: in words, and by their name on the Hub if they come from there."""

    description: str
    hub_name: str | None = None


@dataclass(frozen=True)
class TakenModel:
    """The model that a Source has taken: what ``from_pretrained`` is given, in words, and its name on the Hub, if known."""

    path: str
    description: str
    hub_name: str | None = None


class NotCachedError(DataError):
    """The Hub cannot be reached and its cache has no copy."""
