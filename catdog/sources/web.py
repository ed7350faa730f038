"""URL to bytes: the only place in the core that touches the network. Standard library only.

    fetch("https://example.org/cat.jpg") -> bytes, or ImageError

What a stranger's server can do is bounded: the size, the time, the number of redirects, and where they lead. A
redirect never reaches a private network: the address that is checked is the very one that is connected to, so that
a name which resolves to something else a moment later gains nothing. A URL that the user typed may be private: their
own server, their own NAS; one that came in a list may not (``public_only``). Proxy variables are ignored, since a proxy
would hide which address is reached.
"""

from __future__ import annotations

import base64
import http
import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit, urlunsplit

from catdog.errors import ImageError, ImageReason

MAX_BYTES: Final = 64 * 2**20  # of one download; a 200-megapixel phone JPEG has about 60 MB
TIMEOUT_S: Final = 20.0  # from the first connection to the last byte, redirects included
MAX_REDIRECTS: Final = 5
CHUNK_BYTES: Final = 64 * 2**10
PORTS: Final = {"http": 80, "https": 443}
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits

# What a presigned URL of S3 (SigV4 and SigV2), Google Cloud Storage, Azure (SAS) or CloudFront is signed with.
_SECRET_QUERY: Final = re.compile(
    r"([?&](?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|GoogleAccessId|Signature|sig|"
    r"Policy|Key-Pair-Id|token|access_token|api_?key)=)[^&#]*",
    re.IGNORECASE,
)

Resolve = Callable[[str, int], list[str]]
"""Host and port -> IP addresses as text, the one to try first at the front; may raise OSError."""


def resolve(host: str, port: int) -> list[str]:
    """The host's addresses; how long this may take is the system resolver's own setting."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def is_public(address: str) -> bool:
    """Whether an IP address is on the open internet, looking through IPv4 addresses inside IPv6 ones."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(ip.packed[-4:])
        if inner is not None:
            ip = inner
        elif ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)


def fetch(
    url: str,
    *,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
    public_only: bool = False,
    resolve: Resolve = resolve,
    allowed: Callable[[str], bool] = is_public,
    context: ssl.SSLContext | None = None,
) -> bytes:
    """Return the body behind an http(s) URL.

    ``resolve`` finds the addresses of a host, ``allowed`` says which of them a redirect (and with ``public_only`` the
    URL itself) may lead to, ``context`` holds the certificates to trust (default: the system's). Raises ImageError:
    ``missing`` for 404 and 410, ``too_large`` over ``max_bytes``, ``unsupported`` for another scheme, else
    ``unreadable``. No message shows a password or a signature.
    """
    deadline = time.monotonic() + timeout_s
    shown, here = redact(url), url
    try:
        for hop in range(MAX_REDIRECTS + 1):
            target = _parse_target(here, shown)
            addresses = resolve(target.host, target.port)
            if (hop or public_only) and not all(allowed(address) for address in addresses):
                leads = "redirects" if hop else "leads"
                raise _make_error(shown, f"{leads} into a private network ({target.host}), which is not followed")
            with _connect(target, addresses, deadline, context) as stream, _send_request(target, stream) as answer:
                location = answer.getheader("Location")
                if answer.status not in REDIRECTS or not location:
                    return _read_body(answer, shown, max_bytes)
            here = urljoin(here, location)
            if target.scheme == "https" and urlsplit(here).scheme == "http":
                raise _make_error(shown, "redirects from https to http, which is not followed")
        raise _make_error(shown, f"redirects more than {MAX_REDIRECTS} times")
    except ImageError:
        raise
    except TimeoutError as error:
        raise _make_error(shown, f"no complete answer within {timeout_s:g} s") from error
    except socket.gaierror as error:
        raise _make_error(shown, f"host not found ({error.strerror})") from error
    except ssl.SSLCertVerificationError as error:
        raise _make_error(shown, f"the server's certificate is not trusted ({error.verify_message})") from error
    except http.client.HTTPException as error:
        raise _make_error(shown, f"not an HTTP answer ({type(error).__name__})") from error
    except OSError as error:
        raise _make_error(shown, f"the download failed ({error.strerror or error})") from error
    except ValueError as error:  # a port of 99999, half an IPv6 address; its text may quote a password
        raise _make_error(shown, "not a valid URL") from error


def redact(url: str) -> str:
    """Return the URL as it may be shown: with ``***`` for a user and password, and for what signs it in its query."""
    # The second branch is for a password with a bare slash, which makes the URL wrong but no less secret.
    url = re.sub(r"^([^/?#]*://)(?:[^/?#]*|[^/?#:\[]*:(?!\d*[/?#]).*)@", r"\1***@", url)
    return _SECRET_QUERY.sub(r"\1***", url)


class _Target(NamedTuple):
    scheme: str
    host: str  # as IDNA, without brackets
    port: int
    path: str  # with its query, percent-encoded
    headers: dict[str, str]


def _parse_target(url: str, shown: str) -> _Target:
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise _make_error(shown, "only http:// and https:// URLs are fetched", "unsupported")
    if not parts.hostname:
        raise _make_error(shown, "the URL names no host")
    host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode("ascii")
    port = parts.port or PORTS[parts.scheme]
    named = f"[{host}]" if ":" in host else host
    headers = {
        "Host": named if port == PORTS[parts.scheme] else f"{named}:{port}",
        "User-Agent": "catdog",
        "Accept": "image/*,*/*;q=0.5",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode("ascii")
    return _Target(parts.scheme, host, port, _encode_path(parts), headers)


def _encode_path(parts: SplitResult) -> str:
    # What is percent-encoded already stays; spaces, control characters and other alphabets become so.
    path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    return quote(path, safe="!#$%&'()*+,/:;=?@[]~", errors="surrogateescape")


class _Stream(io.RawIOBase):
    """A socket whose every read gets what is left of the deadline; http.client takes it for a socket."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(_seconds_left(self._deadline))
        return self._sock.recv_into(buffer)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_seconds_left(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, CHUNK_BYTES)

    def close(self) -> None:
        self._sock.close()
        super().close()


def _connect(target: _Target, addresses: list[str], deadline: float, context: ssl.SSLContext | None) -> _Stream:
    """A connection to the first of these addresses that accepts one; TLS is checked against the host's name."""
    failure: OSError = ConnectionError("no address")
    for tried, address in enumerate(addresses):
        try:  # an equal share of the time each: where IPv6 leads nowhere, IPv4 gets its turn
            share = _seconds_left(deadline) / (len(addresses) - tried)
            sock = socket.create_connection((address, target.port), timeout=share)
            break
        except OSError as error:
            failure = error
    else:
        raise failure
    if target.scheme == "https":
        try:
            sock.settimeout(_seconds_left(deadline))
            sock = (context or ssl.create_default_context()).wrap_socket(sock, server_hostname=target.host)
        except BaseException:
            sock.close()
            raise
    return _Stream(sock, deadline)


def _send_request(target: _Target, stream: _Stream) -> http.client.HTTPResponse:
    lines = [f"GET {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in target.headers.items())]
    stream.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    answer = http.client.HTTPResponse(stream, method="GET")  # type: ignore[arg-type]  # it only calls makefile()
    try:
        answer.begin()
    except BaseException:
        answer.close()
        raise
    return answer


def _read_body(answer: http.client.HTTPResponse, shown: str, max_bytes: int) -> bytes:
    if answer.status in (404, 410):
        raise _make_error(shown, f"the server answers {answer.status}, no such photo", "missing")
    if answer.status != 200:
        phrase = http.HTTPStatus(answer.status).phrase if answer.status in set(http.HTTPStatus) else ""
        raise _make_error(shown, f"the server answers {answer.status} {phrase}".rstrip())
    too_large = _make_error(shown, f"over the limit of {max_bytes} bytes", "too_large")
    if (answer.length or 0) > max_bytes:  # Content-Length, so that nothing need be read
        raise too_large
    body = bytearray()
    while chunk := answer.read(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    if answer.length:  # what Content-Length promised and the server did not send
        raise _make_error(shown, f"the download broke off, {answer.length} bytes short")
    return bytes(body)


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _make_error(shown: str, message: str, reason: ImageReason = "unreadable") -> ImageError:
    return ImageError(f"{shown}: {message}", reason)
