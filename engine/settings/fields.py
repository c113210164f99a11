"""Settings as dataclass fields: each knows its help text, whether it changes the weights, and where it belongs.

No torch in here: ``--help`` has to answer at once. Next: parser.py, which fills them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checked import parse_json
from engine.errors import UsageError


@dataclass(frozen=True)
class Traits:
    """What a setting is to a run, beside its value. The defaults are the safe side: an unknown setting changes the weights.

    ``changes_weights``: other finished weights may come out, so a run is not resumed, nor taken for finished, with another
    value. ``local``: it is about this machine or this start, and no part of how the model came about. ``in_card``: the model
    card always shows it. ``needs_evaluation``: to set it asks for evaluation data. ``replaces_run``: of a command; where it
    is given, it replaces the setting of that name of the finished run. ``several``: it may be given more than once, and names
    several things, with commas between. ``before``: of a subclass; the setting that it is
    listed before (None: behind those of its base). ``heading``: with this setting a part of ``--help`` begins.
    """

    changes_weights: bool = True
    local: bool = False
    in_card: bool = False
    needs_evaluation: bool = False
    replaces_run: bool = False
    before: str | None = None
    several: bool = False
    heading: str | None = None

    def __post_init__(self) -> None:
        assert not (self.local and self.changes_weights), "what is local cannot change the weights"


def setting(
    default: Any,
    help: str,
    *,
    changes_weights: bool = True,
    local: bool = False,
    in_card: bool = False,
    needs_evaluation: bool = False,
    replaces_run: bool = False,
    before: str | None = None,
    several: bool = False,
    heading: str | None = None,
) -> Any:
    """A dataclass field with its help text and its Traits. A list or tuple as the default: each instance gets its own list."""
    traits = Traits(changes_weights and not local, local, in_card, needs_evaluation, replaces_run, before, several, heading)
    metadata = {"help": help, "traits": traits}
    if isinstance(default, list | tuple):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def traits_of(field: dataclasses.Field[Any]) -> Traits:
    """The field's traits; a plain dataclass field, which a task of one's own may have, gets the safe ones."""
    traits: Traits = field.metadata.get("traits", Traits())
    return traits


def settings_where(test: Callable[[Traits], bool], *kinds: type[Any]) -> list[str]:
    """The names of the settings of these dataclasses whose traits pass ``test``, in the order of the fields."""
    return [field.name for kind in kinds for field in dataclasses.fields(kind) if test(traits_of(field))]


def in_order(kind: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass in the order in which they are listed: ``--help``, and files that ``--save-config`` writes."""
    found: list[dataclasses.Field[Any]] = []
    for field in dataclasses.fields(kind):
        names, before = [other.name for other in found], traits_of(field).before
        found.insert(len(found) if before is None else names.index(before), field)
    return found


def most_workers() -> int:
    """More processes than this only fill the machine until it stands still."""
    return 32 * (os.cpu_count() or 1)


def require(config: Any, name: str, condition: bool, rule: str) -> None:
    """Raise UsageError ``--flag rule, found value`` unless ``condition`` holds."""
    if not condition:
        raise UsageError(f"--{name.replace('_', '-')} {rule}, found {getattr(config, name)!r}")


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as run.json keeps them: infinite numbers, and what JSON has no form for, become text."""
    plain = {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
    return parse_json(json.dumps(plain, default=str), halves=True)  # type: ignore[no-any-return]


def with_defaults(settings: Mapping[str, Any], *kinds: type[Any]) -> dict[str, Any]:
    """The settings of a run.json; one that it does not have, because the run is older, counts as its default."""
    defaults: dict[str, Any] = {}
    for field in (field for kind in kinds for field in dataclasses.fields(kind)):
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    return as_json(defaults) | dict(settings)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *kinds: type[Any]) -> list[str]:
    """``name: old -> new`` for every value that differs; [] if there is none.

    ``kinds``: the dataclasses of the new settings, if they are settings: those that do not change the weights are then left
    out, and what the older run does not have counts as its default.
    """
    old, left_out = with_defaults(old, *kinds), settings_where(lambda traits: not traits.changes_weights, *kinds)
    names = [name for name in dict.fromkeys([*old, *new]) if name not in left_out]
    return [f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in names if old.get(name) != new.get(name)]


def is_address(text: str) -> bool:
    """``https://...``, ``s3://...``: no file of this machine."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def address_in(text: str) -> str | None:
    """The first address of a setting that names files, with or without the name of an evaluation set; None: there is none."""
    found = re.search(r"(?:^|[,=])([A-Za-z][A-Za-z0-9+.-]*://[^,]*)", text)
    return found[1] if found else None


def user_path(text: str) -> Path:
    """A path as a user writes it, ``~`` too; that of a user who does not exist stays as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path's own raises RuntimeError
