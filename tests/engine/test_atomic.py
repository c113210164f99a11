"""One writer for every file: whole or not at all, through no link, with the mode of the umask; and nothing else writes."""

from __future__ import annotations

import ast
import errno
import os
import stat
from pathlib import Path

import pytest

from engine import atomic

ROOT = Path(__file__).parent.parent.parent
NEW_FOLDER = "writes into a fresh folder of its own, which is renamed"
WRITERS = {  # the only places that open a file for writing, and why
    "engine/atomic.py": "the writer",
    "engine/checkpoint/store.py": "checkpoints: " + NEW_FOLDER,
    "engine/artifacts/publish.py": "gives what was in the way another name",
    "engine/updating/swap.py": "gives whole folders other names",
    "engine/data/tokens.py": "the cache: " + NEW_FOLDER,
    "engine/data/cache.py": "the cache",
    "engine/model/layout.py": "the cache",
    "tasks/embeddings/search.py": "the cache",
    "tasks/preferences/reference.py": "the cache: " + NEW_FOLDER,
    "tasks/samples/shapes.py": "the cache: " + NEW_FOLDER,
    "tasks/samples/digits.py": "the cache: " + NEW_FOLDER,
    "tasks/language/scratch.py": "the cache: " + NEW_FOLDER,
    "engine/model/lora.py": "save() of a model, in the folder that publish.py gives",
    "tasks/text.py": "save() of a model, in the folder that publish.py gives",
    "tasks/image.py": "save() of a model, in the folder that publish.py gives",
    "tasks/captioning/pictures.py": "downloads, in a temporary folder of its own",
    "engine/record/profiling.py": "the profiler writes into a fresh folder, from which atomic.move takes it",
    "engine/record/writers.py": "TensorBoard and wandb write their logs themselves, in folders that directory.py checks for links",
    "engine/distributed/world.py": "/dev/null",
    "engine/console.py": "/dev/null",
    "engine/task.py": "save_exported() of a model, in the folder that atomic.new_folder gives",
    "engine/commands/picture.py": "into a stream of the writer",
}
CALLS = {"write_text", "write_bytes", "savefig", "save_pretrained", "export_chrome_trace", "SummaryWriter", "touch", "copyfile",
         "copy2", "copytree", "symlink_to", "link", "symlink", "mkstemp", "NamedTemporaryFile", "save_file", "savez", "tofile",
         "memmap", "hardlink_to"}  # fmt: skip
OF_MODULES = {("os", "open"), ("os", "replace"), ("os", "rename"), ("np", "save"), ("torch", "save"), ("shutil", "copy"),
              ("shutil", "move"), ("io", "open"), ("codecs", "open"), ("os", "truncate")}  # fmt: skip


def opens_for_writing(source: str) -> list[str]:
    """Calls that can make or change a file; of ``open`` those whose mode is not that of reading."""
    found = []
    for node in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        function = node.func
        name = function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
        owner = function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
        flags = (
            {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            if (owner, name) == ("os", "open")
            else set()
        )
        if "O_RDONLY" in flags and not flags & {"O_CREAT", "O_TRUNC", "O_APPEND", "O_WRONLY", "O_RDWR"}:
            continue
        if name in CALLS or (owner, name) in OF_MODULES:
            found.append(f"line {node.lineno}: {owner}.{name}")
        elif name == "open" and owner not in ("Image",):
            place = 1 if isinstance(function, ast.Name) or owner == "gzip" else 0
            mode = [node.args[place]] if len(node.args) > place else [k.value for k in node.keywords if k.arg in ("mode", None)]
            if any(not isinstance(m, ast.Constant) or set(str(m.value)) & set("wax+") for m in mode):
                found.append(f"line {node.lineno}: open")
    return found


@pytest.mark.parametrize("path", sorted([*ROOT.glob("engine/**/*.py"), *ROOT.glob("tasks/**/*.py"), ROOT / "run.py"]),
                         ids=lambda p: str(p.relative_to(ROOT)))  # fmt: skip
def test_nothing_but_the_writer_opens_a_file_for_writing(path):
    if str(path.relative_to(ROOT)) not in WRITERS:
        assert opens_for_writing(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    ["open(p, 'w')", "open(p, mode='ab')", "p.open('x')", "open(p, kind)", "gzip.open(p, 'wb')", "gzip.open(p, kind)", "open(p, **kind)", "p.write_text('a')", "os.open(p, 1)", "os.open(p, os.O_RDONLY | os.O_TRUNC)",
     "np.save(p, a)", "f.savefig(p)", "os.replace(a, b)", "shutil.copy(a, b)", "open(p, 'r+')", "tempfile.NamedTemporaryFile()"],
)  # fmt: skip
def test_the_search_for_writers_finds_them(source):
    assert opens_for_writing(source)


@pytest.mark.parametrize(
    "source",
    [
        "open(p)",
        "open(p, 'rb')",
        "p.open()",
        "open(p, encoding='utf-8')",
        "Image.open(b)",
        "os.open(p, os.O_RDONLY | os.O_NONBLOCK)",
    ],
)
def test_the_search_for_writers_lets_readers_through(source):
    assert opens_for_writing(source) == []


def test_a_link_is_replaced_and_what_it_points_to_is_left(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("mine")
    link.symlink_to(victim)
    atomic.write(link, "ours")
    assert victim.read_text() == "mine" and link.read_text() == "ours" and not link.is_symlink()


def test_a_log_is_not_opened_through_a_link_or_as_a_pipe(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    os.mkfifo(tmp_path / "pipe")
    for name, number in (("link", errno.ELOOP), ("pipe", errno.ENXIO)):
        with pytest.raises(OSError) as caught:
            atomic.appending(tmp_path / name)
        assert caught.value.errno == number
    assert (tmp_path / "victim").read_text() == "mine"
    with atomic.appending(tmp_path / "log") as stream:
        stream.write(b"line\n")
    assert (tmp_path / "log").read_text() == "line\n"


@pytest.mark.parametrize("fails", ["write", "fsync", "replace", "block"])
def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch, fails):
    path = tmp_path / "page.html"
    atomic.write(path, "older")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails in ("fsync", "replace"):
        monkeypatch.setattr(f"os.{fails}", full)
    with pytest.raises((OSError, UnicodeEncodeError, KeyError)), atomic.replacing(path) as stream:
        stream.write("\ud800" if fails == "write" else "newer")
        if fails == "block":
            raise KeyError
    assert path.read_text() == "older" and [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_the_temporary_name_cannot_be_known_before(tmp_path, monkeypatch):
    """It is random; and if it stands there all the same, as a link, it is not followed."""
    names: list[str] = []
    replace = os.replace
    monkeypatch.setattr("os.replace", lambda old, new: (names.append(Path(old).name), replace(old, new)))
    atomic.write(tmp_path / "a", "1")
    atomic.write(tmp_path / "a", "2")
    assert len(set(names)) == 2 and all(atomic.UNFINISHED.fullmatch(name) for name in names)
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    (tmp_path / f".tmp-{'0' * 16}").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        atomic.write(tmp_path / "a", "3")
    assert not (tmp_path / "victim").exists() and (tmp_path / "a").read_text() == "2"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_mode_is_that_of_the_umask(tmp_path, umask):
    """Also of what a library has made for itself alone, as safetensors does."""
    before = os.umask(umask)
    try:
        (tmp_path / "made").touch(mode=0o600)
        atomic.move(tmp_path / "made", tmp_path / "moved")
        atomic.write(tmp_path / "written", "")
        atomic.appending(tmp_path / "log").close()
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("moved", "written", "log")}
    finally:
        os.umask(before)
    assert modes == {0o666 & ~umask}
