"""Uploading a finished run to the Hub: one commit of what others need to use the model, and of nothing else.

What goes: the files that the model was saved as, which run.json lists with their hashes, the card and run.json. Each of these
is searched for secrets first, a safetensors file in its header. The token is huggingface_hub's business: it is read from
HF_TOKEN or from what ``hf auth login`` has stored, and appears nowhere here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.artifacts.card import without_folders
from engine.artifacts.directory import MODEL_FILE, is_finished, read_run
from engine.artifacts.document import dumps
from engine.checkpoint.store import sha256
from engine.commands.environment import without_home
from engine.commands.flags import PushConfig
from engine.console import counted, is_main_process, say
from engine.data import hub
from engine.errors import ResourceError, UsageError
from engine.installed import program
from engine.model import lora
from engine.settings.fields import user_path

MOST_HEADER = 100 << 20  # bytes; safetensors refuses more
SECRETS = {  # what each issuer's page says of the form; the last one is a word with a value behind it, in any language
    "a Hugging Face token": rb"\b(hf|api_org)_[A-Za-z0-9]{30,}",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY",
    "an AWS access key": rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": rb"\b(gh[pousr]|github_pat)_[A-Za-z0-9_]{30,}",
    "a GitLab token": rb"\bgl[a-z]{1,6}-[A-Za-z0-9_-]{20,}",
    "a Google key": rb"\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{20,}|\bGOCSPX-[A-Za-z0-9_-]{20,}",
    "an OpenAI or Anthropic key": rb"\bsk-[A-Za-z0-9_-]{20,}",
    "a Slack token or address": rb"\bxox[a-z]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    "a Stripe key": rb"\b(sk|rk)_(live|test)_[A-Za-z0-9]{16,}",
    "a SendGrid key": rb"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    "a token of npm or PyPI": rb"\bnpm_[A-Za-z0-9]{36}|\bpypi-[A-Za-z0-9_-]{16,}",
    "a JSON web token": rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "an Azure account key": rb"(?i)\bAccountKey\s*=\s*[A-Za-z0-9+/=]{40,}",
    "a token of Discord, Telegram, Twilio, Mailchimp or Square":
        rb"\b[MN][A-Za-z0-9_-]{23,27}\.[\w-]{6}\.[\w-]{27,}|\b\d{8,10}:[A-Za-z0-9_-]{35}\b|\b(AC|SK)[0-9a-f]{32}\b|"
        rb"\b[0-9a-f]{32}-us\d{1,2}\b|\bsq0[a-z]{3}-[\w-]{22,}",
    "a password in an address": rb"\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@\"']{0,100}:[^\s/@\"']{3,100}@",
    "a password or key": rb"(?i)(passw(or)?d|secret|api[_-]?key|access[_-]?key|auth[_-]?token|access[_-]?token|private[_-]?key)"
                         rb"[\w-]{0,20}[\"'`]?\s*[:=]\s*[\"'`]?[^\s\"'`,;{}\[\]<>]{8,}",
}  # fmt: skip


def push(config: PushConfig, texts: Sequence[str], find: Callable[[str], Any]) -> None:
    """The command. Raises UsageError, ResourceError."""
    if texts:
        raise UsageError(f"push takes no texts, found {texts[0]!r}: name the repository with --repo")
    if config.dry_run:
        return show(user_path(config.model), config.repo, config.with_metrics)
    push_run(user_path(config.model), config.repo, public=config.public, with_metrics=config.with_metrics)


def push_run(directory: Path, repo: str | None, *, public: bool = False, with_metrics: bool = False) -> None:
    """Upload a finished run, and print where it is; None: do nothing. The repository is made if it is not there."""
    if repo is None or not is_main_process():
        return
    contents, refused = contents_of(directory, with_metrics)
    if refused:
        raise UsageError(refused[0])
    check_login(repo)
    say(f"pushing {len(contents)} files ({sum(map(size_of, contents.values())) / 1e6:.1f} MB): {', '.join(contents)}")
    say_what_stays(directory, contents)
    try:
        say(f"pushed to {upload(contents, repo, public)}")
    except UsageError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds
        raise explained(error, directory, repo) from error


def show(directory: Path, repo: str, with_metrics: bool) -> None:
    """``--dry-run``: each file that a push would send with its size and sha256, and each reason to refuse it. Asks nobody.

    Raises UsageError if the push would be refused.
    """
    contents, refused = contents_of(directory, with_metrics)
    if repo:
        check_name(repo)
    say(f"would push {len(contents)} files to {repo or 'the repository that --repo names'}:")
    for name, content in contents.items():
        digest = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content)
        say(f"  {size_of(content):>13,} bytes  sha256 {digest}  {name}")
    say_what_stays(directory, contents)
    for reason in refused:
        say(f"refused: {reason}")
    if refused:
        raise UsageError(f"the push would be refused, for {counted(len(refused), 'reason')} (the first: {refused[0]})")
    say("nothing was sent, and nobody was asked: --dry-run")


def say_what_stays(directory: Path, contents: Mapping[str, Any]) -> None:
    """The names of what lies in the directory and is not pushed."""
    goes = {name.split("/")[0] for name in contents}
    stays = sorted(path.name for path in directory.iterdir() if path.name not in goes and not path.name.startswith("."))
    if stays:
        say(f"not pushed: {', '.join(stays)}")


def size_of(content: Path | bytes) -> int:
    """In bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def check_login(repo: str | None) -> None:
    """Refuse, before any work is done, what could not be pushed to ``repo``; None: nothing is to be. Raises UsageError."""
    if repo is None:
        return
    from huggingface_hub import get_token

    check_name(repo)
    if not hub.reachable():
        raise ResourceError(f"{hub.endpoint()} is not reachable, or HF_HUB_OFFLINE is set: nothing can be pushed now")
    if get_token() is None:
        raise UsageError("pushing needs a token of the Hub: run 'hf auth login', or set HF_TOKEN")


def check_name(repo: str) -> None:
    """Raises UsageError for what can be no repository's."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"{repo!r} is no name for a repository on the Hub: give NAME or ORGANISATION/NAME") from error


def contents_of(directory: Path, with_metrics: bool) -> tuple[dict[str, Path | bytes], list[str]]:
    """What is uploaded, by name: files, and run.json without the folders of this machine; and why it must not be: [] if it may.

    Raises UsageError without a finished run.
    """
    if not is_finished(directory):
        raise UsageError(f"{directory} holds no finished run: train one first, or finish it with --resume")
    refused = []
    if lora.is_adapter(directory) and Path(lora.base_of(directory)).is_absolute():
        refused.append(f"{directory} is an adapter to a model in a folder of this machine: to push, train with --lora-merge")
    document = read_run(directory)
    listed = document.files
    if listed is None:  # an older run: what has a name that models' files have
        found = [path.relative_to(directory).as_posix() for glob in ("*", "*/config.json") for path in directory.glob(glob)]
        listed = {name: "" for name in found if MODEL_FILE.fullmatch(name)}
    beside = [name for name in ("README.md", *["metrics.jsonl"] * with_metrics) if (directory / name).exists()]
    contents: dict[str, Path | bytes] = {}
    for name, digest in sorted({**listed, **dict.fromkeys(beside, "")}.items()):
        path = directory / name
        if (what := why_not(path, directory.resolve() / name, digest)) is None:
            contents[name] = path
        else:
            refused.append(f"{path} is {what}, and it is part of what is pushed: put back the file that the run wrote")
    text = without_home(dumps(without_folders(document)), json.dumps(str(Path.home()))[1:-1])
    contents["run.json"] = text.encode()
    return contents, refused + secrets_in(contents)


def why_not(path: Path, resolved: Path, digest: str) -> str | None:
    """Why a file is not what the run wrote; None if it is. ``resolved``: its place; ``digest``: its sha256, "": not known."""
    if not os.path.lexists(path):
        return "not there"
    if path.resolve() != resolved:
        return "a link"
    if not path.is_file():
        return "no regular file"
    return "changed since it was saved" if digest and sha256(path) != digest else None


def is_known(name: str) -> bool:
    """Is this what a push calls a file: what an earlier one has left of them is taken away?"""
    return name in ("README.md", "run.json", "metrics.jsonl") or MODEL_FILE.fullmatch(name) is not None


def secrets_in(contents: Mapping[str, Path | bytes]) -> list[str]:
    """What looks like a secret: the first of each file, with its line, and never the secret itself."""
    from huggingface_hub import get_token

    token = get_token()
    kinds = SECRETS | ({"your token of the Hub": re.escape(token.encode())} if token else {})
    return [
        f"{name} line {found[0]} looks like {found[1]}: nothing was pushed. Take it out, and revoke it"
        for name, content in contents.items()
        if (found := first_secret(text_of(content), kinds)) is not None
    ]


def first_secret(text: bytes, kinds: Mapping[str, bytes]) -> tuple[int, str] | None:
    """The line, counted from 1, and the kind; ``kinds``: a pattern for each."""
    for number, line in enumerate(text.splitlines(), start=1):
        for kind, pattern in kinds.items():
            if re.search(pattern, line):
                return number, kind
    return None


def text_of(content: Path | bytes) -> bytes:
    """What of a file is searched: all of it, but of a safetensors file the header, a JSON object behind its length."""
    if isinstance(content, bytes):
        return content
    with open(content, "rb") as stream:
        is_binary = content.suffix == ".safetensors"
        return stream.read(min(int.from_bytes(stream.read(8), "little"), MOST_HEADER) if is_binary else -1)


def upload(contents: dict[str, Path | bytes], repo: str, public: bool) -> str:
    """One commit: the files, and the removal of those that an earlier push has left. Returns the address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi()
    address = api.create_repo(repo, private=not public, exist_ok=True)
    name = address.repo_id
    if not api.model_info(name).private and not public:
        raise UsageError(f"{name} is on the Hub already, and public: give --public to push there, or another name")
    old = [n for n in api.list_repo_files(name) if n not in contents and is_known(n)]
    operations: list[Any] = [CommitOperationDelete(path_in_repo=n) for n in old]
    operations += [CommitOperationAdd(path_in_repo=n, path_or_fileobj=content) for n, content in contents.items()]
    api.create_commit(name, operations, commit_message="Push a finished run")
    return str(address)


def explained(error: Exception, directory: Path, repo: str) -> UsageError | ResourceError:
    """One line for what the Hub has answered."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    again = f"the run in {directory} is as it was: {program()} push"
    if status == 401:
        return UsageError(f"the Hub does not accept your token: run 'hf auth login', or set HF_TOKEN; {again}")
    if status == 403:
        return UsageError(f"your token may not write to {repo}: take one with that permission, or another --repo; {again}")
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ResourceError(f"the push to {repo} failed ({said}); {again}")
