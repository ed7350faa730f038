"""Read the files out of a multipart/form-data body (RFC 7578) that lies in memory as a whole."""

from __future__ import annotations

import re
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import Final, NamedTuple

_MOST_HEADER: Final = 8192  # bytes of a part's header
_MOST_BOUNDARY: Final = 70  # characters, RFC 2046
# What browsers write for the characters that would end a name (WHATWG HTML, multipart/form-data encoding algorithm).
_BROWSER_ESCAPES: Final = {"%22": '"', "%0D": "\r", "%0A": "\n"}


class Part(NamedTuple):
    """One field of a form."""

    name: str
    filename: str | None
    data: bytes


def parse_multipart(body: bytes, content_type: str, most: int) -> list[Part]:
    """Return the parts in their order, ``most`` + 1 of them where there are more.

    Raises ValueError, which says what is wrong in a few words.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if not boundary or len(boundary) > _MOST_BOUNDARY or not boundary.isascii():
        raise ValueError("its Content-Type names no boundary")
    sections = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("ascii"), most + 2)  # before, between, behind them
    if len(sections) <= most + 2 and (len(sections) < 2 or not sections.pop().startswith(b"--")):
        raise ValueError("it does not end with its boundary")
    return [_parse_part(section) for section in sections[1 : most + 2]]


def _parse_part(section: bytes) -> Part:
    padding, _, rest = section.partition(b"\r\n")
    header, blank_line, data = (b"\r\n" + rest).partition(b"\r\n\r\n")
    if padding.strip(b" \t") or not blank_line or len(header) > _MOST_HEADER:
        raise ValueError("a part has no header")
    message = Message()
    for line in header.decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            message["Content-Disposition"] = value.strip()
    name, filename = _get(message, "name"), _get(message, "filename")
    if message.get_content_disposition() != "form-data" or name is None:
        raise ValueError("a part has no name")
    return Part(name, filename, data)


def _get(message: Message, key: str) -> str | None:
    value = message.get_param(key, header="content-disposition")
    if value is None:
        return None
    return re.sub("%22|%0D|%0A", lambda escape: _BROWSER_ESCAPES[escape[0]], collapse_rfc2231_value(value))
