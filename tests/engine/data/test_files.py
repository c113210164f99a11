"""Every text arrives as it stands in the file; a broken file is refused with the place of the fault, never repaired.

Rows of BAD_INPUTS: 26-43, 45, 59 and 60. Files are written by other hands (csv, json, pyarrow, bytes), read by ours.
"""

from __future__ import annotations

import csv
import json
import os
import random

import pyarrow
import pyarrow.parquet
import pytest
from datasets.table import MemoryMappedTable

from bench.toys import tiny
from engine.data import form, tables
from engine.data.files import read_table
from engine.data.form import Form
from engine.data.sources import Source, SourceConfig
from engine.data.tokens import tokenize
from engine.errors import DataError, UserError

# What table readers that guess types turn into nothing or into numbers, and what is easily stripped.
ODD_TEXTS = [
    "NA",
    "null",
    "nan",
    "NaN",
    "None",
    "N/A",
    "#N/A",
    "007",
    "1e5",
    "true",
    "-0",
    "1,000",
    "",
    " a ",
    "\t",
    "é",
    "日本語",
    "🙂",
]


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path, columns=("text", "label"), **options) -> str:
    """The message of the DataError; its exit code is 3."""
    with pytest.raises(DataError) as caught:
        read_table(path, columns, Form(**options))
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value), "one line"
    return str(caught.value)


# ----------------------------------------------------------------------------------------- what there is to read (26-30)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.txt"])
def test_a_missing_file_is_named(tmp_path, name):
    assert refusal(tmp_path / name) == f"{tmp_path / name} does not exist"


def test_a_directory_is_refused_even_with_a_files_suffix(tmp_path):
    (tmp_path / "a.csv").mkdir()
    assert "a.csv is a directory: give a file" in refusal(tmp_path / "a.csv")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\na,1\n")
    path.chmod(0)
    assert "cannot be read: Permission denied" in refusal(path)


def test_what_the_system_says_is_passed_on(tmp_path, monkeypatch):
    """Runs as root, too: opening fails as it does without permission."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("engine.data.streams.open", refuse, raising=False)
    assert refusal(write(tmp_path, "a.csv", "text,label\na,1\n")).endswith("a.csv cannot be read: Permission denied")


def test_a_path_through_a_file_is_refused(tmp_path):
    write(tmp_path, "a.csv", "text,label\na,1\n")
    assert "cannot be read: Not a directory" in refusal(tmp_path / "a.csv" / "b.csv")


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_an_empty_file_is_refused(tmp_path, name, content):
    message = refusal(write(tmp_path, name, content), ["text"])
    assert message.endswith((" is empty", " has no rows"))


def test_an_empty_parquet_file_is_refused(tmp_path):
    assert "is not a readable Parquet file" in refusal(write(tmp_path, "a.parquet", b""))
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "b.parquet")
    assert refusal(tmp_path / "b.parquet", ["text"]).endswith("has no rows")


@pytest.mark.parametrize("content", ["text,label\n", "text,label", "text,label\r\n\r\n\n"])
def test_a_header_alone_is_refused(tmp_path, content):
    assert refusal(write(tmp_path, "a.csv", content)).endswith("a.csv has no rows")


def test_blank_lines_alone_are_refused(tmp_path):
    assert refusal(write(tmp_path, "a.jsonl", "\n \n")).endswith("has no rows")
    assert "has no column 'text'" in refusal(write(tmp_path, "a.csv", "\n\n"))


def test_another_kind_of_file_is_refused_with_the_known_kinds(tmp_path):
    message = refusal(write(tmp_path, "a.pdf", "x"))
    assert "'.pdf'" in message
    assert all(kind in message for kind in (".csv", ".tsv", ".jsonl", ".parquet", ".txt"))
    assert "'(none)'" in refusal(write(tmp_path, "data", "x"))


# ------------------------------------------------------------------------------------------------ columns (31-33)


def test_a_missing_column_is_refused_with_those_there_are(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"review": ["a"], "stars": [1]}), tmp_path / "a.parquet")
    files = [
        write(tmp_path, "a.csv", "review,stars\na,1\n"),
        write(tmp_path, "a.jsonl", '{"review": "a", "stars": 1}\n'),
        tmp_path / "a.parquet",
    ]
    for path in files:
        assert refusal(path).startswith(f"{path} has no column 'text' (it has: 'review', 'stars')")
        assert ("--column-names" in refusal(path)) == (path.suffix == ".csv"), "its first line may be a row"
    assert "has no column 'label' (it has: 'text')" in refusal(write(tmp_path, "a.txt", "a\n"))


@pytest.mark.parametrize(("mark", "shown"), [(";", "';'"), ("\t", r"'\t'"), ("|", "'|'")])
def test_a_wrong_delimiter_is_named_with_the_way_out_and_that_works(tmp_path, mark, shown):
    path = write(tmp_path, "a.csv", f"text{mark}label\na, b{mark}1\n")
    message = refusal(path)
    assert message.endswith(f"if the cells are separated by {shown}, say --delimiter {shown}")
    assert read_table(path, ["text", "label"], form=Form(delimiter=shown.strip("'"))) == {"text": ["a, b"], "label": ["1"]}


def test_commas_in_a_tsv_file_are_named_too(tmp_path):
    path = write(tmp_path, "a.tsv", "text,label\na,1\n")
    assert refusal(path).endswith("say --delimiter ','")
    assert read_table(path, ["label"], form=Form(delimiter=",")) == {"label": ["1"]}


def test_a_single_column_without_a_mark_gets_no_hint_about_delimiters(tmp_path):
    assert "--delimiter" not in refusal(write(tmp_path, "a.csv", "review\na\n"))


@pytest.mark.parametrize("name", ["a.xlsx", "a.XLS", "a.ods"])
def test_a_spreadsheet_is_to_be_saved_as_csv(tmp_path, name):
    """Its cells are values, 7 where the page shows 007: the text that stands there is in the CSV file alone."""
    assert "save the sheet as CSV" in refusal(write(tmp_path, name, "PK"))


@pytest.mark.parametrize("delimiter", [";;", "", "ab"])
def test_a_delimiter_is_one_character(tmp_path, delimiter):
    path = write(tmp_path, "a.csv", "text,label\na,1\n")
    if delimiter:
        assert "--delimiter must be one character" in refusal(path, delimiter=delimiter)
    else:
        assert read_table(path, form=Form(delimiter=delimiter)) == {"text": ["a"], "label": ["1"]}, "empty means not given"


def test_a_repeated_column_is_refused(tmp_path):
    path = write(tmp_path, "a.csv", "text,label,text\na,1,b\n")
    assert "column 'text' stands 2 times in the header" in refusal(path)
    assert read_table(path, ["label"]) == {"label": ["1"]}, "it matters only to who asks for it"
    assert read_table(path) == {"text": ["a"], "label": ["1"], "text (2)": ["b"]}, "and nothing is lost"


def test_only_the_columns_asked_for_are_kept(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x"], "id": [5], "label": [0]}), tmp_path / "a.parquet")
    files = [
        write(tmp_path, "a.csv", "id,text,label\n5,x,0\n"),
        write(tmp_path, "a.jsonl", '{"id": 5, "text": "x", "label": 0}\n'),
        tmp_path / "a.parquet",
    ]
    for path in files:
        assert list(read_table(path, ["label", "text"])) == ["label", "text"]
        assert set(read_table(path)) == {"id", "text", "label"}


# --------------------------------------------------------------------------------------------- broken rows (34-36)


def test_a_ragged_row_is_refused_with_its_number(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\na,1\nb,2\nc, d,3\n")
    assert refusal(path) == f"{path} row 3 (line 4) has 3 cells, the header has 2"


def test_a_short_row_is_refused_with_its_number(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"a\nb",1\nc\n')
    assert refusal(path) == f"{path} row 2 (line 4) has 1 cells, the header has 2"


def test_empty_lines_are_not_counted_as_rows(tmp_path):
    """Errors about labels count the rows that were read: the two have to agree."""
    assert " row 2 (line 5) has 1 cells" in refusal(write(tmp_path, "a.csv", "text,label\na,1\n\n\nb\n"))


def test_an_open_quote_is_refused_with_its_row(tmp_path):
    message = refusal(write(tmp_path, "a.csv", 'text,label\na,1\n"b,2\nc,3\n'))
    assert "a.csv row 2 (line" in message
    assert "a quote is not closed; each line is a row if quotes are text: --quoting none" in message


def test_text_after_a_closed_quote_is_refused(tmp_path):
    assert "a.csv row 1 (line 2): ',' expected after '\"'" in refusal(write(tmp_path, "a.csv", 'text,label\n"a"b,1\n'))


# ------------------------------------------------------------------------------------- what has to work (37, 39, 41)


def test_quoted_newlines_delimiters_and_quotes_are_text(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"one\ntwo, ""three""",1\n5" pipe,2\n')
    assert read_table(path) == {"text": ['one\ntwo, "three"', '5" pipe'], "label": ["1", "2"]}


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";")])
def test_any_text_written_by_csv_comes_back(tmp_path, name, delimiter):
    generator = random.Random(0)
    alphabet = ["a", " ", ",", ";", "\t", '"', "\n", "\r", "\r\n", "é", "\u2028", "\x85", "\x0b", "\ufeff", "\\", "NA"]
    texts = ["".join(generator.choices(alphabet, k=generator.randrange(9))) for _ in range(500)]
    with open(tmp_path / name, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([("text", "label"), *((text, "1") for text in texts)])
    assert read_table(tmp_path / name, ["text"], form=Form(delimiter=delimiter))["text"] == texts


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_a_byte_order_mark_and_no_final_newline_work(tmp_path, end, mark, last):
    def content(*lines):
        return mark + (end.join(lines) + (end if last else "")).encode()

    expected = {"text": ["a", "b"], "label": ["1", "2"]}
    assert read_table(write(tmp_path, "a.csv", content("text,label", "a,1", "b,2"))) == expected
    jsonl = content('{"text": "a", "label": "1"}', '{"text": "b", "label": "2"}')
    assert read_table(write(tmp_path, "a.jsonl", jsonl)) == expected
    assert read_table(write(tmp_path, "a.txt", content("a", "b"))) == {"text": ["a", "b"]}


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8"])
def test_a_byte_order_mark_goes_when_utf8_is_named_too(tmp_path, encoding):
    path = write(tmp_path, "a.csv", b"\xef\xbb\xbftext,label\na,1\n")
    assert read_table(path, ["text"], form=Form(encoding=encoding)) == {"text": ["a"]}


def test_a_line_of_three_megabytes_works_and_its_truncation_is_counted(tmp_path):
    text = "w1 " * 20 + "x" * 3_000_000
    for path in (
        write(tmp_path, "a.csv", f"text,label\n{text},1\nw2,0\n"),
        write(tmp_path, "a.jsonl", json.dumps({"text": text, "label": 1}) + '\n{"text": "w2", "label": 0}\n'),
        write(tmp_path, "a.txt", f"{text}\nw2\n"),
    ):
        texts = read_table(path, ["text"])["text"]
        assert texts == [text, "w2"]
    tokens = tokenize(texts, tiny.tokenizer(), 8)
    assert tokens.num_truncated == 1
    assert tokens.lengths.tolist() == [8, 3]


def test_a_text_file_has_one_row_a_line(tmp_path):
    path = write(tmp_path, "a.txt", "one, two\n\n  three \n\u2028four\x85\n")
    assert read_table(path) == {"text": ["one, two", "", "  three ", "\u2028four\x85"]}


def test_the_suffix_may_be_in_capitals(tmp_path):
    assert read_table(write(tmp_path, "A.CSV", "text,label\na,1\n"), ["text"]) == {"text": ["a"]}


# ------------------------------------------------------------------------------------------------ encoding (38, 40)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("rows_before", [0, 20_000])
def test_what_is_not_utf8_is_refused_with_its_byte_in_the_file(tmp_path, start, rows_before):
    """20,000 rows are more than the decoder's buffer: its own offset would be wrong."""
    before = start + b"text,label\n" + b"abc,1\n" * rows_before
    path = write(tmp_path, "a.csv", before + b"caf\xe9,1\n")
    message = refusal(path)
    assert path.read_bytes()[len(before) + 3] == 0xE9
    assert f"is not UTF-8 (byte {len(before) + 3}): name its encoding" in message
    assert "--encoding latin-1" in message


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_another_encoding_works_when_it_is_named(tmp_path, name):
    content = {"a.csv": "text\ncafé\n", "a.jsonl": '{"text": "café"}\n', "a.txt": "café\n"}[name]
    for encoding in ("latin-1", "cp1252", "utf-16"):
        path = write(tmp_path, name, content.encode(encoding))
        assert read_table(path, ["text"], form=Form(encoding=encoding)) == {"text": ["café"]}
        if encoding == "utf-16":  # it begins with a mark
            assert read_table(path, ["text"]) == {"text": ["café"]}
        else:
            assert "is not UTF-8 (byte" in refusal(path, ["text"])


def test_the_wrong_encoding_is_refused_by_its_name(tmp_path):
    path = write(tmp_path, "a.csv", "text\ncafé\n")
    assert "is not ascii (byte 8)" in refusal(path, ["text"], encoding="ascii")
    with pytest.raises(UserError, match="--encoding utf-9: unknown encoding"):
        read_table(path, form=Form(encoding="utf-9"))


@pytest.mark.parametrize(("name", "content"), [("a.csv", b"text,label\na\0b,1\n"), ("a.txt", b"x\na\0b\n")])
def test_a_nul_byte_is_refused(tmp_path, name, content):
    assert "line 2" in refusal(write(tmp_path, name, content), ["text"])


def test_a_nul_byte_in_jsonl_is_refused_with_its_line(tmp_path):
    assert "a.jsonl line 2 " in refusal(write(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": "a\0b"}\n'), ["text"])


# --------------------------------------------------------------------------------------- nothing is guessed (42, 43)


def files_with(texts, folder):
    """The same texts as CSV, TSV, JSONL and Parquet."""
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with open(folder / name, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, delimiter=delimiter).writerows([("text", "label"), *((t, i % 2) for i, t in enumerate(texts))])
    lines = [json.dumps({"text": text, "label": i % 2}) for i, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts, "label": [i % 2 for i in range(len(texts))]}), folder / "a.parquet"
    )
    return [folder / name for name in ("a.csv", "a.tsv", "a.jsonl", "a.parquet")]


def test_texts_that_look_like_nothing_or_numbers_arrive_unchanged_in_the_dataset(tmp_path):
    for path in files_with(ODD_TEXTS, tmp_path):
        table = Source(SourceConfig(train_file=str(path))).tables(["text", "label"])["train"]
        assert table["text"][:] == ODD_TEXTS, path.suffix
        assert [int(label) for label in table["label"][:]] == [i % 2 for i in range(len(ODD_TEXTS))]


def test_a_column_of_nothing_but_numbers_stays_text(tmp_path):
    """Here guessing has no other row to warn it."""
    path = write(tmp_path, "a.csv", "text,label\n007,01\n42,1.0\n")
    table = Source(SourceConfig(train_file=str(path))).tables(["text", "label"])["train"]
    assert table[:] == {"text": ["007", "42"], "label": ["01", "1.0"]}


def test_a_parquet_file_comes_back_as_it_was_written(tmp_path):
    rows = {"text": ["a", None, "NA"], "label": [1, 2, 3], "score": [0.5, None, 1.0], "tags": [["x"], [], ["y", "z"]]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet") == rows


@pytest.mark.parametrize("content", [b"PAR1", b"text,label\na,1\n"])
def test_a_broken_parquet_file_is_refused(tmp_path, content):
    assert "a.parquet is not a readable Parquet file" in refusal(write(tmp_path, "a.parquet", content))


# --------------------------------------------------------------------------------------------------- JSONL (59, 60)


@pytest.mark.parametrize("line", ['{"text": "b", "label": 2', "{'text': 'b'}", "b", '{"text": "b"} {"text": "c"}'])
def test_a_broken_jsonl_line_is_refused_with_its_number(tmp_path, line):
    good = '{"text": "a", "label": 1}'
    assert "a.jsonl line 4 is not JSON: " in refusal(write(tmp_path, "a.jsonl", f"{good}\n\n{good}\n{line}\n{good}\n"))


@pytest.mark.parametrize(("line", "kind"), [("[1, 2]", "list"), ('"text"', "str"), ("null", "NoneType"), ("3", "int")])
def test_a_jsonl_line_that_is_no_object_is_refused(tmp_path, line, kind):
    message = refusal(write(tmp_path, "a.jsonl", f'{{"text": "a", "label": 1}}\n{line}\n'))
    assert message.endswith(f"line 2 must be an object {{...}}, found {kind}")


def test_a_jsonl_line_nested_too_deeply_is_refused(tmp_path):
    assert "a.jsonl line 1" in refusal(write(tmp_path, "a.jsonl", "[" * 100_000))


def test_a_missing_key_is_refused_with_its_line(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "lable": 1}\n')
    assert refusal(path) == f"{path} line 2 has no 'label' (it has: text, lable)"
    assert read_table(path, ["text"]) == {"text": ["a", "b"]}, "a column that nobody asked for may be missing"


@pytest.mark.parametrize("values", [[1, "a"], ["a", 1], [True, 1], [["a"], "b"], ["a", {"b": 1}], [1, 2**70]])
def test_a_column_that_changes_its_kind_is_refused(tmp_path, values):
    path = write(tmp_path, "a.jsonl", "".join(json.dumps({"text": "x", "label": value}) + "\n" for value in values))
    with pytest.raises(DataError, match="a column mixes kinds of values"):
        Source(SourceConfig(train_file=str(path))).tables(["text", "label"])


def test_a_lone_surrogate_is_refused_for_what_it_is(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "a\\ud800"}\n')
    with pytest.raises(DataError) as caught:
        Source(SourceConfig(train_file=str(path))).tables(["text"])
    assert "mixes kinds" not in str(caught.value)
    assert "surrogate" in str(caught.value)


# ------------------------------------------------------------------------------------------------ more rows than a piece


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_pieces_make_the_whole(tmp_path, monkeypatch, rows):
    """Two rows a piece: fewer than that, one piece, an odd row at the end."""
    monkeypatch.setattr(form, "PIECE_ROWS", 2)
    texts = [f"text {i}" for i in range(rows)]
    (tmp_path / "a.txt").write_text("".join(f"{text}\n" for text in texts))
    for path in [*files_with(texts, tmp_path), tmp_path / "a.txt"]:
        assert read_table(path, ["text"]) == {"text": texts}
        table = Source(SourceConfig(train_file=str(path))).tables(["text"])["train"]
        assert table["text"][:] == texts and table.column_names == ["text"]


def test_errors_in_later_pieces_name_their_row(tmp_path, monkeypatch):
    monkeypatch.setattr(form, "PIECE_ROWS", 2)
    path = write(tmp_path, "a.csv", "text,label\n" + "a,1\n" * 6 + "b\n")
    with pytest.raises(DataError, match=r"row 7 \(line 8\) has 1 cells, the header has 2"):
        Source(SourceConfig(train_file=str(path))).tables(["text", "label"])


def test_categories_of_a_parquet_file_are_what_they_stand_for(tmp_path):
    labels = pyarrow.array(["a", "b", "a", None]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"text": list("wxyz"), "label": labels}), tmp_path / "a.parquet")
    table = Source(SourceConfig(train_file=str(tmp_path / "a.parquet"))).tables(["text", "label"])["train"]
    assert table[:] == {"text": list("wxyz"), "label": ["a", "b", "a", None]}


def test_the_rows_are_mapped_from_a_copy_that_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAINLOOP_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path, "a.csv", "text\n" + "x\n" * 50)
    table = Source(SourceConfig(train_file=str(path))).tables(["text"])["train"]
    assert isinstance(table.data, MemoryMappedTable)
    assert list((tmp_path / "cache").glob("*/*")) == []
    assert table.select([3, 1])["text"][:] == ["x", "x"], "what is mapped outlives its name"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("full", [1, 2])
def test_where_no_disk_has_room_for_the_copy_the_rows_are_the_same(tmp_path, monkeypatch, suffix, full):
    """The cache's disk, and then the system's own: in memory, if need be."""
    path = write(tmp_path, "a.csv", "text\nx\n007\n")
    if suffix == "parquet":
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": ["x", "007"]}), path)
    tried = []

    def write_arrow(batches, copy):
        next(batches)
        tried.append(copy)
        if len(tried) <= full:
            raise OSError(28, "No space left on device")
        real(iter([*read_back]), copy)

    real, read_back = tables.write_arrow, pyarrow.table({"text": ["x", "007"]}).to_batches()
    monkeypatch.setattr(tables, "write_arrow", write_arrow)
    table = Source(SourceConfig(train_file=str(path))).tables(["text"])["train"]
    assert table["text"][:] == ["x", "007"] and len(tried) == 2
    assert not any(copy.parent.exists() for copy in tried)


def test_without_a_cache_folder_the_systems_own_will_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLAINLOOP_CACHE", str(tmp_path / "file"))
    path = write(tmp_path, "a.csv", "text\nx\n")
    assert Source(SourceConfig(train_file=str(path))).tables(["text"])["train"]["text"][:] == ["x"]
