"""``python run.py env``: what a report of a defect needs. Versions, processor, devices, memory, disk, folders.

No token, no key and no setting of the environment but those listed here; the home directory is shown as ``~``.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine import VERSION
from engine.commands.flags import EnvConfig
from engine.console import printable, say
from engine.data.cache import cache_folder
from engine.errors import UsageError
from engine.installed import IS_CHECKOUT, ROOT
from engine.settings.fields import user_path

VARIABLES = (  # what they are set to is no secret
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG",
    "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "PLAINLOOP_CACHE",
    "XDG_CACHE_HOME", "TMPDIR",
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA",
)  # fmt: skip
FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_tile", "asimd",
            "bf16", "i8mm", "sve", "sve2")  # fmt: skip
GIB = 2**30


def env(config: EnvConfig, texts: Sequence[str], find: Callable[[str], Any]) -> None:
    """The command. Raises UsageError for a bare argument."""
    if texts:
        raise UsageError(f"env takes no texts, found {texts[0]!r}")
    for name, value in report(user_path(config.output_dir)):
        say(f"{name:<24} {printable(without_home(value))}")


def report(output: Path) -> Iterator[tuple[str, str]]:
    """Name and value of each line, in order."""
    yield "plainloop", f"{VERSION}{commit()}"
    yield "python", f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"
    yield "platform", platform.platform()
    yield from packages()
    yield from processor()
    yield from devices()
    yield from room(output)
    yield "terminal", "yes" if sys.stdout.isatty() else "no"
    for variable in VARIABLES:
        if variable in os.environ:
            yield variable, os.environ[variable]


def commit() -> str:
    """``, commit 1a2b3c4, with changes``; "" where this is no clone or git is not there."""
    if not IS_CHECKOUT:  # a repository around it would be somebody else's
        return ", installed as a package"
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    name = found.stdout.strip()
    return f", commit {name.removesuffix('-dirty')}{', with changes' * name.endswith('-dirty')}" if name else ""


def packages() -> Iterator[tuple[str, str]]:
    """Every dependency of pyproject.toml, those of the extras, too, with its version or how to get it."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"], "by hand": ["trackio"]}
    seen = {"plainloop"}
    for extra, requirements in groups.items():
        for requirement in requirements:
            needed = Requirement(requirement)
            name = needed.name
            if name in seen or (needed.marker and not needed.marker.evaluate()):  # of another system
                continue
            seen.add(name)
            try:
                yield name, importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                yield name, f"not installed ({extra})" if extra else "not installed, and needed"


def processor() -> Iterator[tuple[str, str]]:
    """Model, cores, what it can compute in, and what torch makes of that."""
    import torch

    from engine.distributed.device import usable_cores

    text = read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, flags=re.MULTILINE)
    found = set(flags[1].split()) if flags else set()
    yield (
        "processor",
        f"{model[1] if model else platform.processor() or platform.machine()}, {usable_cores()} of {os.cpu_count()} cores",
    )
    yield "features", ", ".join(name for name in FEATURES if name in found) or "unknown"
    yield "torch on it", f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def devices() -> Iterator[tuple[str, str]]:
    """What ``--device`` could name, and which precision ``auto`` is there."""
    import torch

    from engine.distributed.device import choose_device, describe_device
    from engine.precision import choose_precision

    device = choose_device("auto")
    yield "--device auto", f"{describe_device(device)}, --precision auto is {choose_precision('auto', device)}"
    yield (
        "CUDA",
        f"torch for {torch.version.cuda}, {torch.cuda.device_count()} devices" if torch.version.cuda else "none in this torch",
    )
    for number in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}", f"{of.name}, capability {of.major}.{of.minor}, {of.total_memory / GIB:.1f} GiB"


def room(output: Path) -> Iterator[tuple[str, str]]:
    """Memory and disks."""
    memory = {
        name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", read("/proc/meminfo"), flags=re.MULTILINE)
    }
    if {"MemTotal", "MemAvailable"} <= memory.keys():
        limit = read("/sys/fs/cgroup/memory.max").strip()
        bound = f", this container at most {int(limit) / GIB:.1f}" if limit.isdigit() else ""
        yield "memory", f"{memory['MemTotal'] / GIB:.1f} GiB, {memory['MemAvailable'] / GIB:.1f} free{bound}"
    elif sys.platform != "linux":
        import psutil

        found = psutil.virtual_memory()
        yield "memory", f"{found.total / GIB:.1f} GiB, {found.available / GIB:.1f} free"
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = {
        "output": output,
        "cache": cache_folder(),
        "models": Path(HF_HUB_CACHE),
        "temporary": Path(tempfile.gettempdir()),
    }
    for name, folder in folders.items():
        there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
        yield f"{name} folder", f"{folder.resolve()}, {shutil.disk_usage(there).free / GIB:.1f} GiB free"


def read(path: str) -> str:
    """A file of the system; "" where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def without_home(text: str, home: str | None = None) -> str:
    """``~`` in place of the home directory, wherever it stands. ``home``: as the text would spell it."""
    home = home or str(Path.home())
    return re.sub(rf"{re.escape(home)}(?=/|\b|$)", "~", text) if home != "/" else text
