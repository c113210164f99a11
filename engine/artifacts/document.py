"""run.json: what was asked for, on which data, computed by what, and what came of it. A record, checked when it is read.

The file is one JSON object with the keys of ``RunDocument`` in their order; ``kept``, ``files`` and ``metrics`` stand there
when the run is finished. It may come from a stranger (a model of the Hub has one): nothing in it is taken over that is not
of its type, and the file is bounded in size and depth. Next: directory.py, which reads and writes the file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine import VERSION
from engine.checked import MOST_DEPTH, check_depth, expect, expect_each, is_a, is_within, known, parse_json, shortened
from engine.errors import ModelError
from engine.record.figures import check_classes

FORMAT = 1  # 0: of Plainloop 0.1.0, which wrote neither format nor version, and else the same
MOST_BINS = 1000  # of the histogram of lengths, which has 30
MOST_ENTRIES = 10_000  # of what is shown, compared or pushed one by one: settings, of which there are a hundred, or files
LATER = ("sources", "plans", "kept", "files", "metrics", "classes")  # not there in older runs, or before the end
STATUSES = ("running", "finished")
PRECISIONS = (None, "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class DataRecord:
    """What the data of a run were.

    ``source``: in words; None: given in Python. ``hub_name``: of a data set of the Hub. ``num_examples`` and
    ``fingerprints``: by split. ``lengths``: the histogram of token counts, ``edges`` of the bins and ``counts`` in them.
    """

    source: str | None = None
    hub_name: str | None = None
    num_examples: Mapping[str, int] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, list[float]] | None = None

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> DataRecord:
        """Raises ValueError for what a run does not write."""
        for name in ("source", "hub_name"):
            expect(found, name, str, optional=True)
        expect_each("num_examples", expect(found, "num_examples", dict, default={}), int)
        expect_each("fingerprints", expect(found, "fingerprints", dict, default={}), str)
        lengths = expect(found, "lengths", dict, optional=True)
        if lengths is not None:
            edges, counts = (expect(lengths, name, list) for name in ("edges", "counts"))
            if (
                len(edges) != len(counts) + 1
                or len(counts) > MOST_BINS
                or not all(is_a(number, float) for number in (*edges, *counts))
            ):
                raise ValueError("data.lengths is no histogram")
        return cls(**known(cls, found))


@dataclass(frozen=True)
class KeptModel:
    """Which model was saved. ``step``: whose weights it has; ``best_step``: that of the best evaluation, None without one.

    They differ where the best checkpoint was lost, or there was none to choose from.
    """

    step: int
    best_step: int | None = None

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> KeptModel:
        """Raises ValueError for what a run does not write."""
        expect(found, "step", int)
        expect(found, "best_step", int, optional=True)
        return cls(**known(cls, found))


@dataclass(frozen=True)
class RunDocument:
    """run.json. ``settings``: everything that was asked for, flat, as plain values; what an older run does not have counts as
    its default (settings/fields.py: with_defaults).

    ``sources``: hashes of the model and of the code that the run began with (describe.py: sources_of).
    ``versions``: of the packages, and the processor's name and ``instructions``. ``device``, ``precision`` and ``batching``:
    what "auto" came to. ``base_model``: name and license of the checkpoint that training starts from, and of an adapter's the
    fingerprint of its ``weights``. ``command``: that makes this run; None: it was made from Python. ``model_config``: what
    config.json says of the model. ``plans``: of a run that ``--resume`` has made longer, the epochs that it was to have, by the
    number of steps up to which it was. ``files``: what the model was saved as, the sha256 of each file by its name within the
    directory; None: not yet, or an older run. ``metrics``: those of the model that was kept, under Trainer's names, and
    ``classes`` by class; NaN is null. ``status``: "running", or "finished" when the model is there. ``format``: of this file;
    ``version``: of the Plainloop that wrote it.
    """

    format: int = FORMAT
    version: str = VERSION
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: DataRecord = DataRecord()
    model: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None
    precision: str | None = None
    batching: str | None = None
    base_model: Mapping[str, str | None] = field(default_factory=dict)
    command: str | None = None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] | None = None
    plans: Mapping[str, int] | None = None
    kept: KeptModel | None = None
    files: Mapping[str, str] | None = None
    metrics: Mapping[str, float | None] | None = None
    classes: Mapping[str, Mapping[str, float | None]] | None = None
    status: str = "running"

    def to_json(self) -> dict[str, Any]:
        """The object as it stands in the file."""
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if name not in LATER or value is not None}

    @classmethod
    def from_json(cls, found: Any) -> RunDocument:
        """The document of such an object. Keys that this format does not have are ignored, and not written again.

        Raises ValueError for what no run writes, ModelError for a format that is newer than this code.
        """
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
        number = expect(found, "format", int, default=0)
        if number > FORMAT:
            by = f" by Plainloop {found['version']}" if is_a(found.get("version"), str) else ""
            raise ModelError(f"it was written{by} in format {number}, this version reads up to {FORMAT}: update Plainloop")
        check_depth(found, MOST_DEPTH)
        expect(found, "version", str, default="0.1.0")
        for name in ("settings", "data"):
            expect(found, name, dict)
        refuse_many(found, "settings", "versions", "base_model", "sources", "plans", "files", "metrics")
        refuse_many(found["data"], "num_examples", "fingerprints")
        if expect(found, "status", str) not in STATUSES:
            raise ValueError(f"status cannot be {shortened(found['status'])}")
        for name in ("model", "device", "precision", "batching", "command"):
            expect(found, name, str, optional=True)
        if found.get("precision") not in PRECISIONS:
            raise ValueError(f"precision cannot be {shortened(found['precision'])}")
        expect(found, "model_config", dict, default={})
        expect_each("sources", expect(found, "sources", dict, optional=True) or {}, str)
        plans = expect(found, "plans", dict, optional=True) or {}
        expect_each("plans", plans, int)
        if odd := [step for step in plans if not (step.isascii() and step.isdecimal())]:
            raise ValueError(f"plans cannot hold {shortened(odd[0])}")
        expect_each("versions", expect(found, "versions", dict, default={}), str)
        expect_each("base_model", expect(found, "base_model", dict, default={}), str, optional=True)
        metrics = expect(found, "metrics", dict, optional=True)
        expect_each("metrics", metrics or {}, float, optional=True)
        check_classes(expect(found, "classes", dict, optional=True) or {})
        files = expect(found, "files", dict, optional=True) or {}
        expect_each("files", files, str)
        if outside := [name for name in files if not is_within(name)]:
            raise ValueError(f"files cannot hold {shortened(outside[0])}")
        kept = expect(found, "kept", dict, optional=True)
        records = {"data": DataRecord.from_json(found["data"]), "kept": None if kept is None else KeptModel.from_json(kept)}
        older = {"format": number, "version": found.get("version", "0.1.0")}
        return cls(**known(cls, found) | older | records)


def refuse_many(found: Mapping[str, Any], *names: str) -> None:
    """Raises ValueError for objects of so many entries that who shows or searches them would seem to hang."""
    for name in names:
        if isinstance(within := found.get(name), dict) and len(within) > MOST_ENTRIES:
            raise ValueError(f"{name} has {len(within):,} entries, and {MOST_ENTRIES:,} are the most that are believed")


def loads(text: str | bytes) -> RunDocument:
    """Read the text of a run.json. Raises ValueError, ModelError (a newer format)."""
    return RunDocument.from_json(parse_json(text))


def dumps(document: RunDocument) -> str:
    """The text of run.json."""
    return json.dumps(document.to_json(), indent=2, allow_nan=False) + "\n"
