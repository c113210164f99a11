"""Files at an address (https, s3, gs, hf, memory ...): fetched once into the cache, and read from there as any other file.

fsspec opens them, which datasets brings along; some addresses need a package of its kin (s3fs, gcsfs). An entry of the cache is
for one state of the file, as its server tells it (ETag, time, hash): another state is fetched anew, and so is, in each process,
a file whose server tells nothing. An address is asked for only if the user has typed it (docs/security.md).
Next: places.py, which calls this; cache.py, where it is kept.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib.util
import ipaddress
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from engine.console import note
from engine.data.cache import UNFINISHED, cache_folder, discard, entry_or_temporary
from engine.errors import DataError, ResourceError, UsageError
from engine.installed import install_package

KIND = "remote"  # the folder in the cache
MOST_BYTES = 20 << 30  # in all, after which those that were not used for longest go
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}
STATES = ("ETag", "etag", "Content-MD5", "Digest", "Last-Modified", "LastModified", "mtime", "updated", "generation", "md5Hash",
          "crc32c", "blob_id", "created", "VersionId")  # fmt: skip  # what file systems call the state of a file
CONNECT_SECONDS, READ_SECONDS = 20, 60

_addresses: dict[str, str] = {}  # of the files that this process has fetched, by their paths


def check_address(address: str) -> tuple[Path, ...]:
    """Can it be asked for? Nothing is asked yet, and no file named. Raises UsageError with the package that is missing."""
    from fsspec.registry import known_implementations

    kind = scheme(address)
    package = PACKAGES.get(kind) or str(known_implementations.get(kind, {}).get("class", "")).partition(".")[0]
    if not package:
        raise UsageError(f"{address}: there is no kind of address called {kind}://; known: https, s3, gs, hf ...")
    if package != "fsspec" and importlib.util.find_spec(package) is None:
        raise UsageError(f"{address}: {kind}:// needs the package {package}, which is missing: {install_package(package)}")
    return ()


def unfetched(address: str) -> tuple[Path, ...]:
    """By its name alone, which says of what kind it is; nothing is asked."""
    parts = urlsplit(address)  # of s3://bucket/a.csv the bucket, of memory://a.csv the file is its first part
    return (Path(unquote(parts.netloc + parts.path)),)


@functools.cache
def fetched(address: str) -> tuple[Path, ...]:
    """The file, or the files that a pattern matches, on this machine. Raises DataError, UsageError, ResourceError."""
    check_address(address)
    with refused(address):
        system, path = opened(address)
        if scheme(address) not in ("http", "https") and re.search(r"[*?\[]", path):
            found = sorted(system.unstrip_protocol(name) for name in system.glob(path))
            if not found:
                raise DataError(f"no file matches {address}")
            return tuple(fetched(each)[0] for each in found)
        info = system.info(path)
    if info.get("type") == "directory":
        raise DataError(f"{address} is a folder: name its files, as in {address.rstrip('/')}/*.parquet")
    refuse_odd(address, info)
    file = keep(address, system, path, info)
    _addresses[str(file)] = address
    return (file,)


def keep(address: str, system: Any, path: str, info: Mapping[str, Any]) -> Path:
    """The file in the cache, or where none can be kept in a folder that goes with this process."""
    name = unfetched(address)[0].name or "file"
    state = {key: str(info[key]) for key in STATES if info.get(key)}
    known = f"{address} {info.get('size')} {sorted(state.items())}" + ("" if state else os.urandom(16).hex())

    def write(folder: Path) -> None:
        size = info.get("size")
        if size and size > (free := shutil.disk_usage(folder).free):
            raise ResourceError(f"{address} has {size >> 20:,} MiB, and {folder.parent} has {free >> 20:,} MiB left: make room")
        note(f"fetching {address}" + (f" ({size / 2**20:,.1f} MiB)" if size else ""))
        with refused(address):
            system.get_file(path, str(folder / name))
        if size and (folder / name).stat().st_size != size:
            raise DataError(f"{address} was cut off, or changed meanwhile: {size} bytes are told, and others came: try again")

    folder = entry_or_temporary(KIND, hashlib.sha256(known.encode()).hexdigest()[:32], write)
    with suppress(OSError):
        os.utime(folder)  # used now
        forget_oldest(folder)
    return folder / name


def forget_oldest(used: Path) -> None:
    """Remove what was not used for longest, until the rest is within MOST_BYTES; never the one that is used."""
    folders = [each for each in (cache_folder() / KIND).iterdir() if not each.name.startswith(UNFINISHED)]
    sizes = {each: sum(file.stat().st_size for file in each.iterdir()) for each in folders}
    total = sum(sizes.values())
    for each in sorted(folders, key=lambda folder: folder.stat().st_mtime):
        if total <= MOST_BYTES:
            return
        if each != used and str(each) not in {str(Path(path).parent) for path in _addresses}:
            discard(each)
            total -= sizes[each]


def opened(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it."""
    from fsspec.core import url_to_fs

    if scheme(address) not in ("http", "https"):
        return url_to_fs(address)  # type: ignore[no-any-return]
    import aiohttp

    patience = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    plain = {"Accept-Encoding": "identity", "User-Agent": "plainloop"}
    return url_to_fs(address, client_kwargs={"timeout": patience, "trust_env": True, "headers": plain})  # type: ignore[no-any-return]


def refuse_odd(address: str, info: Mapping[str, Any]) -> None:
    """Raises DataError for what is no file of data: a web page about one, or what a redirect leads to within this network."""
    kind = str(info.get("mimetype", ""))
    if kind == "text/html":
        raise DataError(f"{address} is a web page ({kind}) and no file of data: name the address of the file itself")
    leads_to = urlsplit(str(info.get("url", address))).hostname
    if (
        leads_to != (typed := urlsplit(address).hostname)
        and leads_to
        and not is_public_host(leads_to)
        and is_public_host(typed or "")
    ):
        raise DataError(
            f"{address} leads to {leads_to}, which is this machine or its network: name that by itself, if you mean it"
        )


def is_public_host(host: str) -> bool:
    """Do all addresses of a host belong to the internet, and none to this machine or its network? Raises OSError."""
    found = {str(where[0]).partition("%")[0] for *_, where in socket.getaddrinfo(host, None)}
    return all(is_public(each) for each in found)


def is_public(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return found.is_global and not found.is_multicast


def scheme(address: str) -> str:
    return address.partition("://")[0].lower()


@contextmanager
def refused(address: str) -> Iterator[None]:
    """What libraries raise while they ask, which is of a dozen kinds, in one line. Raises DataError, ResourceError."""
    try:
        yield
    except (DataError, UsageError, ResourceError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(f"{address} cannot be kept in {cache_folder()}: {error.strerror}") from error
        why = error.__cause__ or error
        what = (
            "there is no such file" if isinstance(why, FileNotFoundError) else " ".join(f"{type(why).__name__}: {why}".split())
        )
        raise DataError(f"{address} cannot be read: {what}") from error


def spoken(text: str) -> str:
    """A text in which files that were fetched have the names that the user knows: their addresses."""
    for path, address in _addresses.items():
        text = text.replace(path, address)
    return text


@contextmanager
def by_address() -> Iterator[None]:
    """Errors about a file that was fetched name its address. Raises DataError."""
    try:
        yield
    except DataError as error:
        error.args = (spoken(str(error)),)
        raise
