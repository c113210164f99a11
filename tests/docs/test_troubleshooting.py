"""docs/troubleshooting.md: each line that it shows is a message of the code, some are made, its commands are commands."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from itertools import islice, product
from pathlib import Path

import pytest

from bench.bad_input.case import Place, Result, call, make_home
from bench.bad_input.rows import ROWS
from engine.config import TrainConfig
from engine.data.sources import SourceConfig
from engine.settings.parser import parse, parse_command
from tasks import COMMANDS, TASKS, attribute, flags_of

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
LEAST = 9  # letters of a message that are not filled in
LONG = 50  # characters that are filled in, which are then a message themselves
FIGURES = re.compile(r"(?:(?:\w+ -?[\d.]+%?|[\d.]+ s \w+)(?:[,;] )?)+")  # a list of them is filled in
HEAD, TAIL = 8, 30  # characters that such a message may have around it


def lines_in(text: str) -> list[str]:
    """What the product prints, of the blocks of a text."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for kind, block in blocks if kind != "bash" for line in block.splitlines() if line.strip() not in ("", "...")]


def texts_of(node: ast.expr) -> list[list[str | None]]:
    """What a text in the code may be: literal parts, and None for each that is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        pieces = node.value.replace("`", "").split("{}")  # of Markdown, and of str.format
        return [[part for piece in pieces for part in (piece, None)][:-1]]
    if isinstance(node, ast.IfExp):
        return [*texts_of(node.body), *texts_of(node.orelse)]
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.IfExp):
        return texts_of(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [texts_of(value) for value in node.values]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [texts_of(node.left), texts_of(node.right)]
    else:
        return [[None]]
    return [[part for text in texts for part in text] for texts in islice(product(*parts), 64)]


@cache
def messages() -> list[re.Pattern[str]]:
    """Every text of the product that says something, as a pattern."""
    found = set()
    for path in [*ROOT.glob("engine/**/*.py"), *ROOT.glob("tasks/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for parts in texts_of(node) if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) else []:
                if sum(len(re.sub(r"[^a-z]", "", part)) for part in parts if part) >= LEAST:
                    found.add("".join("(.*?)" if part is None else re.escape(part.strip("\n")) for part in parts))
    return [re.compile(pattern) for pattern in found]


@cache
def patterns_of(line: str) -> list[re.Pattern[str]]:
    """The messages that this line may be; what is filled in and long is one itself."""
    bare = re.sub(r"\s+engine/\S+\.py: \S+$", "", line.strip())  # where --explain has a number from
    spellings = {bare, bare.removeprefix("error: "), bare.removeprefix("advice: "), re.sub(r"^[a-z]+ {2,}", "", bare)}
    found = [(each, found) for spelling in spellings for each in messages() if (found := each.fullmatch(spelling))]
    return [each for each, match in found if all(map(is_filled_in, match.groups()))]


def is_filled_in(text: str) -> bool:
    """A name, a number, a path; or if it is long a message, with a little before and behind it."""
    if len(text) < LONG or " " not in text or FIGURES.fullmatch(text):
        return True
    return any(patterns_of(text[head : len(text) - tail]) for head in range(HEAD) for tail in range(TAIL))


@pytest.mark.parametrize("line", lines_in(PAGE))
def test_every_line_is_a_message_of_the_code(line):
    assert patterns_of(line), line


def test_a_line_that_the_code_does_not_say_is_noticed():
    """Each line with a word replaced: one of its words at least, and two thirds of the two longest, are words of the code."""
    noticed = tried = 0
    for line in lines_in(PAGE):
        words = sorted(re.finditer(r"\b[a-z]{3,}\b", line), key=lambda found: -len(found[0]))
        changed = [f"{line[: word.start()]}zebras{line[word.end() :]}" for word in words]
        assert any(not patterns_of(each) for each in changed), line
        noticed, tried = noticed + sum(not patterns_of(each) for each in changed[:2]), tried + len(changed[:2])
    assert noticed > tried * 2 / 3, (noticed, tried)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home"))


MADE = {  # heading: rows of the table of bad inputs, which print what is shown there
    "The loss is NaN, or jumps": ["103", "105"],
    "Out of memory": ["95"],
    "It runs on the CPU": ["91"],
    "Resuming is refused": ["81"],
    "A checkpoint is damaged": ["85", "86", "87"],
    "The disk is full": ["89"],
    "The output directory is taken": ["77", "80", "88"],
    "A flag is not known": ["1"],
    "Labels are unknown or shifted": ["48", "49", "54"],
    "A process that loads data dies or hangs": ["96"],
}


@pytest.mark.parametrize(("heading", "number"), [(heading, number) for heading, numbers in MADE.items() for number in numbers])
def test_what_is_shown_is_what_happens(heading, number, home, tmp_path):
    """The first command line of the row prints a line of the same message as one under the heading."""
    row = next(row for row in ROWS if row.number == number)
    attempts = row.attempts(Place(home, tmp_path))
    first = next(attempts)
    result = first if isinstance(first, Result) else call(first)
    attempts.close()
    wanted = {each for line in lines_in(SECTIONS[heading]) for each in patterns_of(line)}
    said = (result.out + result.err).replace(f"{tmp_path}/", "").replace(f"{home}/", "").splitlines()
    assert any(row.words in line and wanted & {*patterns_of(line)} for line in said), said


def test_each_entry_is_in_the_table_once_and_says_what_it_is_about():
    table = re.findall(r"\| \[(.*?)\]\(#(.*?)\) \|$", PAGE.partition("\n## ")[0], re.MULTILINE)
    assert [name for name, _ in table] == sorted(SECTIONS, key=[name for name, _ in table].index) and len(table) == len(
        SECTIONS
    )
    for name, anchor in table:
        assert anchor == re.sub(r"[^a-z0-9 -]", "", name.lower()).replace(" ", "-")


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("line", commands())
def test_every_command_is_one(line):
    program, *words = shlex.split(line)
    if program != "python":
        assert program in ("curl",), program
        return
    assert words.pop(0) == "run.py"
    if words[0] in COMMANDS:
        kind = attribute(COMMANDS[words[0]][0])
        parse_command(words[1:], f"run.py {words[0]}", kind)
        words = parse_command(words[1:], f"run.py {words[0]}", kind)[1] if getattr(kind, "beside_training", False) else []
    if "--task" in words:
        name = words[words.index("--task") + 1]
        assert name in TASKS
        flags, defaults = flags_of(name)
        parse(words, f"run.py --task {name}", [TrainConfig, SourceConfig, flags], defaults)


def test_every_flag_named_is_one():
    kinds = [TrainConfig, SourceConfig, *(flags_of(name)[0] for name in TASKS), *(attribute(c[0]) for c in COMMANDS.values())]
    known = {name for kind in kinds for name in kind.__dataclass_fields__} | {"config", "help", "version"}
    others = {"shm_size", "local_dir", "lr"}  # of docker and of hf; and one that there is not
    prose = re.sub(r"^```(?:console)?\n.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", prose)} - known <= others
