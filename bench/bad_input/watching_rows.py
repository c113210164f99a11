"""Rows F of what monitor compares, and of what a model is to be updated with."""

from __future__ import annotations

import json

from bench.bad_input.case import Attempts, Place, row
from bench.bad_input.file_rows import NUMBER
from bench.bad_input.forms import HEADER, ROWS_OF_DATA, each


def monitor(at: Place, *flags: str, model: str = "finished", content: str = ROWS_OF_DATA) -> list[str]:
    return ["monitor", "--model", str(at.home / model), "--input", str(at.write("new.csv", content)), "--device", "cpu", *flags]


def update(at: Place, *flags: str, model: str = "finished") -> list[str]:
    return ["update", str(at.home / model), "--train-file", str(at.write("new.csv", ROWS_OF_DATA)), "--device", "cpu", *flags]


def refused(what: str, words: str, *flags: str) -> None:
    """A row of flags of ``monitor`` that are refused, each by itself."""
    each(f"F{next(NUMBER)}", f"monitor: {what}", 2, words, lambda at: [monitor(at, *flag.split(" ")) for flag in flags])


refused("a level that is none", "--alpha must lie between 0 and 1", "--alpha 0", "--alpha 1", "--alpha nan")
refused(
    "an effect that is none", "--least-effect must be 0 to 1", "--least-effect=-0.1", "--least-effect 2", "--least-effect nan"
)
refused("texts behind the model", "monitor takes no texts, found 'w1'", "w1")
each(f"F{next(NUMBER)}", "monitor: rows from standard input", 2, "standard input comes once",
     lambda at: [["monitor", str(at.home / "finished"), "--input", "-"]])  # fmt: skip
each(f"F{next(NUMBER)}", "monitor: a model without a profile", 2, "so has no profile of its data: compare with",
     lambda at: [monitor(at, model="model")])  # fmt: skip
each(f"F{next(NUMBER)}", "monitor: pages among the files of a run", 2, "is not empty, and holds nothing of monitor",
     lambda at: [monitor(at, "--output", str(at.home / "finished"))])  # fmt: skip
each(f"F{next(NUMBER)}", "monitor: labels that the model does not know", 3, "'z'",
     lambda at: [monitor(at, content=HEADER + "w1,z\nw2,a\n")])  # fmt: skip
each(f"F{next(NUMBER)}", "monitor: a model of another task", 2, "data of this task are not watched",
     lambda at: [monitor(at, "--task", "mlm")])  # fmt: skip


@row(f"F{next(NUMBER)}", "monitor: a profile that is none", 3, "is not what training writes")
def _(at: Place) -> Attempts:
    copy = at.finished()
    for content in ("[", "{}", json.dumps({"format": 1, "numbers": {"tokens": 1}, "shares": {}})):
        (copy / "data-profile.json").write_text(content)
        yield ["monitor", str(copy), "--input", str(at.write("new.csv", ROWS_OF_DATA)), "--device", "cpu"]


each(f"F{next(NUMBER)}", "update: a margin that is none", 2, "--margin must be at least 0",
     lambda at: [update(at, f"--margin={margin}") for margin in ("-0.1", "1", "nan")])  # fmt: skip
each(
    f"F{next(NUMBER)}", "update: rows to roll back with", 2, "--rollback trains nothing", lambda at: [update(at, "--rollback")]
)
each(
    f"F{next(NUMBER)}", "update: texts behind the model", 2, "update takes no texts, found 'w1'", lambda at: [update(at, "w1")]
)
each(
    f"F{next(NUMBER)}",
    "update: no rows",
    2,
    "--train-file must name a file of new rows",
    lambda at: [["update", str(at.home / "finished")]],
)
each(f"F{next(NUMBER)}", "update: an unfinished run, or none", 2, "holds no finished run",
     lambda at: [update(at, model="unfinished"), update(at, model="model")])  # fmt: skip
each(f"F{next(NUMBER)}", "update: nothing to roll back to", 2, "finished.before holds no finished run",
     lambda at: [["update", str(at.home / "finished"), "--rollback"]])  # fmt: skip
each(f"F{next(NUMBER)}", "rows that stay beside no others", 2, "--old-rows needs --more-train-file",
     lambda at: [at.train("--old-rows", "none")])  # fmt: skip
