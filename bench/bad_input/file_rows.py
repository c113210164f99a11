"""Rows F1 and on: files as others write them. What can be read is, what is in doubt names its way in, which is taken."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from typing import Any

from bench.bad_input.case import Attempts, Place, row
from bench.bad_input.forms import HEADER, ROWS_OF_DATA, each

NUMBER = iter(range(1, 1000))
TABS = ROWS_OF_DATA.replace(",", "\t")
LINES = [dict(zip(("text", "label"), line.split(","), strict=True)) for line in ROWS_OF_DATA.splitlines()[1:]]
JSONL = "".join(json.dumps(line) + "\n" for line in LINES)
SWALLOWS = 'w1,a\n"w2,b\nw3,a\nw4",b\n'


def refused(
    what: str, words: str, name: str, content: str | bytes, *way: str, flags: tuple[str, ...] = (), code: int = 3
) -> None:
    """A file that is refused, in training and where it is predicted; ``way``: the flags that the line names, which work."""

    @row(f"F{next(NUMBER)}", what, code, words)
    def _(at: Place) -> Attempts:
        yield at.on(name, content, *flags)
        if way:
            yield from worked(at, name, content, *way)


def worked(at: Place, name: str, content: str | bytes, *way: str) -> Attempts:
    """The way in, taken: it is no attempt of the table, for it has another exit code."""
    from bench.bad_input.case import call

    done = call([*at.on(name, content, *way), "--overwrite"])
    assert done.code == 0 and not done.raised, f"the way in does not work: {done.err}"
    yield from ()


def read(what: str, words: str, name: str, content: str | bytes, *flags: str) -> None:
    """A file that is read, and what is said of it."""

    @row(f"F{next(NUMBER)}", what, 0, words)
    def _(at: Place) -> Attempts:
        yield at.on(name, content, *flags)


def zipped(**files: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return stream.getvalue()


ALL = "(16 rows)"

# quotes
read(
    "TSV: a quote opens in one line and closes in another",
    "quotes as text",
    "t.tsv",
    TABS.replace("w1", '"w1').replace("w3 w3", 'w3"'),
)
read("TSV: text behind a closed quote", "quotes as text", "t.tsv", TABS.replace("w2", '"w2" w'))
refused("TSV of that kind, told to hold to CSV", "expected after", "t.tsv", TABS.replace("w2", '"w2" w'), "--quoting", "none",
        flags=("--quoting", "csv"))  # fmt: skip
refused(
    "CSV: a cell over lines that are rows by themselves",
    "--quoting csv reads 2 rows",
    "t.csv",
    HEADER + SWALLOWS,
    "--quoting",
    "none",
)
refused("CSV: a quote that nothing closes", "--quoting none", "t.csv", HEADER + 'w1,a\n"w2,b\nw3,a\n', "--quoting", "none")
refused("CSV: text behind a closed quote", "--quoting none", "t.csv", HEADER + '"w1" w,a\nw2,b\n', "--quoting", "none")
refused("CSV: quotes escaped with a backslash", "--quoting backslash", "t.csv", HEADER + '"w1 \\"w2\\", w",a\n"w3",b\n',
        "--quoting", "backslash")  # fmt: skip
refused("--quoting of no kind", "invalid choice", "t.csv", ROWS_OF_DATA, flags=("--quoting", "some"), code=2)
refused("--quoting for JSONL", "is for CSV, TSV and .txt files", "t.jsonl", JSONL, flags=("--quoting", "none"), code=2)

# headers
read("columns without a name", ALL, "t.csv", ROWS_OF_DATA.replace("\n", ",,\n"))
read("columns without a name that hold text", "have text in columns without a name", "t.csv", ROWS_OF_DATA.replace("\n", ",\n", 1)
     .replace("\n", ", w\n").replace(", w\n", "\n", 1))  # fmt: skip
read("a repeated column that nobody asks for", ALL, "t.csv", "\n".join(f"x,{line},x" for line in ROWS_OF_DATA.splitlines()))
refused("no header", "--column-names NAME,NAME", "t.csv", ROWS_OF_DATA.partition("\n")[2], "--column-names", "text,label")
refused(
    "--column-names for a file with a header",
    "leave out --column-names",
    "t.csv",
    ROWS_OF_DATA,
    flags=("--column-names", "text,label"),
)
refused("--column-names, too many", "names 3 columns, and its first line has 2 cells", "t.csv", ROWS_OF_DATA,
        flags=("--column-names", "text,label,x"))  # fmt: skip
refused("--column-names with the same name twice", "a different name for each", "t.csv", ROWS_OF_DATA,
        flags=("--column-names", "text,text"), code=2)  # fmt: skip
refused("--column-names for Parquet or JSONL", "leave it out", "t.jsonl", JSONL, flags=("--column-names", "text,label"), code=2)
refused(
    "no header, a short row", "row 3 (line 3) has 1 cells", "t.csv", "w1,a\nw2,b\nw3\n", flags=("--column-names", "text,label")
)

# delimiters, first lines, encodings
refused("tabs in a .txt file", r"say --delimiter '\t'", "t.txt", TABS, "--delimiter", "\\t")
read("Excel's sep=;", ALL, "t.csv", "sep=;\r\n" + ROWS_OF_DATA.replace(",", ";"))
refused("sep=; and another --delimiter", "leave it out", "t.csv", "sep=;\n" + ROWS_OF_DATA, flags=("--delimiter", ","))
refused("--delimiter for JSON", "leave it out", "t.json", json.dumps(LINES), flags=("--delimiter", ";"), code=2)
read("UTF-16 with its mark", ALL, "t.csv", ROWS_OF_DATA.encode("utf-16"))
refused("UTF-16 without its mark", "NUL byte", "t.csv", ROWS_OF_DATA.encode("utf-16-le"), "--encoding", "utf-16-le")
refused("cp1252, with a curly quote", "--encoding cp1252", "t.csv", ROWS_OF_DATA.replace("w1", "w1\u2019").encode("cp1252"),
        "--encoding", "cp1252")  # fmt: skip
read("cp1252 read as latin-1", "--encoding cp1252 reads it as", "t.csv", ROWS_OF_DATA.replace("w1", "w1\u2019").encode("cp1252"),
     "--encoding", "latin-1")  # fmt: skip
refused(
    "one damaged byte in UTF-8",
    "that place is damaged, mend it",
    "t.csv",
    ROWS_OF_DATA.replace("w1", "é").encode() + b"\xff,a\n",
)
refused("--encoding for a saved table", "is for text files", "t.parquet", b"PAR1", flags=("--encoding", "latin-1"), code=2)

# JSON
read("a .json file that is an array", ALL, "t.json", json.dumps(LINES, indent=1))
read("a .json file of lines", ALL, "t.json", JSONL)
read(
    "a .json file with the rows in a field",
    "the rows are those of its field 'data'",
    "t.json",
    json.dumps({"version": 2, "data": LINES}),
)
read("a key that later rows have, of any kind", ALL, "t.jsonl", JSONL.replace('"w2', '"w2", "meta": [1, {"x": "y"}], "m": "'))
refused("a .json file of columns", "orient='records'", "t.json", json.dumps({"text": ["a", "b"], "label": [0, 1]}))
refused("a .json file with several lists", "holds several lists of rows", "t.json", json.dumps({"train": LINES, "test": LINES}))
refused("an array called .jsonl", "called .json", "t.jsonl", json.dumps(LINES, indent=1))
refused("a nested field", "named with a dot: 'x.text'", "t.jsonl", "".join(json.dumps({"x": {"text": r["text"]}, "label": r["label"]}) + "\n" for r in LINES),
        "--text-column", "x.text")  # fmt: skip
refused("a nested field that a row lacks", "line 2 has no 'x.text'", "t.jsonl", '{"x": {"text": "w"}, "label": 0}\n{"x": null, "label": 1}\n',
        flags=("--text-column", "x.text"))  # fmt: skip
refused("a .json file that is cut off", "is not JSON", "t.json", json.dumps(LINES)[:-20])

# packed, and several
read("a .csv.gz file", ALL, "t.csv.gz", gzip.compress(ROWS_OF_DATA.encode()))
read("a .zip of one file", ALL, "t.zip", zipped(t_csv=ROWS_OF_DATA))
refused("a .zip of several files", "unpack it, and name the file", "t.zip", zipped(a_csv=ROWS_OF_DATA, b_csv=ROWS_OF_DATA))
refused("a .gz that is cut off", "is damaged, or cut off", "t.csv.gz", gzip.compress(ROWS_OF_DATA.encode() * 50)[:-12])
refused("a .gz that is none", "is damaged, or cut off", "t.csv.gz", ROWS_OF_DATA)
refused("a .zip that is none", "cannot be unpacked", "t.zip", ROWS_OF_DATA)
refused("a .zst that is none", "is damaged, or cut off", "t.csv.zst", ROWS_OF_DATA)
refused("an .arrow file that is none", "is not a readable Arrow file", "t.arrow", ROWS_OF_DATA)
refused("a spreadsheet", "save the sheet as CSV", "t.xlsx", "PK")


def named(what: str, code: int, words: str, *flags: str, **files: str) -> None:
    """Names of files; ``{}`` in a flag is the folder."""

    @row(f"F{next(NUMBER)}", what, code, words)
    def _(at: Place) -> Attempts:
        for name, content in files.items():
            at.write(name.replace("__", "-").replace("_", "."), content)
        arguments = at.train(*(flag.replace("{}", str(at.folder)) for flag in flags))
        if "--eval-file" not in flags:
            index = arguments.index("--eval-file")
            arguments = arguments[:index] + arguments[index + 2 :]
        if "--data" in flags:
            index = arguments.index("--train-file")
            arguments = arguments[:index] + arguments[index + 2 :]
        yield arguments


named(
    "an address of no kind", 2, "there is no kind of address called nowhere://", "--train-file", "nowhere://example.org/a.csv"
)

BOTH: dict[str, Any] = {"a_csv": ROWS_OF_DATA, "b_csv": ROWS_OF_DATA}
named("a pattern that matches nothing", 3, "no file matches", "--train-file", "{}/*.tsv")
named("a pattern", 0, "(32 rows)", "--train-file", "{}/*.csv", **BOTH)
named("a file named twice", 2, "twice", "--train-file", "{}/a.csv,{}/*.csv", **BOTH)
named("a share for one file alone", 2, "give all files a share", "--train-file", "{}/a.csv:0.5,{}/b.csv", **BOTH)
named("a share of 0", 2, "share above 0", "--train-file", "{}/a.csv:0,{}/b.csv:1", **BOTH)
named("shares", 0, "mixture: ", "--train-file", "{}/a.csv:0.25,{}/b.csv:0.75", **BOTH)
named(
    "shares of evaluation data",
    2,
    "shares are for training data",
    "--train-file",
    "{}/a.csv",
    "--eval-file",
    "{}/b.csv:0.5",
    **BOTH,
)
named("the same file for both", 0, "is in the training data and in the evaluation data", "--train-file", "{}/a.csv", "--eval-file",
      "{}/a.csv", **BOTH)  # fmt: skip
named("a shard that is missing", 3, "number 1 (from 0) is missing", "--data", "{}", train__00000__of__00002_csv=ROWS_OF_DATA)
named(
    "a folder with two train files", 3, "name one with --train-file", "--data", "{}", train_csv=ROWS_OF_DATA, train_jsonl=JSONL
)
named("a folder with other names", 3, "/*.csv'", "--data", "{}", **BOTH)
named(
    "a folder with a test file without labels",
    3,
    "--train-file",
    "--data",
    "{}",
    train_csv=ROWS_OF_DATA,
    test_csv="id,text\n1,w1\n",
)
named(
    "columns that one of several files lacks",
    3,
    "has no column 'label'",
    "--train-file",
    "{}/*.csv",
    a_csv=ROWS_OF_DATA,
    b_csv="text\nw1\n",
)
named("several files with values of other kinds", 3, "mixes kinds of values", "--train-file", "{}/*.*", a_csv=ROWS_OF_DATA,
      b_jsonl='{"text": "w1", "label": 1}\n')  # fmt: skip
named("a saved data set that names files elsewhere", 3, "is damaged, or of no data set", "--train-file", "{}",
      state_json='{"_data_files": [{"filename": "../../x.arrow"}]}')  # fmt: skip


@row(f"F{next(NUMBER)}", "predict keeps keys that later rows have", 0)
def _(at: Place) -> Attempts:
    yield at.predict_file("i.jsonl", '{"text": "w1"}\n{"text": "w2", "doc": 7}\n', "--output", str(at.folder / "o.jsonl"))
    assert [json.loads(line)["doc"] for line in (at.folder / "o.jsonl").read_text().splitlines()] == [None, 7]


@row(f"F{next(NUMBER)}", "predict on files of two folders", 2, "predict those of one at a time")
def _(at: Place) -> Attempts:
    names = [at.write(f"{folder}/i.csv", "text\nw1\n") for folder in "ab"]
    yield at.predict("--input", ",".join(names))


def exported(at: Place, *flags: str) -> list[str]:
    return ["export", str(at.home / "finished"), "--output", str(at.folder / "exported"), *flags]


def left(at: Place, progress: str | None) -> list[str]:
    """What an earlier call is said to have left beside the output."""
    at.write("o.csv.partial", "rows")
    if progress is not None:
        at.write("o.csv.progress", progress)
    return at.predict_file("i.csv", "text\nw1\n", "--output", str(at.folder / "o.csv"))


UNLIKE = '{"format": 1, "of": {"the model": "x"}, "total": 9, "rows": 4, "num_bytes": 4, "crc": 0, "columns": ["text"]}'

each(f"F{next(NUMBER)}", "processes to predict with, of which there are none or too many", 2, "--num-processes must be 1 to", lambda at: [
    at.predict_file("i.csv", "text\nw1\n", "--num-processes", number) for number in ("0", "-1", "99999")])  # fmt: skip
each(f"F{next(NUMBER)}", "--resume without a file to go on with", 2, "--resume goes on with a file: give the --output", lambda at: [
    at.predict_file("i.csv", "text\nw1\n", "--resume")])  # fmt: skip
each(f"F{next(NUMBER)}", "predictions that were stopped, and no --resume", 2, "holds 4 of 9 predictions of a call that was stopped", lambda at: [
    left(at, UNLIKE)])  # fmt: skip
each(
    f"F{next(NUMBER)}",
    "--resume with another model",
    2,
    "the model is not as it was when",
    lambda at: [[*left(at, UNLIKE), "--resume"]],
)
each(f"F{next(NUMBER)}", "a progress file that is damaged", 3, "o.csv.progress is damaged", lambda at: [
    left(at, text) for text in ("{", "[]", '{"format": 1}', '{"format": 7}', UNLIKE.replace("9", '"9"'))])  # fmt: skip
each(f"F{next(NUMBER)}", "a file of the user's in the way of the partial one", 2, "o.csv.partial is in the way", lambda at: [
    left(at, None)])  # fmt: skip
each(f"F{next(NUMBER)}", "an export without a folder, or to one that is there", 2, "--output", lambda at: [
    ["export", str(at.home / "finished")], [*exported(at)[:-1], str(at.folder)], [*exported(at)[:-1], str(at.folder / "no/such")]])  # fmt: skip
each(f"F{next(NUMBER)}", "flags of an export that contradict each other", 2, "--", lambda at: [
    exported(at, "--int8", "--format", "torch"), exported(at, "--max-loss", "-1"), exported(at, "--max-loss", "nan")])  # fmt: skip
each(f"F{next(NUMBER)}", "an export of a model of a task that has none", 2, "models of this task are not exported", lambda at: [
    exported(at, "--task", "reranker"), exported(at, "--task", "clm")])  # fmt: skip
