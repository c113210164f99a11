"""Uploading a finished run to the Hub: one commit of what others need to use the model, and of nothing else.

What goes: the files that the model was saved as, which run.json lists, the card and run.json. Each text file of these is
searched for secrets first. The token is huggingface_hub's business: it is read from HF_TOKEN or from what ``hf auth login`` has
stored, and appears nowhere here.
"""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.artifacts.card import without_folders
from engine.artifacts.directory import is_finished, read_run
from engine.artifacts.document import dumps
from engine.commands.flags import PushConfig
from engine.console import is_main_process
from engine.data import hub
from engine.errors import ResourceError, UsageError
from engine.model import lora
from engine.settings.fields import user_path

ALWAYS = ("README.md", "run.json")
MODULES = "[0-9]_*/config.json"  # sentence-transformers keeps the settings of a model's parts in folders
KNOWN = (  # what a model directory holds: of a run whose run.json has no list, and to tell what an earlier push has left
    *ALWAYS, "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json",
    "adapter_config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model",
    "*.tiktoken", "chat_template*", "*processor_config.json", "modules.json", "*sentence*.json", MODULES,
)  # fmt: skip
SECRETS = {
    "a Hugging Face token": re.compile(rb"\b(hf|api_org)_[A-Za-z0-9]{30,}"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an AWS access key": re.compile(rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(rb"\b(gh[pousr]|github_pat)_[A-Za-z0-9_]{30,}"),
}


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
    print(f"pushing {len(contents)} files ({size / 1e6:.1f} MB): {', '.join(contents)}")
    if stays:
        print(f"not pushed: {', '.join(stays)}")
    try:
        print(f"pushed to {upload(contents, repo, public)}")
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
    if document.files is None:  # an older run
        found = [path.relative_to(directory).as_posix() for glob in ("*", MODULES) for path in directory.glob(glob)]
        names = [name for name in found if (directory / name).is_file() and any(fnmatch.fnmatch(name, each) for each in KNOWN)]
    else:
        names = document.files
        for name in names:
            if not (directory / name).is_file() or (directory / name).resolve() != directory.resolve() / name:
                what = "a link" if (directory / name).exists() else "not there"
                raise UsageError(f"{directory / name} is {what}; run.json lists it as part of the model: put the file there")
    names = [*names, *(name for name in (*ALWAYS, *["metrics.jsonl"] * with_metrics) if (directory / name).is_file())]
    contents: dict[str, Path | bytes] = {name: directory / name for name in sorted(names)}
    return contents | {"run.json": dumps(without_folders(document)).encode()}


def refuse_secrets(contents: dict[str, Path | bytes]) -> None:
    """Raises UsageError with the file and the line, never the secret."""
    from huggingface_hub import get_token

    token = get_token()
    kinds = SECRETS | ({"your token of the Hub": re.compile(re.escape(token.encode()))} if token else {})
    for name, content in contents.items():
        if name.endswith(".safetensors"):
            continue
        for number, line in enumerate((content if isinstance(content, bytes) else content.read_bytes()).splitlines(), start=1):
            for kind, pattern in kinds.items():
                if pattern.search(line):
                    raise UsageError(f"{name} line {number} looks like {kind}: nothing was pushed. Take it out, and revoke it")


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
    old = [n for n in api.list_repo_files(name) if n not in contents and any(fnmatch.fnmatch(n, each) for each in KNOWN)]
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
