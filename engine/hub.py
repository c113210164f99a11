"""Is the Hugging Face Hub there? Asked once, answered within five seconds; then the libraries are told.

Left to themselves, huggingface_hub and datasets retry for more than twenty seconds before they give up.
"""

from __future__ import annotations

import functools
import os
import threading
import urllib.error
import urllib.request

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
