"""Python imports this at its start where the folder is on PYTHONPATH: then no connection leaves the machine.

What is tried is refused, and noted in the file that CATDOG_TEST_LEFT_THE_MACHINE names.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import Any


def _stays(host: Any) -> bool:
    """Whether a name or an address is this machine's."""
    name = host.decode("utf-8", "replace") if isinstance(host, (bytes, bytearray)) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook; what uses Python's sockets passes here. The events are listed in Python's documentation."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) and address else None  # else a Unix socket, or connected before
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if _stays(host):
        return
    if notes := os.environ.get("CATDOG_TEST_LEFT_THE_MACHINE"):
        with open(notes, "a", encoding="utf-8") as file:  # noqa: PTH123 - nothing more is imported than must be
            file.write(f"{host} {event} by {' '.join(sys.orig_argv)[:200]}\n")
    raise ConnectionRefusedError(f"the rehearsal refuses to leave this machine: {host}")


sys.addaudithook(_guard)
