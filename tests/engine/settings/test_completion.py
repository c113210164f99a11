"""The script that completes flags, as a shell uses it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

import run
from tasks import COMMANDS, TASKS
from tests.toys.cli import fails

ASKED = {  # what is typed up to the tab key: what is offered
    "plainloop --ta": {"--task", "--target-column", "--target-lang"}, "plainloop --task im": {"imdb", "image-classification"}, "plainloop pred": {"predict"},
    "plainloop predict --inp": {"--input"}, "plainloop --optimizer a": {"adamw", "adafactor"}, "plainloop --task x --star": {"--stars"},
    "plainloop --print-completion z": {"zsh"},
}  # fmt: skip


def script(shell, capsys):
    capsys.readouterr()
    assert run.main(["--print-completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_offers_tasks_commands_flags_and_values(capsys, tmp_path):
    (tmp_path / "script").write_text(script("bash", capsys))
    lines = [f"source {tmp_path / 'script'}"]
    for typed in ASKED:
        lines += [f"COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=(); _shtab_plainloop",
                  'echo "${COMPREPLY[@]}"']  # fmt: skip
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert [set(line.split()) for line in done.stdout.splitlines()] == list(ASKED.values())


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_of_another_shell_names_all_and_is_read_by_it(capsys, tmp_path, shell):
    text = script(shell, capsys)
    assert all(name in text for name in (*TASKS, *COMMANDS, "learning-rate", "stars"))
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, capture_output=True)


def test_what_cannot_be_printed_is_said(capsys, monkeypatch):
    line = "error: --print-completion takes bash, zsh or fish, found "
    assert fails(["--print-completion", "tcsh"], capsys) == (2, line + "'tcsh'")
    assert fails(["--print-completion"], capsys) == (2, line + "''")
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, line = fails(["--print-completion", "bash"], capsys)
    assert (code, line) == (
        2,
        "error: --print-completion needs the package shtab: pip install -c constraints.txt '.[completion]'",
    )
