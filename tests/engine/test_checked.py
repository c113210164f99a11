"""One reader for JSON: bounded, each value of its type; and nothing else in engine/ and tasks/ reads any."""

from __future__ import annotations

import ast
import os
import tracemalloc
from pathlib import Path

import pytest

from engine import checked

ROOT = Path(__file__).parent.parent.parent
READERS = {"engine/checked.py"}  # the one; no other reads JSON
CALLS = {("json", "load"), ("json", "loads"), ("json", "JSONDecoder"), ("pickle", "load"), ("pickle", "loads"), ("torch", "load"),
         ("marshal", "loads"), ("shelve", "open"), ("ast", "literal_eval"), ("orjson", "loads")}  # fmt: skip


def readers_in(source: str) -> list[str]:
    """Calls, imports and mentions of what reads JSON, or a form that runs code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in CALLS:
            found.append(f"line {node.lineno}: {node.value.id}.{node.attr}")
        if isinstance(node, ast.ImportFrom):
            found += [f"line {node.lineno}: from {node.module}" for each in node.names if (node.module, each.name) in CALLS]
        if isinstance(node, ast.Import):
            found += [f"line {node.lineno}: {each.name} as {each.asname}" for each in node.names
                      if each.asname and (each.name, "load") in CALLS | {("marshal", "load")}]  # fmt: skip
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.append(f"line {node.lineno}: allow_pickle")
    return found


@pytest.mark.parametrize("path", sorted([*ROOT.glob("engine/**/*.py"), *ROOT.glob("tasks/**/*.py"), ROOT / "run.py"]),
                         ids=lambda p: str(p.relative_to(ROOT)))  # fmt: skip
def test_nothing_but_the_reader_reads_json(path):
    if str(path.relative_to(ROOT)) not in READERS:
        assert readers_in(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    ["json.loads(t)", "json.load(f)", "from json import loads", "import json as j", "f = json.loads", "json.JSONDecoder().decode(t)",
     "torch.load(p)", "pickle.loads(b)", "np.load(p, allow_pickle=True)", "from pickle import load"],
)  # fmt: skip
def test_the_search_for_readers_finds_them(source):
    assert readers_in(source)


def test_the_search_for_readers_lets_writers_through():
    assert readers_in("import json\njson.dumps(x)\nnp.load(p)\nsafetensors.torch.load_file(p)") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [("[" * 100_000, "levels deep"), ("[" * 60 + "]" * 60, "levels deep"), ('{"a": ' * 60 + "1" + "}" * 60, "levels deep"),
     ("NaN", "NaN is no JSON"), ("[-Infinity]", "Infinity is no JSON"), ("{", "Expecting"), (b"\xff", "codec"),
     (r'"\ud800"', "half a character"), (r'"\ud800"'.encode("utf-16"), "codec"), (r'[{"a": ["x\udfffx"]}]', "half a character"), (r'{"\ud800": 1}', "half a character")],
)  # fmt: skip
def test_what_is_no_document_is_a_value_error(text, words):
    with pytest.raises(ValueError, match=words):
        checked.parse_json(text)


def test_what_who_reads_may_allow():
    assert checked.parse_json("[NaN, 1]", constants=True)[1] == 1
    assert checked.parse_json(r'["\ud800"]', halves=True) == ["\ud800"]
    assert checked.parse_json(r'["\ud83d\ude00"]') == ["\U0001f600"], "two halves are a whole"
    with pytest.raises(checked.TwiceError, match="a is given twice"):
        checked.parse_json('{"a": 1, "a": 2}', pairs=checked.each_once)
    assert checked.parse_json("[" * 50 + "]" * 50)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_not_opened_for_long(tmp_path, make):
    make(tmp_path / "it")
    with pytest.raises((ValueError, OSError)):
        checked.read_bytes(tmp_path / "it")


def test_a_link_that_leads_out_of_its_folder_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("mine")
    folder = tmp_path / "repo/snapshots/abc/part"
    folder.mkdir(parents=True)
    (tmp_path / "repo/blobs").mkdir()
    for path, place in ((folder / "own", "own"), (tmp_path / "repo/blobs/it", "../../../blobs/it")):
        path.write_text("theirs")
        (folder / "link").symlink_to(place)
        assert checked.read_bytes(folder / "link") == b"theirs"
        (folder / "link").unlink()
    for place in ("../../../../secret", str(tmp_path / "secret"), "../../../other/../../secret"):
        (tmp_path / "repo/other").mkdir(exist_ok=True)
        (folder / "link").symlink_to(place)
        with pytest.raises(ValueError, match="a link that leads out"):
            checked.read_bytes(folder / "link")
        (folder / "link").unlink()


def test_what_is_too_large_is_not_read(tmp_path):
    (tmp_path / "it").write_bytes(b"12345")
    assert checked.read_bytes(tmp_path / "it", 5) == b"12345"
    with pytest.raises(ValueError, match="larger than"):
        checked.read_bytes(tmp_path / "it", 4)


def test_reading_a_small_file_takes_no_more_memory_than_it_holds(tmp_path):
    """read(n) makes a buffer of n bytes at once: as large as the largest file that is allowed."""
    (tmp_path / "small.json").write_bytes(b"x" * 1000)
    tracemalloc.start()
    try:
        assert checked.read_bytes(tmp_path / "small.json") == b"x" * 1000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20 < checked.MOST_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="files without a size")
def test_a_file_whose_size_is_not_known_is_read_whole_or_refused():
    assert Path("/proc/self/status").stat().st_size == 0
    assert checked.read_bytes(Path("/proc/self/status")).startswith(b"Name:")
    with pytest.raises(ValueError, match="larger than"):
        checked.read_bytes(Path("/proc/self/status"), most=10)
