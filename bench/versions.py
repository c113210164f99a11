"""The suite with the oldest versions that pyproject.toml allows, with those of constraints.txt, and with the newest there are.

    python -m bench versions --list                                 what would be done, and nothing else
    python -m bench versions                                        all three, each in an environment of its own: hours
    python -m bench versions --only oldest -- tests/engine -k loss  what stands behind -- goes to pytest

The newest are taken from the registry whatever pyproject.toml says, for that is what is to be found out. An environment that is
there already is used again. The result is written as JSON, and as a table beside it (.md), after each combination; what an
earlier call with the same tests on the same machine found of other combinations stays in both.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.flags import make_parser
from bench.machine import RESULTS, ROOT, keep, machine, now, refuse_without_checkout

NAMES = ("oldest", "pinned", "newest")
BOUND = ("torch", "transformers")  # whose oldest versions pyproject.toml promises
SHOWN = ("torch", "transformers", "huggingface_hub", "datasets", "tokenizers", "numpy", "accelerate")
PROJECT = ".[offline,dev]"
ASK = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {SHOWN}}}))"


def installs(name: str) -> list[list[str]]:
    """What pip is told, one call after the other."""
    if name == "pinned":
        return [["-c", "constraints.txt", PROJECT]]
    if name == "newest":
        return [[PROJECT], ["--upgrade", *BOUND]]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floors = {found[1]: found[2] for line in project["dependencies"] if (found := re.match(r"([\w-]+)>=([\d.]+)", line))}
    return [[PROJECT, *(f"{package}=={whole(floors[package])}" for package in BOUND)]]


def whole(version: str) -> str:
    """``2.11`` is the release 2.11.0."""
    return version + ".0" * (2 - version.count("."))


def commands(name: str, python: str, folder: Path, tests: Sequence[str]) -> list[list[str]]:
    """All that is started for a combination, the tests last."""
    inside = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    has_pip = sys.executable if find_spec("pip") else "python3"  # an environment made as the README does has none
    pip = [has_pip, "-m", "pip", "--python", inside, "install", "--quiet"]
    made = [] if Path(inside).exists() else [[python, "-m", "venv", "--without-pip", str(folder)]]
    suite = [inside, "-m", "pytest", "-q", f"--junitxml={folder / 'tests.xml'}", *tests]
    return [*made, *([*pip, *words] for words in installs(name)), suite]


def tried(name: str, python: str, folder: Path, tests: Sequence[str]) -> dict[str, Any]:
    """One combination: versions and what the tests came to, or why they could not be run."""
    began = time.perf_counter()
    row: dict[str, Any] = {"name": name, "python": python, "when": now()}
    *installing, suite = commands(name, python, folder, tests)
    (folder / "tests.xml").unlink(missing_ok=True)
    try:
        row |= {"python": version_of(python)}
    except OSError as error:
        return row | {"error": f"{python}: {error.strerror}"}
    for command in installing:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip() and "notice" not in line]
            return row | {"error": said[-1].replace("|", " ") if said else f"exit code {done.returncode}"}
    asked = subprocess.run([suite[0], "-c", ASK], cwd=ROOT, capture_output=True, text=True, check=True)
    row |= {
        "python": version_of(suite[0]),
        "versions": json.loads(asked.stdout),
        "install_seconds": time.perf_counter() - began,
    }
    began = time.perf_counter()
    code = subprocess.run(suite, cwd=ROOT, check=False).returncode
    row |= {"seconds": time.perf_counter() - began, "exit_code": code}
    return row | (outcome(folder / "tests.xml") if (folder / "tests.xml").exists() else {"error": f"pytest ended with {code}"})


def version_of(python: str) -> str:
    return subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]


def earlier(results: Path, tests: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a result that this call goes on with: the same tests on the same machine."""
    if not results.exists():
        return []
    document = json.loads(results.read_text(encoding="utf-8"))
    same = document["tests"] == list(tests) and document["machine"] == machine()
    return document["rows"] if same else []


def merged(before: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order of NAMES. A row of before goes where its combination was tried again, with the same Python."""
    again = {(row["name"], row["python"]) for row in rows}
    stay = [row for row in before if (row["name"], row["python"]) not in again]
    return sorted([*stay, *rows], key=lambda row: NAMES.index(row["name"]))


def outcome(report: Path) -> dict[str, Any]:
    """Counts, and the tests that failed, of pytest's own report."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = sorted(f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}" for case in failed)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": names}


def table(document: Mapping[str, Any]) -> str:
    """Markdown: a column for each combination, so that a phone shows it, and below it what failed."""
    columns = [["", "python", *SHOWN, "passed", "skipped", "failed", "minutes"]]
    for row in document["rows"]:
        versions = [row.get("versions", {}).get(package, "") for package in SHOWN]
        counts = (
            [row["error"], "", "", ""]
            if "error" in row
            else [f"{row['passed']:,}", f"{row['skipped']:,}", f"{len(row['failed']):,}", f"{row['seconds'] / 60:.1f}"]
        )
        columns.append([row["name"], row["python"], *versions, *counts])
    lines = [f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True)]
    lines.insert(1, "|" + "---|" * len(columns))
    for row in document["rows"]:
        lines += ["", *(f"- {row['name']}: `{name}`" for name in row["failed"])] if row.get("failed") else []
    command = f"`python -m pytest {' '.join(document['tests'])}`".replace(" `", "`")
    return "\n".join([command, "", *lines]) + "\n"


def main(argv: list[str]) -> int:
    argv, tests = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = make_parser("versions", __doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="which combinations")
    parser.add_argument("--pythons", nargs="+", default=[sys.executable], metavar="PYTHON", help="interpreters, by their path")
    parser.add_argument("--folder", type=Path, default=Path(".versions"), help="where the environments are made, some GB each")
    parser.add_argument("--list", action="store_true", help="print what would be done, and end")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "versions.json", help="default: versions.json of bench/results"
    )
    options = parser.parse_args(argv)
    refuse_without_checkout("the suite is run")
    chosen = [(name, python) for python in options.pythons for name in options.only]
    before = earlier(options.results, tests)
    rows: list[dict[str, Any]] = []
    for number, (name, python) in enumerate(chosen):
        folder = options.folder.resolve() / (f"{name}-{number // len(options.only)}" if number >= len(options.only) else name)
        if options.list:
            print(f"{name}:", *(f"  {' '.join(words)}" for words in commands(name, python, folder, tests)), sep="\n")
            continue
        rows.append(tried(name, python, folder, tests))
        document = {"tests": tests, "rows": merged(before, rows)}
        keep(options.results, document)
        options.results.with_suffix(".md").write_text(table(document), encoding="utf-8")
        print(table({**document, "rows": rows[-1:]}))
    return int(any("error" in row or row["exit_code"] for row in rows))
