"""``python run.py serve``: a finished model behind HTTP, on this machine alone unless told."""

from __future__ import annotations

import importlib
import ipaddress
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from engine.checked import read_bytes
from engine.commands.flags import ServeConfig, changes_in, with_model
from engine.commands.monitor import known_profile, refuse_unwatched
from engine.commands.output import check_output
from engine.console import note, printable
from engine.errors import StoppedError, UsageError
from engine.exporting.opened import RECORD, open_exported
from engine.findings.input_log import InputLog
from engine.finished import Find, open_model
from engine.installed import install
from engine.settings.fields import user_path

TOKEN = "PLAINLOOP_TOKEN"  # the environment variable
SHORTEST_TOKEN = 16
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def serve(config: ServeConfig, texts: Sequence[str], find: Find) -> None:
    """The command. Returns when a signal has come and all that was accepted is answered. Raises UsageError, ModelError."""
    config, texts = with_model(config, texts, "serve runs/mine")
    if texts:
        raise UsageError(f"serve takes a model and no texts, found {texts[0]!r:.60}: they come by POST /predict")
    check_packages()
    token = token_of(config)
    from engine.serving.app import Access, Service
    from engine.serving.requests import Limits
    from engine.serving.server import bound, made, run

    refuse_format(config)
    listener, log = bound(config.host, config.port), None
    try:
        log = log_of(config, find)
        opened = open_exported if config.format == "onnx" else open_model
        task, model, layout = opened(config.model, find, device=config.device, task=config.task, changes=changes_in(config))
        limits = Limits(config.max_body, config.max_texts, config.max_characters, config.timeout)
        access = Access(token, hosts_of(config))
        name = printable(user_path(config.model).name or config.model)
        service = Service(
            task, model, layout, name=name, limits=limits, access=access, max_batch=config.max_batch,
            max_waiting=config.queue, logs=not config.quiet, debug=config.debug, profile_log=log,
        )  # fmt: skip
        if token is None and not is_loopback(config.host):
            note(f"warning: whoever reaches --host {config.host} may ask: give a token ({TOKEN}, or --token-file FILE)")
        done = run(made(service, seconds=config.timeout, max_connections=config.max_connections), listener)
    finally:
        listener.close()
        if log is not None:
            log.close()
    if not done:
        raise StoppedError("stopped at once: what was being answered is not", 130)
    note("ended: all that was accepted is answered")


def log_of(config: ServeConfig, find: Find) -> InputLog | None:
    """The log of ``--profile-log``, open. Raises UsageError for a model whose inputs ``monitor`` could compare with nothing."""
    if config.profile_log is None:
        return None
    check_output("--profile-log", config.profile_log, [".jsonl"], model=config.model)
    refuse_unwatched(config.model, config.task, find, config.watched)
    profile = known_profile(config.model, "--profile-log needs a run of this version")
    return InputLog(
        user_path(config.profile_log), profile.weights or "", profile.vocabulary, keeps_inputs=config.profile_log_texts
    )


def refuse_format(config: ServeConfig) -> None:
    """Raises UsageError for a folder that ``export`` has written, where that is not said: it holds no weights."""
    directory = user_path(config.model)
    if config.format is None and (directory / RECORD).is_file() and not any(directory.glob("*.safetensors")):
        raise UsageError(f"{config.model} holds what export has written, and no weights: add --format onnx")


def check_packages() -> None:
    """Raises UsageError where the extra is not installed."""
    for package in ("starlette", "uvicorn", "prometheus_client"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise UsageError(f"serve needs the package {error.name}, which is not installed: {install('serve')}") from error


def token_of(config: ServeConfig) -> str | None:
    """That of the file, or of the environment; None: none is asked for. Raises UsageError for one that is no token."""
    if config.token_file is not None:
        path, where = user_path(config.token_file), f"--token-file {config.token_file}"
        try:
            found = read_bytes(path, 4096).decode("utf-8-sig").strip()
        except OSError as error:
            raise UsageError(f"{where} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"{where} cannot be read: {error}") from error
        if others_read(path):
            note(f"warning: {where} can be read by others on this machine: chmod 600")
    elif (given := os.environ.get(TOKEN)) is not None:
        found, where = given.strip(), f"the environment variable {TOKEN}"
    else:
        return None
    if len(found) < SHORTEST_TOKEN or not re.fullmatch(r"[!-~]+", found):
        raise UsageError(
            f"{where} must hold a token of at least {SHORTEST_TOKEN} letters, digits and signs in a row (what it holds "
            "is not shown): python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return found


def others_read(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def is_loopback(host: str) -> bool:
    """Can only this machine reach it?"""
    try:
        return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of(config: ServeConfig) -> frozenset[str] | None:
    """The names under which the server may be called; None: any, as it is reached from elsewhere, under names of its own."""
    if config.allow_host is None and not is_loopback(config.host):
        return None
    named = [name.strip().strip("[]").lower() for name in (config.allow_host or "").split(",") if name.strip()]
    return frozenset({*LOOPBACK, config.host.lower(), *named})
