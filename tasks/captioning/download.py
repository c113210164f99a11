"""A picture from an address, for who has asked for that: from public addresses only, in bounded time and size.

Whoever writes the data chooses what this machine asks for, so a name that stands for this machine or its network is refused,
the connection goes to the very address that was checked, no redirect is followed, and proxies are passed by.
"""

from __future__ import annotations

import http.client
import socket
import threading
from urllib.parse import urlsplit

from engine.data.remote import is_public
from engine.errors import DataError

SECONDS = 20.0  # for all of it


def is_address(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def download(address: str, most_bytes: int, where: str) -> bytes:
    """The content. Raises DataError."""
    late = threading.Event()
    try:
        parts = urlsplit(address)
        kind = PublicHTTPS if parts.scheme == "https" else PublicHTTP
        connection = kind(parts.hostname or "", parts.port, timeout=SECONDS)
        timer = threading.Timer(SECONDS, cut_off, (connection, late))
        timer.start()
        try:
            connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
                               headers={"User-Agent": "plainloop"})  # fmt: skip
            response = connection.getresponse()
            if response.status != 200:
                raise DataError(f"{where}: {address} answers {response.status} ({response.reason}); redirects are not followed")
            content = response.read(most_bytes + 1)
            if len(content) > most_bytes:
                raise DataError(f"{where}: {address} is larger than {most_bytes >> 20} MiB")
            if late.is_set() or response.length:
                raise OSError("the connection was lost")
            return content
        finally:
            timer.cancel()
            connection.close()
    except DataError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = f"it took longer than {SECONDS:.0f} seconds" if late.is_set() else getattr(error, "strerror", None) or error
        raise DataError(f"{where}: {address} cannot be read: {reason}") from error


def cut_off(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    """However slowly it drips: time is over."""
    late.set()
    if connection.sock is not None:
        connection.sock.shutdown(socket.SHUT_RDWR)


class PublicHTTP(http.client.HTTPConnection):
    """Connects to a public address only. Raises OSError."""

    def connect(self) -> None:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = [str(where[0]).partition("%")[0] for *_, where in found]
        if not_public := [address for address in addresses if not is_public(address)]:
            raise OSError(f"{not_public[0]} is an address of this machine or its network")
        self.sock = socket.create_connection((addresses[0], self.port), self.timeout)


class PublicHTTPS(http.client.HTTPSConnection, PublicHTTP):
    """The same behind TLS: its ``connect`` calls that of PublicHTTP, and the certificate is the name's."""
