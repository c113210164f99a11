"""run.py --version and run.py env: all that a report of a defect needs, and nothing that it must not have."""

from __future__ import annotations

import platform
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from packaging.requirements import Requirement

import run
from engine.commands.environment import without_home
from tests.toys.cli import fails

ROOT = Path(__file__).parent.parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lines_of(capsys, *argv) -> dict[str, str]:
    assert run.main(["env", *argv]) == 0
    pairs = [(line[:24], line[25:]) for line in capsys.readouterr().out.splitlines()]
    return {name.strip(): value.strip() for name, value in pairs}


def test_version_without_torch():
    code = "import sys, run; assert run.main(['--version']) == 0; assert 'torch' not in sys.modules"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = f"Plainloop {PROJECT['version']}, torch {version('torch')}, transformers {version('transformers')}\n"
    assert found.stdout == expected


def test_env_says_what_is_there(capsys, monkeypatch, tmp_path):
    from importlib import metadata

    def without_wandb(name):
        if name == "wandb":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_wandb)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = lines_of(capsys, "--output-dir", str(tmp_path / "not/there"))
    assert found["plainloop"].startswith(PROJECT["version"]) and found["python"].startswith(platform.python_version())
    for name in ("torch", "transformers", "pyyaml", "peft", "pytest"):
        assert found[name] == version(name)
    assert found["wandb"] == "not installed (wandb)" and found["OMP_NUM_THREADS"] == "3"
    text = "\n".join(f"{name} {value}" for name, value in found.items())
    assert torch.backends.cpu.get_cpu_capability() in text and "--precision auto is" in text and "GiB free" in text


def test_env_names_every_dependency(capsys):
    assert run.main(["env"]) == 0
    text = capsys.readouterr().out
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    needed = [Requirement(requirement) for group in groups for requirement in group]
    names = {each.name for each in needed if each.marker is None or each.marker.evaluate()} - {"plainloop"}
    of_others = {each.name for each in needed if each.marker is not None and not each.marker.evaluate()}
    assert not any(line.split()[0] in of_others - names for line in text.splitlines()), "what this system does not need"
    assert len(names) > 20 and all(any(line.split()[0] == name for line in text.splitlines()) for name in names)


def test_env_keeps_secrets_and_the_home_directory(capsys, monkeypatch, tmp_path):
    home = tmp_path / "home/somebody"
    home.mkdir(parents=True)
    for name in ("HF_TOKEN", "WANDB_API_KEY", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hf_" + "s" * 34)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("PLAINLOOP_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(home / "hf\x1b[31m"))
    assert run.main(["env", "--output-dir", str(home / "runs")]) == 0
    text = capsys.readouterr().out
    assert "s" * 34 not in text and str(home) not in text and "\x1b" not in text
    assert "~/runs" in text and "~/.cache/plainloop" in text
    assert without_home(f"{home}body/x {home}/x") == f"{home}body/x ~/x"


def test_env_takes_no_texts(capsys):
    assert fails(["env", "x"], capsys) == (2, "error: env takes no texts, found 'x'")
