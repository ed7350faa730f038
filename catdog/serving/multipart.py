"""Read the files out of a multipart/form-data body (RFC 7578) that lies in memory as a whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.message import Message
from typing import Final, NamedTuple
from urllib.parse import unquote

_MOST_HEADER: Final = 8192  # bytes of a part's header
_MOST_BOUNDARY: Final = 70  # characters, RFC 2046
_FIELD: Final = re.compile(r';\s*([\w*-]+)\s*=\s*(?:"([^"]*)"|([^\s;"]*))')
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
    disposition = re.search(
        r"\r\ncontent-disposition:\s*form-data\s*(;.*)", header.decode("utf-8", "replace"), re.IGNORECASE
    )
    fields = {
        key.lower(): quoted or bare for key, quoted, bare in _FIELD.findall(disposition[1] if disposition else "")
    }
    if "name" not in fields:
        raise ValueError("a part has no name")
    return Part(_unescape(fields["name"]), _get_filename(fields), data)


def _get_filename(fields: Mapping[str, str]) -> str | None:
    if "filename" in fields:
        return _unescape(fields["filename"])
    _, found, encoded = fields.get("filename*", "").partition("''")  # RFC 5987, which some clients write all the same
    return unquote(encoded) if found else None


def _unescape(name: str) -> str:
    return re.sub("%22|%0D|%0A", lambda escape: _BROWSER_ESCAPES[escape[0]], name)
