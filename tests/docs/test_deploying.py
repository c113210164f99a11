"""docs/deploying.md and the Dockerfile: the figures are those measured, the limits those of the flags, the files are there."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from bench.serving import measure
from engine.settings.parser import parse
from tasks import COMMANDS, attribute
from tasks.flags import ServeFlags

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/deploying.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_figures_are_those_measured():
    found = json.loads((ROOT / "bench/results/serve-cpu.json").read_text())
    assert measure.table(found) in PAGE
    assert f"torch {found['versions']['torch']}, transformers {found['versions']['transformers']}" in PAGE
    rates = {name: found["turns"][name]["requests_per_second"] for name in ("serve", "LitServe")}
    assert f"it answers {rates['LitServe'] / rates['serve']:.1f} times as many" in PAGE
    assert found["load"]["failed"] == 0 and found["load"]["largest_difference"] <= 1e-5
    assert found["load"]["memory_mb"]["after"] < found["load"]["memory_mb"]["before"] + 20


def test_the_limits_are_those_of_the_flags():
    defaults = {field.name: field.default for field in dataclasses.fields(ServeFlags)}
    rows = re.findall(r"^\| `--([a-z-]+)`.*? \| ([\d,]+)( MiB)? \|", PAGE, flags=re.MULTILINE)
    assert len(rows) == 6
    for name, number, mib in rows:
        assert int(number.replace(",", "")) << (20 if mib else 0) == defaults[name.replace("-", "_")], name


def test_every_flag_named_is_one():
    known = {field.name for kind in (ServeFlags, attribute(COMMANDS["predict"][0])) for field in dataclasses.fields(kind)}
    others = {
        "build_arg",
        "data_binary",
        "init",
        "rm",
        "gpus",
        "shm_size",
        "target",
        "user",
        "task",
        "lora",
        "enable_lora",
        "lora_modules",
    }  # of docker, curl, vLLM, and of training
    named = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", PAGE)}
    assert named <= known | others, named - known - others


def test_the_container_holds_what_it_copies_and_starts_the_command():
    for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, flags=re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists() and name not in (ROOT / ".dockerignore").read_text().split(), name
    stages = DOCKERFILE.split("\nFROM ")[1:]
    assert [stage.splitlines()[0] for stage in stages] == ["python:3.11-slim AS base", "base AS train", "base AS serve"]
    entries, all_flags = (
        [json.loads(found) for found in re.findall(rf"^{name} (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)]
        for name in ("ENTRYPOINT", "CMD")
    )
    assert entries == [["plainloop"], ["plainloop", "serve"]]
    flags = all_flags[1]
    config, rest = parse(flags, "run.py serve", [ServeFlags], {}, rest="texts")
    assert (config.host, config.port, rest) == ("0.0.0.0", 8000, ["/model"]) and "EXPOSE 8000" in DOCKERFILE
    assert "USER serve" in DOCKERFILE


def test_other_servers_stand_in_the_table_if_they_took_turns():
    found = json.loads((ROOT / "bench/results/serve-cpu.json").read_text())
    turns = found["turns"] | {"FastAPI": found["turns"]["serve"], "LitServe": found["turns"]["serve"]}
    table = measure.table(found | {"turns": turns})
    versions = found["others"]
    assert "The five take turns" in table and f"\n| FastAPI {versions['fastapi']} | " in table
    assert table.rstrip().splitlines()[-1].startswith(f"| LitServe {versions['litserve']} | ")
