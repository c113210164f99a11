"""Is the Hugging Face Hub there? Asked once, answered within five seconds; then the libraries are told.

Left to themselves, huggingface_hub and datasets retry for more than twenty seconds before they give up.
"""

from __future__ import annotations

import functools
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

PROBE_SECONDS = 4.0


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT or the public one."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@functools.cache
def told_offline() -> bool:
    """Had the user switched the Hub off when this was first asked?"""
    return any(os.environ.get(n, "").upper() in ("1", "TRUE", "YES", "ON") for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


@functools.cache
def reachable() -> bool:
    """Does the Hub answer? Any HTTP answer but a server error counts. Proxies of the environment are used."""
    if told_offline():
        return False
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(endpoint(), method="HEAD", headers={"User-Agent": "plainloop"})
        try:
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            answers.append(True)
        except urllib.error.HTTPError as error:
            answers.append(error.code < 500)
        except OSError:
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)  # a thread, because looking up a name has no time-out
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers and answers[0])


def go_offline() -> None:
    """Make the libraries answer from their caches only, at once and without retrying."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_OFFLINE = True
    import datasets.config

    datasets.config.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


T = TypeVar("T")
Substitute = Callable[[], "tuple[str, str] | None"]  # a model folder and what to call it, if there is one


FRAME_WORK = re.compile(r"\d{3} Client Error|\(Request ID|Traceback|[\^~ ]+$")  # lines that give no reason


def first_reason(error: BaseException) -> str:
    """What the Hub libraries say in many lines, in one: the first that gives a reason, and what to do about a locked door."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not FRAME_WORK.match(line)] or lines or [type(error).__name__]
    if "trust_remote_code" in str(error):
        return "it comes with code of its own, which is never run: use a model whose architecture transformers knows"
    reason = " ".join(reasons[: 2 if reasons[0].endswith(":") else 1])
    if not isinstance(error, OSError | ValueError | RuntimeError | ImportError):  # a library that trusts its files
        reason = f"its files are damaged, or not those of a model ({type(error).__name__}: {reason})"
    reason = reason if len(reason) <= 300 else reason[:297] + "..."
    if any(word in str(error) for word in ("gated repo", "401 Client Error", "Invalid credentials")):
        reason += ". Ask for access on its page, then: hf auth login (or set HF_TOKEN)"
    return reason


def quietly(function: Callable[..., T]) -> Callable[..., T]:
    """``function`` without the Hub libraries' own warnings: what matters of them comes as an exception."""
    import logging

    def wrapped(*args: Any, **kwargs: Any) -> T:
        loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            return function(*args, **kwargs)
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

    return wrapped
