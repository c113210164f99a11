"""One reading of files: what can be read in two ways is refused with the way in, and the way in is taken."""

from __future__ import annotations

import gzip
import json
import re
import zipfile

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from engine.data import form as forms
from engine.data.files import check_form, read_named, read_table
from engine.data.form import Form
from engine.data.places import files_in, parts_of
from engine.data.sources import Source, SourceConfig
from engine.data.tables import read_dataset, row_name
from engine.errors import DataError, UsageError, UserError


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------ JSON (F5, 07)


ROWS = [{"text": "great soup"}, {"text": "bad coffee", "doc": 7}, {"doc": "7a", "text": "x", "tags": [1]}]


def test_every_key_of_every_row_is_kept_and_may_hold_anything(tmp_path):
    path = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    rows = read_table(path)
    assert rows == {"text": ["great soup", "bad coffee", "x"], "doc": [None, 7, "7a"], "tags": [None, None, [1]]}
    assert read_dataset([path], ["text"])["text"][:] == rows["text"], "what nobody uses is not looked at"


@pytest.mark.parametrize("rows_a_piece", [1, 2, 10])
def test_keys_that_come_later_are_none_in_the_rows_before(tmp_path, monkeypatch, rows_a_piece):
    monkeypatch.setattr(forms, "PIECE_ROWS", rows_a_piece)
    path = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    assert [{name: cells[i] for name, cells in read_table(path).items() if cells[i] is not None} for i in range(3)] == ROWS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a.json", "\n".join(map(json.dumps, ROWS))),
        ("a.ndjson", "\n".join(map(json.dumps, ROWS))),
    ],
)
def test_json_is_an_array_lines_or_an_object_with_the_rows(tmp_path, name, content):
    assert read_table(write(tmp_path, name, content), ["text"]) == {"text": ["great soup", "bad coffee", "x"]}


def test_a_document_that_is_one_row_is_one(tmp_path):
    """``messages`` is a list of objects, and no list of rows, to who asks for it."""
    row = {"messages": [{"role": "user", "content": "a"}]}
    path = write(tmp_path, "a.json", json.dumps(row))
    assert read_table(path, ["messages"]) == {"messages": [row["messages"]]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({"a": ROWS, "b": ROWS}), "holds several lists of rows, 'a', 'b'"),
        (json.dumps({"text": ["a", "b"], "label": [0, 1]}), "holds columns, and no rows"),
        (json.dumps({"text": {"0": "a"}, "label": {"0": 1}}), "orient='records'"),
        ("[1, 2]", "row 1 must be an object"),
        ("[", "is not JSON"),
        ("", "has no rows"),
        ("[]", "has no rows"),
    ],
)
def test_a_document_that_holds_no_rows_is_refused(tmp_path, content, said):
    path = write(tmp_path, "a.json", content)
    assert said in refusal(lambda: read_table(path))


def test_a_document_called_jsonl_is_told_its_name(tmp_path):
    path = write(tmp_path, "a.jsonl", json.dumps(ROWS, indent=1))
    assert "called .json" in refusal(lambda: read_table(path))
    assert len(read_table(path.rename(tmp_path / "a.json"))["text"]) == 3


def test_a_field_within_another_is_named_with_a_dot(tmp_path):
    rows = [
        {"review": {"text": "a", "by": {"name": "x"}}, "label": 1},
        {"review": {"text": "b", "by": {"name": "y"}}, "label": 0},
    ]
    jsonl = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for path in (jsonl, tmp_path / "a.parquet"):
        message = refusal(lambda path=path: read_table(path, ["text"]))
        named = re.search(r"named with a dot: '(.+)'", message)[1]
        assert read_table(path, [named, "review.by.name"]) == {"review.text": ["a", "b"], "review.by.name": ["x", "y"]}
        assert read_dataset([path], [named])["review.text"][:] == ["a", "b"]
        everything = read_table(path)
        assert list(everything) == ["review", "label"] and everything["review.text"] == ["a", "b"]
        assert "review.by" in everything and "review.no" not in everything and "label.x" not in everything


def test_a_key_with_a_dot_is_itself_and_a_column_is_read_one_way(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"a.b": 1, "a": {"b": 2}}\n{"a": {"b": 3}}\n')
    assert "line 2 has no 'a.b'" in refusal(lambda: read_table(path, ["a.b"]))


@pytest.mark.parametrize(("values", "kept"), [([1, 2.5], [1.0, 2.5]), ([None, "a"], [None, "a"]), ([[], ["a"]], [[], ["a"]]),
                                              ([{"x": 1}, {"y": 2}], [{"x": 1, "y": None}, {"x": None, "y": 2}])])  # fmt: skip
def test_a_column_whose_kind_shows_in_a_later_piece(tmp_path, monkeypatch, values, kept):
    monkeypatch.setattr(forms, "PIECE_ROWS", 1)
    path = write(tmp_path, "a.jsonl", "".join(json.dumps({"v": value}) + "\n" for value in values))
    assert read_dataset([path], ["v"])["v"][:] == kept


@pytest.mark.parametrize("values", [[1, "a"], [2**60 + 1, 0.5], [True, 1], [1, 2**70]])
def test_kinds_that_do_not_go_together_are_refused_in_later_pieces_too(tmp_path, monkeypatch, values):
    monkeypatch.setattr(forms, "PIECE_ROWS", 1)
    path = write(tmp_path, "a.jsonl", "".join(json.dumps({"v": value}) + "\n" for value in values))
    assert "a column mixes kinds of values" in refusal(lambda: read_dataset([path], ["v"]))


# ---------------------------------------------------------------------------------------------------------- quotes (F7)


SILENT = 's\tlabel\nfresh\tpos\n"We loved it\tpos\ncold\tneg\nso they said"\tneg\n'


def test_a_tsv_with_stray_quotes_does_not_swallow_lines(tmp_path, capsys):
    path = write(tmp_path, "a.tsv", SILENT)
    assert read_table(path, ["s"]) == {"s": ["fresh", '"We loved it', "cold", 'so they said"']}
    assert "--quoting csv" in capsys.readouterr().err
    assert read_table(path, ["s"], Form(quoting="csv"))["s"] == ["fresh", "We loved it\tpos\ncold\tneg\nso they said"]
    assert read_table(path, ["s"], Form(quoting="none"))["s"][1] == '"We loved it'
    assert read_table(write(tmp_path, "a.csv", SILENT), ["s"], Form(delimiter="\\t"))["s"][1] == '"We loved it'


@pytest.mark.parametrize("cell", ['"a"', '"a ""b"" c"', '"a\tb"', '"a\nb"', '"a\n\nb"', '"a\nb\nc"', '""'])
def test_a_tsv_that_is_quoted_is_read_so(tmp_path, cell):
    path = write(tmp_path, "a.tsv", f"s\tlabel\n{cell}\tpos\nx\tneg\n")
    assert read_table(path, ["s"])["s"] == [cell[1:-1].replace('""', '"'), "x"]


@pytest.mark.parametrize("line", ['"Great" film\tpos', '"never again\tneg', '"a""\tneg'])
def test_one_line_of_a_tsv_that_is_no_csv_makes_all_quotes_text(tmp_path, line):
    path = write(tmp_path, "a.tsv", f's\tlabel\n{line}\n"so so"\tneg\n')
    assert read_table(path, ["s"])["s"] == [line.partition("\t")[0], '"so so"']


def test_a_csv_that_can_be_read_in_both_ways_is_refused(tmp_path):
    path = write(tmp_path, "a.csv", SILENT.replace("\t", ","))
    message = refusal(lambda: read_table(path, ["s"]))
    assert "row 2 (lines 3 to 5) is one cell over several lines" in message
    assert len(read_table(path, ["s"], Form(quoting="csv"))["s"]) == 2
    assert len(read_table(path, ["s"], Form(quoting="none"))["s"]) == 4


@pytest.mark.parametrize("more", ['"a, b",x\n', "'a\n"])
def test_a_csv_with_a_line_that_needs_its_quotes_or_is_no_row_is_read_by_them(tmp_path, more):
    path = write(tmp_path, "a.csv", 's,label\n"one, two\nthree, four",x\n' + more.replace("'a", '"a\nb",x'))
    assert read_table(path, ["s"])["s"][0] == "one, two\nthree, four"


def test_a_cell_over_lines_in_a_file_of_one_column_is_named(tmp_path, capsys):
    path = write(tmp_path, "a.csv", 'text\n"a\nb"\nc\n')
    assert read_table(path) == {"text": ["a\nb", "c"]}
    assert "row 1 (lines 2 to 3) is one cell" in capsys.readouterr().err


def test_quotes_that_are_escaped_with_a_backslash(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"he said \\"fine\\", and left",neg\n"good",pos\n')
    assert "--quoting backslash" in refusal(lambda: read_table(path))
    assert read_table(path, ["text"], Form(quoting="backslash")) == {"text": ['he said "fine", and left', "good"]}


@pytest.mark.parametrize(
    ("content", "said"), [('s,l\n"a,1\nb,2\n', "--quoting none"), ('s,l\n"a"b,1\nc,2\n', "--quoting none")]
)
def test_the_way_in_of_a_broken_quote_works(tmp_path, content, said):
    path = write(tmp_path, "a.csv", content)
    assert said in refusal(lambda: read_table(path))
    assert len(read_table(path, form=Form(quoting="none"))["s"]) == 2


# ------------------------------------------------------------------------------------ headers and delimiters (F17, F18)


def test_columns_without_a_name_or_with_another_ones_matter_only_when_asked_for(tmp_path, capsys):
    path = write(tmp_path, "a.csv", "v1,v2,,v2,\nham,hi,,x,\nspam,a,b,y, \n")
    assert read_table(path, ["v1"]) == {"v1": ["ham", "spam"]}
    said = capsys.readouterr().err
    assert "1 of 2 rows have text in columns without a name" in said and "row 2" in said
    assert "column 'v2' stands 2 times" in refusal(lambda: read_table(path, ["v2"]))
    everything = {"v1": ["ham", "spam"], "v2": ["hi", "a"], "column 3": ["", "b"], "v2 (2)": ["x", "y"], "column 5": ["", " "]}
    assert read_table(path) == everything
    assert read_table(path, ["column 3"]) == {"column 3": ["", "b"]}


def test_a_file_without_a_header(tmp_path):
    path = write(tmp_path, "a.csv", 'pos,"good, soup"\nneg,bad\n')
    assert "--column-names NAME,NAME" in refusal(lambda: read_table(path, ["text"]))
    assert read_table(path, ["text", "label"], Form(column_names="label, text")) == {
        "text": ["good, soup", "bad"],
        "label": ["pos", "neg"],
    }
    assert "names 3 columns, and its first line has 2 cells" in refusal(
        lambda: read_table(path, form=Form(column_names="a,b,c"))
    )
    named = write(tmp_path, "b.csv", "Text,label\na,1\n")
    assert "its first line is a header with these names" in refusal(
        lambda: read_table(named, form=Form(column_names="text,label"))
    )
    short = write(tmp_path, "c.csv", "a,1\nb\n")
    assert "row 2 (line 2) has 1 cells, --column-names 2" in refusal(lambda: read_table(short, form=Form(column_names="t,l")))
    for names in ("a,,b", "a,a"):
        assert "--column-names needs a different name" in refusal(lambda names=names: Form(column_names=names))


def test_rows_of_a_headerless_file_are_all_of_its_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(forms, "PIECE_ROWS", 2)
    path = write(tmp_path, "a.csv", "".join(f"w{i},{i}\n" for i in range(5)))
    assert read_table(path, ["t"], Form(column_names="t,l"))["t"] == [f"w{i}" for i in range(5)]
    table = read_dataset([path], ["t"], Form(column_names="t,l"))
    assert row_name(table, 4) == f"{path}, row 5"


def test_a_text_file_with_cells(tmp_path):
    path = write(tmp_path, "a.txt", "a fine film\t1\na bad film\t0\n")
    message = refusal(lambda: read_table(path, ["text", "label"]))
    delimiter = re.search(r"--delimiter '(.+?)'", message)[1]
    found = read_table(path, ["text", "label"], Form(delimiter=delimiter, column_names="text,label"))
    assert found == {"text": ["a fine film", "a bad film"], "label": ["1", "0"]}
    assert read_table(path) == {"text": ["a fine film\t1", "a bad film\t0"]}, "without it, its lines"
    assert read_table(path, form=Form(column_names="line")) == {"line": ["a fine film\t1", "a bad film\t0"]}
    assert "has one column" in refusal(lambda: read_table(path, form=Form(column_names="a,b")))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_excels_first_line_says_the_delimiter(tmp_path, encoding):
    path = write(tmp_path, "a.csv", "sep=;\r\ntext;label\r\na, b;1\r\nc\r\n".encode(encoding))
    message = refusal(lambda: read_table(path))
    assert "row 2 (line 4) has 1 cells" in message, "lines are counted as an editor does"
    path = write(tmp_path, "a.csv", "sep=;\r\ntext;label\r\na, b;1\r\n".encode(encoding))
    assert read_table(path) == {"text": ["a, b"], "label": ["1"]}
    assert read_table(path, form=Form(delimiter=";")) == {"text": ["a, b"], "label": ["1"]}
    assert "leave it out" in refusal(lambda: read_table(path, form=Form(delimiter=",")))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("says", [True, False])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding, says):
    path = write(tmp_path, "a.csv", "\ufefftext,label\ncafé,1\n".encode(encoding))
    assert read_table(path, form=Form(encoding=encoding if says else None)) == {"text": ["café"], "label": ["1"]}


def test_bytes_of_cp1252_are_known_and_its_neighbour_warns(tmp_path, capsys):
    path = write(tmp_path, "a.csv", "text\n\xe9\nit\u2019s \u2013 fine\n".encode("cp1252"))
    assert "(byte 5): name its encoding, for instance --encoding cp1252" in refusal(lambda: read_table(path))
    assert read_table(path, form=Form(encoding="cp1252")) == {"text": ["\xe9", "it\u2019s \u2013 fine"]}
    read_table(path, form=Form(encoding="latin-1"))
    assert "--encoding cp1252 reads it as '\u2019'" in capsys.readouterr().err


def test_one_damaged_place_in_utf8_is_not_taken_for_another_encoding(tmp_path):
    """With latin-1 all other accents would be read wrongly, and nothing would say so."""
    path = write(tmp_path, "a.csv", "text\ncafé\n".encode() + b"na\xefve\n")
    message = refusal(lambda: read_table(path))
    assert "(byte 13)" in message and "mend it" in message and "latin-1" not in message


@pytest.mark.parametrize(("name", "form"), [("a.jsonl", Form(delimiter=";")), ("a.parquet", Form(encoding="latin-1")),
                                            ("a.json", Form(column_names="a")), ("a.jsonl", Form(quoting="none"))])  # fmt: skip
def test_what_would_be_passed_over_is_refused(tmp_path, name, form):
    write(tmp_path, name, "x")
    assert "leave it out" in refusal(lambda: check_form(str(tmp_path / name), "--input", form))
    write(tmp_path, "b.csv", "x")
    if form.column_names is None:
        check_form(f"{tmp_path / name},{tmp_path / 'b.csv'}", "--input", form)  # it means one of them


# -------------------------------------------------------------------------------------------------- other forms (12, 13)


CONTENT = "text,label\n" + "".join(f"w{i},{i % 2}\n" for i in range(50))


def packed(folder, kind):
    content = CONTENT.encode()
    if kind == "gz":
        return write(folder, "a.csv.gz", gzip.compress(content))
    if kind == "zst":
        return write(folder, "a.csv.zst", pyarrow.compress(content, codec="zstd", asbytes=True))
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._a.csv", b"x")
        archive.writestr("inside/a.csv", content)
    return path


@pytest.mark.parametrize("kind", ["gz", "zst", "zip"])
def test_compressed_files_are_what_is_in_them(tmp_path, kind):
    plain = write(tmp_path, "a.csv", CONTENT)
    assert read_table(packed(tmp_path, kind)) == read_table(plain)


@pytest.mark.parametrize("kind", ["gz", "zst", "zip"])
@pytest.mark.parametrize("how", ["cut", "changed", "garbage"])
def test_a_damaged_archive_is_refused_in_one_line(tmp_path, kind, how):
    path = packed(tmp_path, kind)
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "changed":
        content[len(content) // 2] ^= 0xFF
    else:
        content = bytearray(b"not an archive, not an archive")
    path.write_bytes(content)
    if (kind, how) == ("zst", "changed"):
        pytest.skip("what pyarrow writes has no checksum")
    assert str(path) in refusal(lambda: read_table(path))


def test_an_archive_of_several_files_is_refused_with_their_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.csv", "b.csv"):
            archive.writestr(name, CONTENT)
    assert "holds a.csv, b.csv: unpack it" in refusal(lambda: read_table(tmp_path / "a.zip"))


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_files_of_both_forms(tmp_path, kind):
    table = pyarrow.table({"text": ["a", "b"], "n": [1, None], "kind": pyarrow.array(["x", "y"]).dictionary_encode()})
    path = tmp_path / "a.arrow"
    new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with new(str(path), table.schema) as writer:
        writer.write_table(table)
    assert read_table(path) == {"text": ["a", "b"], "n": [1, None], "kind": ["x", "y"]}
    assert read_dataset([path], ["n"])["n"][:] == [1, None]
    assert "is not a readable Arrow file" in refusal(lambda: read_table(write(tmp_path, "b.arrow", "text")))
    pyarrow.feather.write_feather(table, tmp_path / "a.feather", compression="lz4")
    assert read_table(tmp_path / "a.feather", ["text"]) == {"text": ["a", "b"]}


NAMED = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})


def test_a_folder_that_was_saved_to_disk(tmp_path):
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 1]}, features=NAMED)
    rows.save_to_disk(tmp_path / "one", num_shards=2)
    DatasetDict({"train": rows, "validation": rows.select([1])}).save_to_disk(tmp_path / "all")
    tables = Source(SourceConfig(data=str(tmp_path / "all"))).tables(["text", "label"])
    assert tables["train"]["label"][:] == [0, 1, 1] and tables["eval"]["text"][:] == ["b"]
    assert tables["train"].features["label"] == NAMED["label"]
    for config in (SourceConfig(data=str(tmp_path / "one")), SourceConfig(train_file=str(tmp_path / "one"))):
        assert Source(config).tables(["text", "label"])["train"][:] == rows[:]
    assert read_table(tmp_path / "one") == rows[:]
    assert f"--data {tmp_path / 'all'}" in refusal(lambda: read_table(tmp_path / "all"))


@pytest.mark.parametrize(
    "state", ['{"_data_files": [{"filename": "../x.arrow"}]}', "{}", '{"_data_files": [3]}', "no json", '{"_data_files": []}']
)
def test_a_saved_folder_names_its_own_files_alone(tmp_path, state):
    write(tmp_path, "state.json", state)
    assert str(tmp_path) in refusal(lambda: read_table(tmp_path))


def test_ids_with_other_names_are_not_put_below_each_other(tmp_path):
    """F1's kind: both files hold 0 and 1, and mean something else."""
    for name, names in (("a", ["neg", "pos"]), ("b", ["pos", "neg"])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        Dataset.from_dict({"text": ["x"], "label": [0]}, features=features).to_parquet(tmp_path / f"{name}.parquet")
    Dataset.from_dict({"text": ["x"], "label": [0]}).to_parquet(tmp_path / "c.parquet")
    for other in ("b", "c"):
        files = [tmp_path / "a.parquet", tmp_path / f"{other}.parquet"]
        assert "the names of its ids are not those" in refusal(lambda files=files: read_dataset(files, ["text", "label"]))
    assert read_dataset([tmp_path / "a.parquet", tmp_path / "b.parquet"], ["text"])["text"][:] == ["x", "x"]


def test_names_of_ids_are_kept_where_they_lie_within_another_column(tmp_path):
    features = Features({"a": {"label": ClassLabel(names=["neg", "pos"])}})
    Dataset.from_dict({"a": [{"label": 1}]}, features=features).to_parquet(tmp_path / "a.parquet")
    assert read_dataset([tmp_path / "a.parquet"], ["a.label"]).features["a.label"].names == ["neg", "pos"]


# ------------------------------------------------------------------------------------------------- several files (13)


def test_several_files_are_one_table_whose_rows_know_their_file(tmp_path):
    for name, texts in (("a.csv", "pq"), ("b.csv", "rst")):
        write(tmp_path, name, "text\n" + "".join(f"{text}\n" for text in texts))
    names = f"{tmp_path / 'a.csv'},{tmp_path / 'b.csv'}"
    for text in (names, f"{tmp_path}/*.csv"):
        table = Source(SourceConfig(train_file=text)).tables(["text"])["train"]
        assert table["text"][:] == list("pqrst")
        assert [row_name(table, i) for i in (1, 2, 4)] == [
            f"{tmp_path / 'a.csv'}, row 2",
            f"{tmp_path / 'b.csv'}, row 1",
            f"{tmp_path / 'b.csv'}, row 3",
        ]
        assert read_named(text, "--input")["text"] == list("pqrst")


def test_files_of_other_kinds_go_together_if_their_values_do(tmp_path):
    write(tmp_path, "a.csv", "text,n\np,1\n")
    write(tmp_path, "b.jsonl", '{"text": "q", "n": 2}\n')
    write(tmp_path, "c.jsonl", '{"text": "q", "n": "2"}\n')
    assert "mixes kinds" in refusal(lambda: read_dataset([tmp_path / "a.csv", tmp_path / "b.jsonl"], ["text", "n"]))
    assert read_dataset([tmp_path / "a.csv", tmp_path / "c.jsonl"], ["text", "n"])["n"][:] == ["1", "2"]
    with pytest.raises(DataError, match=r"b\.jsonl has no column 'z'"):
        read_dataset([tmp_path / "b.jsonl", tmp_path / "a.csv"], ["z"])


def test_names_with_commas_and_marks_of_patterns_are_names_if_they_are_there(tmp_path):
    for name in ("a,b.csv", "[x].csv", "a.csv:0.5"):
        path = write(tmp_path, name, "text\nq\n")
        assert [part.files for part in parts_of(str(path))] == [(path,)]


@pytest.mark.parametrize(("text", "said"), [("no.csv", "does not exist"), ("*.tsv", "no file matches"), ("a.csv,a.csv", "twice"),
                                            ("a.csv,*.csv", "twice"), ("a.csv:0.5,b.csv", "share"), ("a.csv:0,b.csv:1", "share")])  # fmt: skip
def test_names_that_mean_nothing_or_two_things_are_refused(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv"):
        write(tmp_path, name, "text\nq\n")
    assert said in refusal(lambda: parts_of(text))


def test_shards_are_all_there_or_refused(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(3):
        pyarrow.parquet.write_table(
            pyarrow.table({"text": [f"w{number}"]}), tmp_path / f"data/train-0000{number}-of-00003.parquet"
        )
    assert Source(SourceConfig(data=str(tmp_path))).tables(["text"])["train"]["text"][:] == ["w0", "w1", "w2"]
    (tmp_path / "data/train-00001-of-00003.parquet").unlink()
    assert "number 1 (from 0) is missing" in refusal(lambda: Source(SourceConfig(data=str(tmp_path))).tables(["text"]))


def test_a_folder_that_holds_two_train_files_or_other_names_says_how_to_go_on(tmp_path):
    write(tmp_path, "part-1.csv", "text\na\n")
    write(tmp_path, "part-2.csv", "text\nb\n")
    pattern = re.search(r"--train-file '(.+)'", refusal(lambda: files_in(tmp_path)))[1]
    assert Source(SourceConfig(train_file=pattern)).tables(["text"])["train"]["text"][:] == ["a", "b"]
    write(tmp_path, "train.csv", "text\na\n")
    assert files_in(tmp_path)["train"] == str(tmp_path / "train.csv")
    write(tmp_path, "train.jsonl.gz", b"")
    assert "holds train.csv and train.jsonl.gz: name one" in refusal(lambda: files_in(tmp_path))


def test_the_same_file_for_both_is_said(tmp_path, capsys):
    path = write(tmp_path, "a.csv", "text\na\n")
    Source(SourceConfig(train_file=f"{tmp_path}/*.csv", eval_file=str(path))).tables(["text"])
    assert "is in the training data and in the evaluation data" in capsys.readouterr().err


def test_evaluation_data_found_in_a_folder_that_do_not_fit_name_the_way_out(tmp_path):
    write(tmp_path, "train.csv", "id,text,label\n1,a,x\n2,b,y\n")
    write(tmp_path, "test.csv", "id,text\n3,c\n")
    message = refusal(lambda: Source(SourceConfig(data=str(tmp_path))).tables(["text", "label"]))
    named = re.search(r"--train-file (\S+)", message)[1]
    assert len(Source(SourceConfig(train_file=named)).tables(["text", "label"])["train"]) == 2


def test_shares_are_for_training():
    with pytest.raises(UsageError, match="shares are for training data"):
        read_named(f"{__file__}:0.5", "--input")
