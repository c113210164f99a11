"""Rows C1 and on: sweeps, the rows of an evaluation, and folds."""

from __future__ import annotations

from bench.bad_input.case import Attempts, Place, row
from bench.bad_input.forms import each


def sweep(at: Place, *flags: str) -> list[str]:
    return ["sweep", *at.train(*flags)]


each("C1", "a grid over a setting that is none", 2, "has no such setting (did you mean learning_rate?)",
     lambda at: [sweep(at, "--grid", "lerning_rate=1,2")])  # fmt: skip
each("C2", "a grid value that is none", 2, "--grid weight_decay=big: --weight-decay: invalid float value",
     lambda at: [sweep(at, "--grid", "weight_decay=0.1,big")])  # fmt: skip
each("C3", "a grid over seeds, or over the evaluated rows", 2, "--grid", lambda at: [
     sweep(at, "--grid", "seed=1,2"), sweep(at, "--grid", "max_eval_examples=4,8"), sweep(at, "--grid", "output_dir=a,b")])  # fmt: skip
each("C4", "a setting in the grid and as a flag", 2, "--grid weight_decay and --weight-decay say the same setting",
     lambda at: [sweep(at, "--weight-decay", "0.1", "--grid", "weight_decay=0.1,0.2")])  # fmt: skip
each("C5", "a sweep without a grid, or of no seed", 2, "--", lambda at: [
     sweep(at), sweep(at, "--seeds", "0", "--grid", "weight_decay=0.1,0.2"), sweep(at, "--folds", "x")])  # fmt: skip


@row("C6", "a sweep into a directory that holds something else", 2, "choose another")
def _(at: Place) -> Attempts:
    at.write("out/mine.txt", "mine")
    yield sweep(at, "--grid", "weight_decay=0.1,0.2")
    yield sweep(at, "--grid", "weight_decay=0.1,0.2", "--output-dir", str(at.finished()))
    at.write("other/sweep.json", '{"asked": 3}')
    yield sweep(at, "--grid", "weight_decay=0.1,0.2", "--output-dir", str(at.folder / "other"))
    at.write("third/sweep.json", '{"asked": {"seeds": 2}}')
    yield sweep(at, "--grid", "weight_decay=0.1,0.2", "--output-dir", str(at.folder / "third"))


each("C7", "a part of the data that is none", 2, "names one of 2 to 100 parts", lambda at: [
     at.train("--fold", "3/2"), at.train("--eval-part", "half")])  # fmt: skip
each("C8", "more folds than rows", 3, "24 rows do not fill 30 parts", lambda at: [at.train("--fold", "1/30")])


@row("C9", "rows.json that evaluate has not written", 3, "rows.json is not what evaluate --rows writes")
def _(at: Place) -> Attempts:
    one = at.finished()
    (one / "rows.json").write_text('{"sets": {"eval": {"data": "x", "number": 9, "right": [2]}}}')
    yield ["compare", str(one), str(at.home / "finished"), "--output", str(at.folder / "c.html")]
