"""Uploading a finished run to the Hub: one commit of what others need to use the model, and of nothing else.

What goes: the files that the model was saved as, which run.json lists with their hashes, the card and run.json. Each of these
is searched for secrets first, a safetensors file in its header. The token is huggingface_hub's business: it is read from
HF_TOKEN or from what ``hf auth login`` has stored, and appears nowhere here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.artifacts.card import without_folders
from engine.artifacts.directory import MODEL_FILE, is_finished, read_run
from engine.artifacts.document import dumps
from engine.checkpoint.store import sha256
from engine.commands.environment import without_home
from engine.commands.flags import PushConfig
from engine.console import is_main_process, say
from engine.data import hub
from engine.errors import ResourceError, UsageError
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
    push_run(user_path(config.model), config.repo, public=config.public, with_metrics=config.with_metrics)


def push_run(directory: Path, repo: str | None, *, public: bool = False, with_metrics: bool = False) -> None:
    """Upload a finished run, and print where it is; None: do nothing. The repository is made if it is not there."""
    if repo is None or not is_main_process():
        return
    if not (directory / "run.json").exists() or not is_finished(directory):
        raise UsageError(f"{directory} holds no finished run: train one first, or finish it with --resume")
    if lora.is_adapter(directory) and Path(lora.base_of(directory)).is_absolute():
        raise UsageError(f"{directory} is an adapter to a model in a folder of this machine: to push, train with --lora-merge")
    contents = contents_of(directory, with_metrics)
    refuse_secrets(contents)
    check_login(repo)
    goes = {name.split("/")[0] for name in contents}
    stays = sorted(p.name for p in directory.iterdir() if p.name not in goes and not p.name.startswith("."))
    size = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in contents.values())
    say(f"pushing {len(contents)} files ({size / 1e6:.1f} MB): {', '.join(contents)}")
    if stays:
        say(f"not pushed: {', '.join(stays)}")
    try:
        say(f"pushed to {upload(contents, repo, public)}")
    except UsageError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds
        raise explained(error, directory, repo) from error


def check_login(repo: str | None) -> None:
    """Refuse, before any work is done, what could not be pushed to ``repo``; None: nothing is to be. Raises UsageError."""
    if repo is None:
        return
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"{repo!r} is no name for a repository on the Hub: give NAME or ORGANISATION/NAME") from error
    if not hub.reachable():
        raise ResourceError(f"{hub.endpoint()} is not reachable, or HF_HUB_OFFLINE is set: nothing can be pushed now")
    if get_token() is None:
        raise UsageError("pushing needs a token of the Hub: run 'hf auth login', or set HF_TOKEN")


def contents_of(directory: Path, with_metrics: bool) -> dict[str, Path | bytes]:
    """What is uploaded, by name: files, and run.json without the folders of this machine. Raises UsageError."""
    document = read_run(directory)
    listed = document.files
    if listed is None:  # an older run: what has a name that models' files have
        found = [path.relative_to(directory).as_posix() for glob in ("*", "*/config.json") for path in directory.glob(glob)]
        listed = {name: "" for name in found if MODEL_FILE.fullmatch(name)}
    beside = [name for name in ("README.md", *["metrics.jsonl"] * with_metrics) if (directory / name).exists()]
    for name, digest in {**listed, **dict.fromkeys(beside, "")}.items():
        path = directory / name
        is_there = path.is_file() and path.resolve() == directory.resolve() / name
        if not is_there or (digest and sha256(path) != digest):
            what = "changed since it was saved" if is_there else "a link" if path.exists() else "not there"
            raise UsageError(f"{path} is {what}, and it is part of what is pushed: put back the file that the run wrote")
    contents: dict[str, Path | bytes] = {name: directory / name for name in sorted([*listed, *beside])}
    text = without_home(dumps(without_folders(document)), json.dumps(str(Path.home()))[1:-1])
    return contents | {"run.json": text.encode()}


def is_known(name: str) -> bool:
    """Is this what a push calls a file: what an earlier one has left of them is taken away?"""
    return name in ("README.md", "run.json", "metrics.jsonl") or MODEL_FILE.fullmatch(name) is not None


def refuse_secrets(contents: dict[str, Path | bytes]) -> None:
    """Raises UsageError with the file and the line, never the secret."""
    from huggingface_hub import get_token

    token = get_token()
    kinds = SECRETS | ({"your token of the Hub": re.escape(token.encode())} if token else {})
    for name, content in contents.items():
        for number, line in enumerate(text_of(content).splitlines(), start=1):
            for kind, pattern in kinds.items():
                if re.search(pattern, line):
                    raise UsageError(f"{name} line {number} looks like {kind}: nothing was pushed. Take it out, and revoke it")


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
    again = f"the run in {directory} is as it was: python run.py push"
    if status == 401:
        return UsageError(f"the Hub does not accept your token: run 'hf auth login', or set HF_TOKEN; {again}")
    if status == 403:
        return UsageError(f"your token may not write to {repo}: take one with that permission, or another --repo; {again}")
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ResourceError(f"the push to {repo} failed ({said}); {again}")
