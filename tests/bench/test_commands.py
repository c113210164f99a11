"""``python -m bench NAME``: one door to all measurements, and what the pages name is behind it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import COMMANDS, chosen, listing, main
from bench.flags import make_parser, one_of

ROOT = Path(__file__).parent.parent.parent
SUBPROCESSES = {
    "bench.__main__",
    "bench.contest.worker",
    "bench.serving.fastapi_app",
    "bench.serving.litserve_app",
    "bench.serving.one_by_one",
}  # the door itself, and what others start
BENCH = {".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text() for path in ROOT.glob("bench/**/*.py")}


def test_help_needs_no_torch():
    code = """
import sys
from bench.__main__ import COMMANDS, main
assert main(["--help"]) == 0
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert end.code == 0, name
    else:
        raise AssertionError(name)
    assert "torch" not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert listing() in shown and all(f"\n  {name} " in listing() for name in COMMANDS)
    assert all(f"usage: python -m bench {name} " in shown for name in COMMANDS)


def test_the_door_is_a_program_of_its_own():
    done = subprocess.run([sys.executable, "-m", "bench", "kil"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown name 'kil': did you mean kill? (python -m bench --help)\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["xyz"], "unknown name 'xyz': there are: compare, levers, "),
        (["kill", "rondom"], "'rondom' is none of random, points, controls, optimizers, phases, imdb"),
        (
            ["kill", "--kils", "3"],
            "unknown argument '--kils': did you mean --kills? (python -m bench kill --help shows the flags)",
        ),
        (["parity", "stars"], "stars needs --file"),
        (["steps"], "--task is needed, as in run.py"),
        (["steps", "--task", "imdb", "--epohcs", "2"], "did you mean --epochs?"),
        (["--trakc", "S"], "unknown argument '--trakc': did you mean --track?"),
        (["gpu", "sam"], "invalid choice: 'sam'"),
        (["--rows", "0"], "argument --rows: must be a whole number of at least 1, found '0'"),
        (["--windows", "1.5"], "argument --windows: must be a whole number of at least 1, found '1.5'"),
        (["--budget", "nan"], "argument --budget: must be a number of at least 0, found 'nan'"),
        (["matmul", "--sizes", "64", "-1"], "argument --sizes: must be a whole number of at least 1, found '-1'"),
        (["attention", "--rounds", "0"], "argument --rounds: must be a whole number of at least 1"),
        (["export", "--batches", "0"], "argument --batches: must be a whole number of at least 1"),
        (["serve", "--turns", "0"], "argument --turns: must be a whole number of at least 1"),
        (["kill", "--kills", "-1"], "argument --kills: must be a whole number of at least 0"),
        (["steps", "--warmup", "0", "--task", "imdb"], "argument --warmup: must be a whole number of at least 1"),
        (["steps", "--task", "imdb", "--profile", "3"], "--profile is run.py's: this measures a window of steps"),
        (["tokens", "texts", "--data", "random"], "texts: name a file that ends in .npz, by which --tokens knows it"),
        (["plot", "--results", "nowhere.json"], "--results nowhere.json: there is no such file"),
        (["--model", "random:tiny"], "--model random:tiny has no tokenizer for the texts of imdb: give --tokens FILE.npz, or"),
        (["--model", "random:none", "--data", "random"], "--model random:none: there are random:bert, "),
        (
            ["levers", "--model", "random:tiny", "--data", "random"],
            "--model random:tiny has 64 positions: give it --max-length 64",
        ),
        (
            ["--track", "LM", "--model", "random:tiny-gpt2"],
            "--model random:tiny-gpt2 has 64 positions: give it --max-length 64",
        ),
        (["gpu", "correctness", "--only", "none", "--device", "cpu"], "--only 'none': there are 'attention_dropout', "),
        (
            ["gpu", "launches", "--modes", "graphs", "--device", "cpu"],
            "--modes 'graphs': there are 'padded', 'packed', 'packed, graphs', ",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(argv, words, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert (
        [line for line in out.splitlines() if not line.startswith("# ")] == []
        and err.count("\n") == 1
        and err.startswith("error: ")
        and words in err
    ), err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], ("compare", [])),
        (["--quick"], ("compare", ["--quick"])),
        (["-h"], (None, [])),
        (["--gpu"], ("gpu", [])),
        (["--gpu", "same", "--tokens", "t"], ("gpu", ["same", "--tokens", "t"])),
        (["--tokens", "t", "--gpu=same"], ("gpu", ["same", "--tokens", "t"])),
        (["--matmul-sizes", "32", "--gpu", "kernels"], ("gpu", ["kernels", "--matmul-sizes", "32"])),
        (["kill", "--help"], ("kill", ["--help"])),
    ],
)
def test_what_is_chosen(argv, expected):
    assert chosen(argv) == expected


def test_every_main_has_its_name_and_no_other_way_in():
    """And no module runs by itself: the way in is one."""
    mains = {
        module for module, text in BENCH.items() if any(getattr(node, "name", "") == "main" for node in ast.parse(text).body)
    }
    assert mains - SUBPROCESSES == {module for module, _ in COMMANDS.values()}
    assert {module for module, text in BENCH.items() if re.search(r"^if __name__", text, flags=re.MULTILINE)} == SUBPROCESSES


def test_root_and_results_are_written_down_once():
    for module, text in BENCH.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("ROOT", "RESULTS"):
                assert module == "bench.machine", module


def unknown(text: str) -> list[str]:
    """What stands behind ``python -m bench`` and is no name."""
    found = re.findall(r"python -m bench\b(\.[a-z_][\w.]*)?(?: ([A-Za-z-]+))?", text)
    return [
        module or name for module, name in found if module or not (name in COMMANDS or name == "NAME" or name[:1] in ("", "-"))
    ]


TEXTS = [
    ROOT / "README.md",
    *ROOT.glob("docs/*.md"),
    *(path for room in ("engine", "tasks", "bench", "tests") for path in ROOT.glob(f"{room}/**/*.py")),
]


def test_what_the_texts_name_is_a_command():
    for path in TEXTS:
        if path not in (Path(__file__), ROOT / "bench/contest/worker.py"):
            assert unknown(path.read_text(encoding="utf-8")) == [], path
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert unknown(re.sub(r"What was .*? is now", "", changelog, flags=re.DOTALL)) == []


def test_the_search_for_names_finds_one_that_is_none():
    text = "`python -m bench.kill` and `python -m bench kil`, not `python -m bench kill`, `python -m bench` or `python -m bench --gpu`."
    assert unknown(text) == [".kill", "kil"]


def test_the_help_keeps_its_lines_and_flags_are_not_abbreviated():
    parser = make_parser("x", "One.\n\n    two\n    three")
    parser.add_argument("--number", type=int)
    parser.add_argument("parts", nargs="*", type=one_of(("a", "b")))
    assert "    two\n    three\n" in parser.format_help()
    with pytest.raises(ValueError, match="unknown argument '--num': did you mean --number"):
        parser.parse_args(["--num", "1"])
    assert parser.parse_args([]).parts == [] and parser.parse_args(["a", "a"]).parts == ["a", "a"]
