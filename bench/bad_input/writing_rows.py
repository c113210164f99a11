"""Rows F of texts that are written from others: sources, targets, and models that cannot write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.bad_input.case import Attempts, Place, call, edit, row
from bench.bad_input.file_rows import NUMBER
from bench.bad_input.forms import each

GOOD = {"source": "w1 w2", "target": "w2 w1"}


def small(at: Place, **config: Any) -> Path:
    """A T5 with a few words, with settings of its config.json changed."""
    from tasks.language.scratch import random_t5, tokenizer_with_ends

    folder = at.folder / "t5"
    tokenizer = tokenizer_with_ends([f"w{i}" for i in range(20)])
    random_t5(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edit(folder / "config.json", **config)
    return folder


def on_rows(at: Place, *rows: dict[str, Any], more: Sequence[str] = (), model: Path | None = None) -> list[str]:
    """Train on a good row and these."""
    lines = "".join(json.dumps(each) + "\n" for each in (GOOD, *rows))
    return at.on("s.jsonl", lines, "--task", "seq2seq", "--max-length", "16", "--model", str(model or small(at)), *more)


def refused(what: str, words: str, *rows: dict[str, Any], more: Sequence[str] = ()) -> None:
    """A row of second rows that are refused."""
    each(f"F{next(NUMBER)}", what, 3, words, lambda at: [on_rows(at, other, more=more) for other in rows])


refused("a target that is blank", "row 2: the target is blank: remove the row or fill it",
        *(GOOD | {"target": text} for text in ("", "  ", "\n")))  # fmt: skip
refused("a source or target that is no text", "row 2: a text is needed, found ",
        GOOD | {"target": None}, GOOD | {"source": None})  # fmt: skip
refused("objects of languages without one of them", "row 1: 'source' must be an object with 'de', found 'w1 w2'", GOOD,
        more=("--source-column", "source.de"))  # fmt: skip
each(f"F{next(NUMBER)}", "the columns of others, and of translations", 3, "another column: --source-column ", lambda at: [
    at.on("s.jsonl", json.dumps(other) + "\n", "--task", "seq2seq", "--model", str(small(at))) for other in (
        {"article": "w1", "highlights": "w2"}, {"translation": {"en": "w1", "de": "w2"}}, {"source": "w1", "text": "w2"})])  # fmt: skip
each(f"F{next(NUMBER)}", "sources and targets longer than asked", 0, "saved to", lambda at: [
    on_rows(at, {"source": "w1 " * 99, "target": "w2 " * 99}, more=("--max-target-length", "4"))])  # fmt: skip
each(f"F{next(NUMBER)}", "a blank source, and one row twice", 0, "saved to", lambda at: [
    on_rows(at, GOOD | {"source": " "}, GOOD, GOOD)])  # fmt: skip
each(f"F{next(NUMBER)}", "targets of nothing but their end", 2, "tokens of each target are special ones", lambda at: [
    on_rows(at, more=("--max-target-length", "1"))])  # fmt: skip
each(f"F{next(NUMBER)}", "one column as source and target", 2, "source and target must be different columns", lambda at: [
    on_rows(at, more=("--source-column", "target")), on_rows(at, more=("--source-column", "a", "--target-column", "a"))])  # fmt: skip
each(f"F{next(NUMBER)}", "a model without a decoder, to write with", 4, "has no encoder with a decoder", lambda at: [
    on_rows(at, model=at.home / "model"), ["generate", "--model", str(at.home / "model"), "--task", "seq2seq", "w1"]])  # fmt: skip
each(f"F{next(NUMBER)}", "a model that does not say how a target starts", 4, "decoder_start_token_id", lambda at: [
    on_rows(at, model=small(at, decoder_start_token_id=start)) for start in (None, 10**5)])  # fmt: skip
each(f"F{next(NUMBER)}", "settings of a model that are of another kind", 0, "saved to", lambda at: [
    on_rows(at, model=small(at, task_specific_params=other, encoder=other), more=("--overwrite",)) for other in (7, ["x"], {"a": {"prefix": 7}}, "x")])  # fmt: skip
each(f"F{next(NUMBER)}", "packed batches of sources", 2, "has an encoder and a decoder; use padded or bucketed", lambda at: [
    on_rows(at, more=("--batching", "packed"))])  # fmt: skip


@row(f"F{next(NUMBER)}", "a file to write from without its column", 3, "has no column 'source'")
def _(at: Place) -> Attempts:
    assert call(on_rows(at, GOOD)).code == 0
    yield at.predict("--input", at.write("i.csv", "a,b\nw1,w2\n"), model=at.out)
    yield ["evaluate", "--model", str(at.out), "--file", at.write("e.csv", "a,target\nw1,w2\n")]


@row(f"F{next(NUMBER)}", "a setting of a command that the model's task lacks", 2, "which this model is of: leave it out")
def _(at: Place) -> Attempts:
    yield at.predict("--n-best", "3", "w1 w2")
    yield at.predict("--num-beams", "3", "w1 w2")
    yield ["evaluate", "--model", str(at.home / "finished"), "--no-answer", "yes"]


def of_languages(at: Place) -> str:
    """A small NLLB that was told nothing."""
    from bench.toys import translators

    return str(translators.save(at.folder / "nllb", "nllb"))


@row(f"F{next(NUMBER)}", "a model that is told languages, and is not", 2, "is told the languages of the texts: --")
def _(at: Place) -> Attempts:
    model = Path(of_languages(at))
    yield on_rows(at, model=model)
    yield on_rows(at, model=model, more=("--source-lang", "eng_Latn"))
    yield ["generate", "--model", str(model), "--task", "seq2seq", "a b"]
    yield ["predict", "--model", str(model), "--task", "seq2seq", "--target-lang", "deu_Latn", "a b"]


@row(f"F{next(NUMBER)}", "a language that the model does not know", 2, "knows no such language")
def _(at: Place) -> Attempts:
    model = Path(of_languages(at))
    for target in ("deu", "German", "xx", "\x1b[31m", "z" * 5000):
        yield on_rows(at, model=model, more=("--source-lang", "eng_Latn", "--target-lang", target))


@row(f"F{next(NUMBER)}", "a language for a model that is told none", 2, "is told no language beside a text: leave it out")
def _(at: Place) -> Attempts:
    yield on_rows(at, more=("--target-lang", "deu_Latn"))
    yield on_rows(at, more=("--source-lang", "en"))
