"""``python -m bench versions``: what is installed for each combination, and what is read out of pytest's report."""

from __future__ import annotations

import json
import sys
import venv
from pathlib import Path

from bench import versions
from bench.__main__ import main


def test_what_is_installed(tmp_path, capsys):
    """The floors of pyproject.toml; the constraints; the newest, whatever pyproject.toml says of them. --list does nothing."""
    folder = tmp_path / "environments"
    assert main(["versions", "--list", "--folder", str(folder), "--", "-k", "loss"]) == 0
    said = capsys.readouterr().out
    assert "install --quiet .[offline,dev] torch==2.11.0 transformers==5.17.0\n" in said
    assert "install --quiet -c constraints.txt .[offline,dev]\n" in said
    assert "install --quiet --upgrade torch transformers\n" in said
    assert said.count(" -m pytest -q --junitxml=") == said.count("tests.xml -k loss\n") == 3 and not folder.exists()
    assert main(["versions", "--only", "older"]) == 2


def test_a_suite_is_run_and_told(tmp_path, monkeypatch, capsys):
    """In an environment that is there already, with this one's packages: one test passes, one fails, one is left out."""
    folder, suite = tmp_path / "environments", tmp_path / "suite"
    venv.create(folder / "oldest", with_pip=False)
    [site] = (folder / "oldest").glob("lib/python*/site-packages")
    (site / "others.pth").write_text("\n".join(path for path in sys.path if Path(path).name == "site-packages"))
    suite.mkdir()
    (suite / "test_x.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n@pytest.mark.skip\ndef test_c(): pass\n"
    )
    monkeypatch.setattr(versions, "installs", lambda name: [])
    results = tmp_path / "versions.json"
    words = [
        "--only",
        "oldest",
        "--folder",
        str(folder),
        "--results",
        str(results),
        "--",
        "-c",
        "/dev/null",
        "--rootdir",
        str(suite),
    ]
    assert main(["versions", *words, str(suite)]) == 1
    [row] = json.loads(results.read_text())["rows"]
    assert (row["passed"], row["skipped"], row["failed"], row["exit_code"]) == (1, 1, ["test_x.py::test_b"], 1)
    lines = results.with_suffix(".md").read_text().splitlines()
    assert lines[2:6] == [
        "|  | oldest |",
        "|---|---|",
        f"| python | {sys.version.split()[0]} |",
        f"| torch | {row['versions']['torch']} |",
    ]
    assert {f"| {what} | 1 |" for what in ("passed", "skipped", "failed")} <= set(lines)
    assert lines[-1] == "- oldest: `test_x.py::test_b`"


def test_what_cannot_be_installed_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "installs", lambda name: [["no-such-package-of-ours==9", "--no-index"]])
    results = tmp_path / "versions.json"
    words = [
        "--only",
        "newest",
        "--pythons",
        "/no/python",
        sys.executable,
        "--folder",
        str(tmp_path / "e"),
        "--results",
        str(results),
    ]
    assert main(["versions", *words]) == 1
    first, second = json.loads(results.read_text())["rows"]
    assert "/no/python" in first["error"] and "no-such-package-of-ours" in second["error"]
    assert "no-such-package-of-ours" in results.with_suffix(".md").read_text()


def test_several_calls_make_one_table(tmp_path, monkeypatch):
    """A combination that is tried again is replaced, others stay; other tests, or another machine, begin anew."""
    monkeypatch.setattr(versions, "tried", lambda name, python, folder, tests: {"name": name, "python": python, "error": turn})
    results = tmp_path / "versions.json"

    def told(*words):
        main(["versions", "--pythons", "3.11", "--results", str(results), *words])
        table = results.with_suffix(".md").read_text()
        for head, key in (("", "name"), ("python", "python"), ("passed", "error")):
            assert f"| {head} | {' | '.join(row[key] for row in rows())} |" in table
        return [(row["name"], row["error"]) for row in rows()]

    def rows():
        return json.loads(results.read_text())["rows"]

    turn = "first"
    assert told("--only", "newest") == [("newest", "first")]
    turn = "second"
    assert told("--only", "oldest") == [("oldest", "second"), ("newest", "first")]
    turn = "third"
    assert told("--only", "newest") == [("oldest", "second"), ("newest", "third")]
    assert told("--only", "newest", "--", "-k", "loss") == [("newest", "third")]
    assert told("--only", "oldest") == [("oldest", "third")]
    monkeypatch.setattr(versions, "machine", lambda: {"processor": "another"})
    assert told("--only", "pinned") == [("pinned", "third")]
