"""Pushing a run to a local stand-in for the Hub, through huggingface_hub; pulled back, every byte is the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import engine.data.hub
import run
from bench.toys.hub_server import HubServer
from engine.artifacts.card import without_folders
from engine.artifacts.document import RunDocument
from engine.commands.push import SECRETS, contents_of, secrets_in
from tests.toys.cli import command, fails

ROOT = Path(__file__).parent.parent.parent.parent
TOKEN = "hf_" + "PlantedFakeToken" * 2 + "xy"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub, which this process takes for the real one; it knows TOKEN, which is the user's."""
    with HubServer(tmp_path / "hub") as server:
        server.token = TOKEN
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        constants = {"ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": template}
        for name, value in {**constants, "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False}.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        for name, value in {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        engine.data.hub.reachable.cache_clear()
        yield server
    engine.data.hub.reachable.cache_clear()


@pytest.fixture
def push(capsys):
    """Exit code, stdout and stderr of the command; with --debug, the traceback is the code."""

    def call(run_directory: Path, *more: str):
        capsys.readouterr()
        try:
            code = run.main(["push", "--model", str(run_directory), "--repo", "org/mine", *more])
        except BaseException:
            code = traceback.format_exc()
        out, err = capsys.readouterr()
        return code, out, err

    return call


def refused(result: tuple, code: int, *words: str) -> None:
    lines = result[2].strip().splitlines()
    assert result[0] == code and lines[-1].startswith("error: "), result
    assert all(word in lines[-1] for word in words), lines[-1]


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def test_pushed_and_pulled_is_the_same(project, tmp_path, hub, push, capsys):
    results = [push(project / "run"), push(project / "run")]
    assert results[0][0] == results[1][0] == 0, results
    assert len(hub.commits) == 1, "the second time there is nothing new"
    assert results[0][1].splitlines()[1:] == [
        "not pushed: checkpoints, data-profile.json, metrics.jsonl, report.html",
        f"pushed to {hub.url}/org/mine",
    ]
    pulled = Path(huggingface_hub.snapshot_download("org/mine", cache_dir=tmp_path / "cache"))
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):  # it is private
        huggingface_hub.snapshot_download("org/mine", cache_dir=tmp_path / "other", token=False)
    here, there = digests(project / "run"), digests(pulled)
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "run.json"} <= there.keys()
    assert not {"metrics.jsonl", ".lock"} & there.keys()
    assert [name for name in there if there[name] != here[name]] == ["run.json"]
    documents = [json.loads((folder / "run.json").read_text()) for folder in (project / "run", pulled)]
    assert documents[1] == without_folders(RunDocument.from_json(documents[0])).to_json()
    for path in pulled.iterdir():
        assert str(project).encode() not in path.read_bytes(), f"{path.name} names a folder of this machine"

    capsys.readouterr()
    assert run.main(["predict", "--model", str(pulled), "w0 w7"]) == 0, "what was pulled is a run like any other"
    assert run.main(["predict", "--model", str(project / "run"), "w0 w7"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    for text in [text for result in results for text in result[1:]] + [str(hub.commits)]:
        assert TOKEN not in text


def test_a_second_push_takes_away_what_is_no_longer_there(project, tmp_path, hub, push):
    directory = with_files(project, tmp_path / "run", "merges.txt", "1_Pooling/config.json")
    assert push(directory, "--with-metrics")[0] == 0
    there = tmp_path / "hub/models/org/mine"
    assert (there / "1_Pooling/config.json").read_text() == "1_Pooling/config.json"
    (there / "notes.md").write_text("not ours")
    assert {"merges.txt", "metrics.jsonl"} <= digests(there).keys()
    (tmp_path / "old").mkdir()
    assert push(with_files(project, tmp_path / "old/run"))[0] == 0
    assert "merges.txt" not in digests(there) and "notes.md" in digests(there)
    assert not (there / "1_Pooling/config.json").exists()


def with_files(project: Path, directory: Path, *names: str) -> Path:
    """A copy of the run whose model consists of these files, too."""
    shutil.copytree(project / "run", directory, ignore=shutil.ignore_patterns("checkpoints"))
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    document = json.loads((directory / "run.json").read_text())
    document["files"] |= {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    (directory / "run.json").write_text(json.dumps(document))
    return directory


def test_what_the_task_has_saved_is_pushed_whatever_it_is_called(project, tmp_path, hub, push):
    """And nothing else: not a file that lies there, too, and looks like one of a model."""
    directory = with_files(project, tmp_path / "run", "heads/a/weights.safetensors", "notes.of-the-task")
    (directory / "vocab.txt").write_text("of somebody else")
    code, said, error = push(directory)
    assert code == 0, error
    assert said.splitlines()[1] == "not pushed: data-profile.json, metrics.jsonl, report.html, vocab.txt"
    there = tmp_path / "hub/models/org/mine"
    for name in ("heads/a/weights.safetensors", "notes.of-the-task"):
        assert (there / name).read_text() == name
    assert not (there / "vocab.txt").exists()


@pytest.mark.parametrize("how", ["gone", "link", "link to a folder", "outside", "changed", "README"])
def test_a_listed_file_that_is_not_one_of_the_directory_is_refused(project, tmp_path, hub, push, how):
    """run.json may have come from anybody, and the links with it: nothing of the rest of the disk is pushed."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key.txt").write_text("mine")
    directory = with_files(project, tmp_path / "run", "part/key.txt")
    (directory / "part/key.txt").unlink()
    words = ["part/key.txt is not there, and it is part of what is pushed"]
    if how == "link":
        (directory / "part/key.txt").symlink_to(tmp_path / "secret/key.txt")
        words = ["part/key.txt is a link, and it is part of what is pushed"]
    elif how == "link to a folder":
        (directory / "part").rmdir()
        (directory / "part").symlink_to(tmp_path / "secret")
        words = ["part/key.txt is a link, and it is part of what is pushed"]
    elif how == "changed":
        (directory / "part/key.txt").write_text("the names of my customers")
        words = ["part/key.txt is changed since it was saved"]
    elif how == "README":
        (directory / "part/key.txt").write_text("part/key.txt")
        (directory / "README.md").unlink()
        (directory / "README.md").symlink_to(tmp_path / "secret/key.txt")
        words = ["README.md is a link"]
    elif how == "outside":
        text = (directory / "run.json").read_text()
        (directory / "run.json").write_text(text.replace("part/key.txt", "../secret/key.txt"))
        words = ["run.json is not a run's", "files cannot hold '../secret/key.txt'"]
    refused(push(directory), 2, *words)
    assert not hub.commits


def test_a_run_of_an_older_version_has_no_list(project, tmp_path, hub, push):
    """What goes is then known by its name, the folders of sentence-transformers among it."""
    directory = with_files(project, tmp_path / "run", "2_Dense/config.json", "other/config.json")
    document = json.loads((directory / "run.json").read_text())
    del document["files"]
    (directory / "run.json").write_text(json.dumps(document))
    expected = {"README.md", "config.json", "model.safetensors", "run.json", "tokenizer.json", "tokenizer_config.json"}
    assert contents_of(directory, with_metrics=False)[0].keys() == expected | {"2_Dense/config.json"}
    assert push(directory)[0] == 0
    assert (tmp_path / "hub/models/org/mine/2_Dense/config.json").exists()


TRAIN_AND_PULL = """
import sys, run
from transformers import AutoModelForSequenceClassification
assert run.main(sys.argv[2:]) == 0
AutoModelForSequenceClassification.from_pretrained("org/mine").save_pretrained(sys.argv[1])
"""


@pytest.mark.slow
def test_training_pushes_when_it_has_ended(project, tmp_path, hub):
    """A process of its own, whose environment names Hub and token, pulls the same weights; no file holds the token."""
    arguments = [*command(project), "--output-dir", str(tmp_path / "run"), "--push-to-hub", "org/mine"]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    whole = [sys.executable, "-c", TRAIN_AND_PULL, str(tmp_path / "pulled"), *arguments]
    result = subprocess.run(whole, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"pushed to {hub.url}/org/mine"
    assert (tmp_path / "hub/models/org/mine/.private").exists()
    pushed, pulled = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "pulled"))
    assert pushed.keys() == pulled.keys() and all(torch.equal(pushed[name], pulled[name]) for name in pushed)
    assert TOKEN not in result.stdout + result.stderr
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        assert TOKEN.encode() not in path.read_bytes(), path


def test_what_is_refused_before_training(project, tmp_path, hub, monkeypatch, capsys):
    arguments = [*command(project), "--output-dir", str(tmp_path / "run"), "--push-to-hub"]
    code, line = fails([*arguments, "a/b/c"], capsys)
    assert code == 2 and "'a/b/c' is no name" in line
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    code, line = fails([*arguments, "org/mine"], capsys)
    assert code == 2 and "hf auth login" in line and "HF_TOKEN" in line
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    engine.data.hub.reachable.cache_clear()
    code, line = fails([*arguments, "org/mine"], capsys)
    assert code == 6 and "http://127.0.0.1:9 is not reachable" in line
    assert not (tmp_path / "run").exists() and not hub.commits


def test_what_the_hub_refuses_is_one_line_without_the_token(project, tmp_path, hub, push, monkeypatch):
    hub.token = "hf_another"
    results = [push(project / "run"), push(project / "run", "--debug")]
    refused(results[0], 2, "does not accept your token", "hf auth login")
    assert "HfHubHTTPError" in results[1][0]
    hub.token, hub.read_only = TOKEN, True
    results.append(push(project / "run"))
    refused(results[-1], 2, "may not write to org/mine")
    hub.read_only = False
    (tmp_path / "hub/models/org/mine").mkdir(parents=True)
    results.append(push(project / "run"))
    refused(results[-1], 2, "org/mine is on the Hub already, and public: give --public")
    assert push(project / "run", "--public")[0] == 0
    hub.status = 500
    results.append(push(project / "run"))
    refused(results[-1], 6, "500")
    hub.status = None
    monkeypatch.setenv("HF_TOKEN", TOKEN + "é")  # a header that cannot be sent
    results += [push(project / "run", *more) for more in ([], ["--debug"])]
    refused(results[-2], 6, "the push to org/mine failed (UnicodeEncodeError")
    assert "ResourceError" in results[-1][0]
    for result in results:
        assert TOKEN not in " ".join(map(str, result))


def test_an_unfinished_run_is_refused(project, tmp_path, hub, push):
    document = json.loads((project / "run/run.json").read_text())
    (tmp_path / "run").mkdir()
    refused(push(tmp_path / "run"), 2, "holds no finished run")
    (tmp_path / "run/run.json").write_text(json.dumps(document | {"status": "running"}))
    refused(push(tmp_path / "run"), 2, "holds no finished run")
    assert not hub.requests


PLANTED = {
    "a Hugging Face token": "hf_" + "a1B2" * 9, "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "an AWS access key": "AKIA" + "Z7" * 8, "a GitHub token": "ghp_" + "c3D4" * 9, "a GitLab token": "glpat-" + "c3D4" * 5,
    "a Google key": "AIza" + "c3D4-" * 7, "an OpenAI or Anthropic key": "sk-proj-" + "c3D4" * 9,
    "a Slack token or address": "xoxb-" + "1234-" * 4, "a Stripe key": "sk_live_" + "c3D4" * 6,
    "a SendGrid key": "SG." + "c3D4" * 5 + "." + "e5F6" * 10, "a token of npm or PyPI": "npm_" + "c3D4" * 9,
    "a JSON web token": "eyJ" + "a1B2" * 4 + ".eyJ" + "c3D4" * 4 + "." + "e5F6" * 4,
    "an Azure account key": "AccountKey=" + "c3D4" * 20 + "==",
    "a token of Discord, Telegram, Twilio, Mailchimp or Square": "110201543:AA" + "c3D4-" * 6 + "abc", "a password in an address": "postgres://me:hunter22@db/x",
    "a password or key": "aws_secret_access_key = " + "c3D4/" * 8,
}  # fmt: skip


def test_every_kind_of_secret_has_its_plant_and_is_on_the_page():
    assert PLANTED.keys() == SECRETS.keys()
    page = " ".join((ROOT / "docs/sharing.md").read_text().split())
    assert all(kind in page for kind in [*SECRETS, "your token of the Hub"])


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("name", ["tokenizer_config.json", "run.json", "README.md"])
def test_a_planted_secret_is_found_and_not_shown(project, tmp_path, kind, name, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = tmp_path / "run"
    shutil.copytree(project / "run", run, ignore=shutil.ignore_patterns("checkpoints"))
    assert contents_of(run, with_metrics=True)[1] == []
    document = json.loads((run / "run.json").read_text())
    if name == "run.json":
        document["settings"]["label_names"] = PLANTED[kind]
        (run / name).write_text(json.dumps(document))
    else:
        (run / name).write_text(f"one\ntwo {PLANTED[kind]}\n")
        if name in document["files"]:  # as if it had been saved so
            document["files"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
            (run / "run.json").write_text(json.dumps(document))
    [reason] = contents_of(run, with_metrics=True)[1]
    assert re.match(f"{name} line \\d+ looks like {kind}", reason) and PLANTED[kind] not in reason


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_in_the_header_of_the_weights_is_found(tmp_path, kind):
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"note": PLANTED[kind]})
    [reason] = secrets_in({"model.safetensors": tmp_path / "model.safetensors"})
    assert reason.startswith(f"model.safetensors line 1 looks like {kind}")


def test_what_is_no_secret_is_let_through():
    """Words of a vocabulary, and what a card and a tokenizer say."""
    lines = ['"password": 20786, "secret": 3595, "token": 19204, "api": 17928', "the password is: unknown", "risk-of-a-loss-of-the-model-and-more",
             "https://huggingface.co/org/name:latest", "tokenizer: a token = a word", '"private_key": null']  # fmt: skip
    assert secrets_in({"tokenizer.json": "\n".join(lines).encode()}) == []


def test_what_only_looks_like_a_part_of_an_older_run_stays(project, tmp_path, hub):
    """Without a list the names decide, and the user's own files have others."""
    directory = with_files(project, tmp_path / "run")
    for name in (
        "vocab_of_my_customers.csv",
        "patient_sentences.json",
        "customer_vectors.safetensors",
        "tokenizer_training_texts.txt",
    ):
        (directory / name).write_text("mine")
    document = json.loads((directory / "run.json").read_text())
    expected = {*document["files"], "README.md", "run.json"}
    assert contents_of(directory, with_metrics=False)[0].keys() == expected
    del document["files"]
    (directory / "run.json").write_text(json.dumps(document))
    assert contents_of(directory, with_metrics=False)[0].keys() == expected
    (directory / "merges.txt").symlink_to("/etc/passwd")
    assert "merges.txt is a link" in contents_of(directory, with_metrics=False)[1][0]


def test_the_home_directory_is_left_out_and_names_cannot_drive_the_terminal(project, tmp_path, hub, push, monkeypatch):
    directory = with_files(project, tmp_path / "run", "heads/\x1b[2Jw.bin")
    home = tmp_path / "hömé"
    monkeypatch.setenv("HOME", str(home))
    document = json.loads((directory / "run.json").read_text())
    document["settings"]["label_names"] = f"see {home}/secret and {home}"
    (directory / "run.json").write_text(json.dumps(document))
    code, said, error = push(directory)
    assert code == 0 and "\x1b" not in said + error
    there = json.loads((tmp_path / "hub/models/org/mine/run.json").read_text())
    assert there["settings"]["label_names"] == "see ~/secret and ~"


def test_the_token_in_use_is_found_whatever_it_looks_like(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of-another-kind")
    [reason] = secrets_in({"vocab.txt": b"one\ntwo of-another-kind\nof-another-kind"})
    assert reason.startswith("vocab.txt line 2 looks like your token of the Hub")


@contextmanager
def no_network():
    """Nobody can be asked, and whoever tries is told."""

    def asked(*_, **__):
        raise AssertionError("an address was asked")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("socket.socket.connect", "socket.socket.connect_ex", "socket.socket.sendto", "socket.getaddrinfo"):
            patch.setattr(name, asked)
        yield


def test_a_dry_run_lists_what_the_push_sends_and_asks_nobody(project, tmp_path, hub, push):
    directory = with_files(project, tmp_path / "run", "heads/\x1b[2Jw.bin")
    with no_network():
        code, out, err = push(directory, "--dry-run", "--with-metrics")
    assert code == 0 and "\x1b" not in out + err, err
    lines = out.splitlines()
    listed = {line.split(maxsplit=4)[4]: (line.split()[0], line.split()[3]) for line in lines if line.startswith("  ")}
    assert push(directory, "--with-metrics")[0] == 0
    there = tmp_path / "hub/models/org/mine"
    sent = {path.relative_to(there).as_posix().replace("\x1b", " "): path.read_bytes() for path in there.rglob("*")
            if path.is_file() and not path.name.startswith(".")}  # fmt: skip
    assert listed == {name: (f"{len(content):,}", hashlib.sha256(content).hexdigest()) for name, content in sent.items()}
    assert (
        lines[0] == f"would push {len(sent)} files to org/mine:" and lines[-2] == "not pushed: data-profile.json, report.html"
    )
    assert lines[-1] == "nothing was sent, and nobody was asked: --dry-run"


def test_a_dry_run_lists_every_reason_to_refuse(project, tmp_path, capsys):
    directory = with_files(project, tmp_path / "run", "one.txt", "two.txt", "three.txt")
    (directory / "one.txt").unlink()
    (directory / "two.txt").write_text("changed")
    (directory / "README.md").write_text(f"my key: {PLANTED['a GitHub token']}\n")
    with no_network():
        code, line = fails(["push", "--model", str(directory), "--dry-run"], capsys)
    assert code == 2 and "the push would be refused, for 3 reasons (the first: " in line
    assert run.main(["push", "--model", str(directory), "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert "to the repository that --repo names" in out and PLANTED["a GitHub token"] not in out
    refused_lines = [line for line in out.splitlines() if line.startswith("refused: ")]
    assert [
        any(word in line for line in refused_lines)
        for word in ("one.txt is not there", "two.txt is changed", "README.md line 1 looks")
    ] == [True] * 3
    assert "three.txt" in out and len(refused_lines) == 3
    for more in ([], ["--repo", "a/b/c"]):
        code, line = fails(["push", "--model", str(project / "run"), *more, *["--dry-run"] * bool(more)], capsys)
        assert code == 2 and ("must name a repository" in line or "no name for a repository" in line)
